// SPDX-License-Identifier: Apache-2.0
// The GGUF format (versions 2 and 3), read only: lists tensors and the metadata that an attention layer needs, reads the bytes
// of a tensor.
// The file may be hostile: counts, lengths, shape products and offsets are checked against the size of the file before
// anything is allocated for them, tensors must not overlap, and every error is one line that names the file and the
// tensor or key. Types of blocks that this reader does not widen are listed by their name, with their extents checked.
#ifndef MHA_TOOLS_IO_GGUF_H
#define MHA_TOOLS_IO_GGUF_H

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tools/io/result.h"
#include "tools/io/source.h"

namespace mha::io {

// Tensor types that can be read; others are kOther.
enum class GgufType { kF32, kF16, kBF16, kQ8_0, kQ4_0, kOther };

struct GgufTensor {
  std::string name;
  std::string type_name;  // "Q4_K"; "type 99" where the format's list, as this reader knows it, has none
  GgufType type = GgufType::kOther;
  std::vector<std::int64_t> shape;  // outermost first, as torch has it: the reverse of the file's order
  std::uint64_t begin = 0;          // from the start of the data, not of the file
  std::uint64_t bytes = 0;          // 0 where the type is not known
};

class Gguf {
 public:
  // Whether the file begins as this format does.
  static bool is(const Source& source);
  // Reads and checks everything in front of the data. A memory source is not copied and must outlive this.
  static Result<Gguf> open(Source source);

  // In the order of the file.
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const GgufTensor* find(const std::string& name) const;  // nullptr if there is none
  const std::string& label() const { return source_.label(); }

  // Metadata: integers (one, or those of an array; empty if there are none of that key), numbers, text.
  std::vector<std::int64_t> integers(const std::string& key) const;
  std::optional<double> number(const std::string& key) const;
  std::optional<std::string> text(const std::string& key) const;

  // The bytes of a tensor, of any type that is known.
  Result<std::vector<std::byte>> read_bytes(const std::string& name) const;

 private:
  friend class GgufParser;
  explicit Gguf(Source source) : source_(std::move(source)) {}

  Source source_;
  std::uint64_t data_offset_ = 0;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, std::size_t> index_;
  std::map<std::string, std::vector<std::int64_t>> integers_;
  std::map<std::string, double> numbers_;
  std::map<std::string, std::string> texts_;
};

}  // namespace mha::io

#endif  // MHA_TOOLS_IO_GGUF_H
