// SPDX-License-Identifier: Apache-2.0
// Any bytes as a GGUF file: a list of tensors whose bytes can be read, or one line of error, nothing else.
#include <cstring>
#include <string>
#include <vector>

#include "tools/fuzz/fuzz.h"
#include "tools/io/gguf.h"
#include "tools/io/tensor.h"

namespace {

using mha::io::Gguf;
using mha::io::GgufTensor;
using mha::io::Source;

template <class T>
std::string number(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}
std::string text(const std::string& value) { return number(static_cast<std::uint64_t>(value.size())) + value; }

std::string tensor(const std::string& name, const std::vector<std::uint64_t>& dims, std::uint32_t type,
                   std::uint64_t offset) {
  std::string made = text(name) + number(static_cast<std::uint32_t>(dims.size()));
  for (const std::uint64_t dim : dims) made += number(dim);
  return made + number(type) + number(offset);
}

// Metadata of every kind, and tensors of blocks and floats.
std::string whole_file() {
  std::string made = "GGUF" + number(std::uint32_t{3}) + number(std::uint64_t{3}) + number(std::uint64_t{5});
  made += text("general.architecture") + number(std::uint32_t{8}) + text("llama");
  made += text("general.alignment") + number(std::uint32_t{4}) + number(std::uint32_t{32});
  made += text("a") + number(std::uint32_t{9}) + number(std::uint32_t{5}) + number(std::uint64_t{2}) +
          number(std::int32_t{1}) + number(std::int32_t{-2});
  made +=
      text("t") + number(std::uint32_t{9}) + number(std::uint32_t{8}) + number(std::uint64_t{2}) + text("x") + text("");
  made += text("f") + number(std::uint32_t{12}) + number(0.5);
  made += tensor("q", {32, 2}, 8, 0) + tensor("h", {3}, 1, 96) + tensor("z", {0, 4}, 0, 128);
  made.resize((made.size() + 31) / 32 * 32);
  return made + std::string(160, '\x3f');
}

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned random) {
  static const std::vector<std::string> seeds = {
      whole_file(), "GGUF" + number(std::uint32_t{2}) + number(std::uint64_t{0}) + number(std::uint64_t{0})};
  return mha::fuzz::mutate_or_seed(data, size, max_size, random, seeds);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto file = Gguf::open(Source::memory(data, size, "fuzz"));
  if (!file) {
    MHA_FUZZ_CHECK(!file.message().empty() && file.message().find('\n') == std::string::npos, "%s",
                   file.message().c_str());
    return 0;
  }
  for (const GgufTensor& each : file->tensors()) {
    MHA_FUZZ_CHECK(file->find(each.name) == &each, "%s", each.name.c_str());
    const auto bytes = file->read_bytes(each.name);
    if (bytes) {
      MHA_FUZZ_CHECK(bytes->size() == each.bytes, "%s", each.name.c_str());
      MHA_FUZZ_CHECK(bytes->size() <= size, "%s", each.name.c_str());
    } else {
      MHA_FUZZ_CHECK(each.type == mha::io::GgufType::kOther && !bytes.message().empty(), "%s", each.name.c_str());
    }
  }
  MHA_FUZZ_CHECK(file->integers("general.alignment").size() <= 1, "alignment");
  (void)file->number("f");
  (void)file->text("general.architecture");
  return 0;
}
