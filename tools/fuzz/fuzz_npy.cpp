// SPDX-License-Identifier: Apache-2.0
// Any bytes as a .npy file: an array or one line of error, nothing else; what was read is written and read back alike.
#include <cstring>

#include "tools/fuzz/fuzz.h"
#include "tools/io/npy.h"

namespace {

using mha::io::Scalar;
using mha::io::Source;

template <class T>
void read_as(const Source& source) {
  const auto tensor = mha::io::read_npy<T>(source);
  if (!tensor) {
    MHA_FUZZ_CHECK(!tensor.message().empty() && tensor.message().find('\n') == std::string::npos, "%s",
                   tensor.message().c_str());
    return;
  }
  MHA_FUZZ_CHECK(static_cast<std::size_t>(mha::io::shape_elements(tensor->shape)) == tensor->values.size(), "size");
  MHA_FUZZ_CHECK(tensor->values.size() <= source.size(), "more elements than bytes");
  if constexpr (std::is_same_v<T, float>) {
    std::string file = mha::io::npy_header(Scalar::kF32, tensor->shape);
    file.append(reinterpret_cast<const char*>(tensor->values.data()), tensor->values.size() * sizeof(float));
    const auto again = mha::io::read_npy<float>(Source::memory(file.data(), file.size(), "again"));
    MHA_FUZZ_CHECK(again, "%s", again.message().c_str());
    MHA_FUZZ_CHECK(again->shape == tensor->shape && again->values.size() == tensor->values.size(), "shape");
    MHA_FUZZ_CHECK(tensor->values.empty() || std::memcmp(again->values.data(), tensor->values.data(),
                                                         tensor->values.size() * sizeof(float)) == 0,
                   "values");
  }
}

std::string seed(Scalar scalar, const std::vector<std::int64_t>& shape) {
  const auto elements = static_cast<std::size_t>(mha::io::shape_elements(shape));
  return mha::io::npy_header(scalar, shape) + std::string(elements * mha::io::scalar_bytes(scalar), '\x3f');
}

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned random) {
  static const std::vector<std::string> seeds = {seed(Scalar::kF32, {2, 3}),    seed(Scalar::kF64, {4}),
                                                 seed(Scalar::kF16, {1, 2, 2}), seed(Scalar::kBool, {3, 1}),
                                                 seed(Scalar::kI32, {}),        seed(Scalar::kI64, {0, 5})};
  return mha::fuzz::mutate_or_seed(data, size, max_size, random, seeds);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const Source source = Source::memory(data, size, "fuzz");
  read_as<float>(source);
  read_as<double>(source);
  read_as<std::uint8_t>(source);
  read_as<std::int64_t>(source);
  return 0;
}
