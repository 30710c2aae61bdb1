// SPDX-License-Identifier: Apache-2.0
// A file of weights, .safetensors or GGUF, seen alike: its tensors in the types in which the library takes them.
#ifndef MHA_TOOLS_CLI_WEIGHT_FILE_H
#define MHA_TOOLS_CLI_WEIGHT_FILE_H

#include <mha/mha.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tools/io/gguf.h"
#include "tools/io/result.h"
#include "tools/io/safetensors.h"
#include "tools/io/tensor.h"

namespace mha::cli {

struct WeightInfo {
  std::string name;
  std::string type_name;           // as the file spells it: "BF16", "Q8_0"
  std::optional<mha_dtype> dtype;  // the library's type; none: it has no such type
  std::vector<std::int64_t> shape;
};

class WeightFile {
 public:
  // Looks at the first bytes of the file to tell the formats apart.
  static io::Result<WeightFile> open(const std::string& path);
  static io::Result<WeightFile> open(io::Source source);

  const std::vector<WeightInfo>& tensors() const { return tensors_; }
  const WeightInfo* find(const std::string& name) const;
  const std::string& label() const;
  // Null for .safetensors.
  const io::Gguf* gguf() const { return gguf_ ? &*gguf_ : nullptr; }

  io::Result<std::vector<std::byte>> read_bytes(const std::string& name) const;
  // F32, F16, BF16 and F64, widened or rounded to float.
  io::Result<io::Tensor<float>> read_floats(const std::string& name) const;

 private:
  WeightFile() = default;

  std::optional<io::Safetensors> safetensors_;
  std::optional<io::Gguf> gguf_;
  std::vector<WeightInfo> tensors_;
  std::map<std::string, std::size_t> index_;
};

}  // namespace mha::cli

#endif  // MHA_TOOLS_CLI_WEIGHT_FILE_H
