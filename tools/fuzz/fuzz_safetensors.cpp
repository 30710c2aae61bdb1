// SPDX-License-Identifier: Apache-2.0
// Any bytes as a .safetensors file: a list of tensors that can be read, or one line of error, nothing else.
#include <cstring>
#include <map>

#include "tools/fuzz/fuzz.h"
#include "tools/io/safetensors.h"

namespace {

using mha::io::Safetensors;
using mha::io::Source;
using mha::io::Tensor;
using mha::io::TensorInfo;

template <class T>
void read_as(const Safetensors& file, const TensorInfo& info) {
  const auto tensor = file.read<T>(info.name);
  if (tensor) {
    MHA_FUZZ_CHECK(tensor->shape == info.shape, "shape");
    MHA_FUZZ_CHECK(static_cast<std::size_t>(mha::io::shape_elements(info.shape)) == tensor->values.size(), "size");
  } else {
    MHA_FUZZ_CHECK(!tensor.message().empty(), "no message");
  }
}

// Everything that can be read as float is written and must come back in every bit.
void check_round_trip(const Safetensors& file) {
  std::map<std::string, Tensor<float>> tensors;
  for (const TensorInfo& info : file.tensors()) {
    auto tensor = file.read<float>(info.name);
    if (tensor) tensors[info.name] = *std::move(tensor);
  }
  const auto bytes = mha::io::safetensors_bytes(tensors, file.metadata());
  MHA_FUZZ_CHECK(bytes, "%s", bytes.message().c_str());
  const auto again = Safetensors::open(Source::memory(bytes->data(), bytes->size(), "again"));
  MHA_FUZZ_CHECK(again, "%s", again.message().c_str());
  MHA_FUZZ_CHECK(again->metadata() == file.metadata(), "metadata");
  for (const auto& [name, tensor] : tensors) {
    const auto copy = again->read<float>(name);
    MHA_FUZZ_CHECK(copy, "%s", copy.message().c_str());
    MHA_FUZZ_CHECK(copy->shape == tensor.shape, "shape");
    MHA_FUZZ_CHECK(tensor.values.empty() || std::memcmp(copy->values.data(), tensor.values.data(),
                                                        tensor.values.size() * sizeof(float)) == 0,
                   "values");
  }
}

std::string with_header(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + std::string(data_bytes, '\x3f');
}

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned random) {
  static const std::vector<std::string> seeds = {
      *mha::io::safetensors_bytes({{"a", {{2, 2}, {1, 2, 3, 4}}}, {"b", {{1}, {5}}}}, {{"format", "pt"}}),
      with_header(R"({"h":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},)"
                  R"("d":{"dtype":"F64","shape":[],"data_offsets":[4,12]}})",
                  12),
      with_header(R"({"b":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]},)"
                  R"("i":{"dtype":"I64","shape":[1,1],"data_offsets":[2,10]},)"
                  R"("t":{"dtype":"BOOL","shape":[3],"data_offsets":[10,13]}})",
                  13)};
  return mha::fuzz::mutate_or_seed(data, size, max_size, random, seeds);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto file = Safetensors::open(Source::memory(data, size, "fuzz"));
  if (!file) {
    MHA_FUZZ_CHECK(!file.message().empty() && file.message().find('\n') == std::string::npos, "%s",
                   file.message().c_str());
    return 0;
  }
  for (const TensorInfo& info : file->tensors()) {
    read_as<float>(*file, info);
    read_as<double>(*file, info);
    read_as<std::uint8_t>(*file, info);
    read_as<std::int64_t>(*file, info);
  }
  check_round_trip(*file);
  return 0;
}
