// SPDX-License-Identifier: Apache-2.0
// The .safetensors format: lists and reads tensors, writes float32 ones.
// The file may be hostile: the header is checked as a whole (JSON shape, duplicates, dtypes, shape products, offsets
// that leave no hole and no overlap) before any tensor is read, nothing is allocated for a size the file cannot back,
// and every error is one line that names the file and the tensor. Data may start at any offset: it is copied, never
// aliased.
#ifndef MHA_TOOLS_IO_SAFETENSORS_H
#define MHA_TOOLS_IO_SAFETENSORS_H

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tools/io/result.h"
#include "tools/io/source.h"
#include "tools/io/tensor.h"

namespace mha::io {

struct TensorInfo {
  std::string name;
  std::string dtype;  // as the file spells it: "F32"
  Scalar scalar = Scalar::kOther;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;  // from the start of the data, not of the file
  std::uint64_t end = 0;
};

class Safetensors {
 public:
  // Reads and checks the header. A memory source is not copied and must outlive this.
  static Result<Safetensors> open(Source source);
  static Result<Safetensors> open(const std::string& path);

  // In the order of their data.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  // nullptr if there is none of that name.
  const TensorInfo* find(const std::string& name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::string& label() const { return source_.label(); }

  // The tensor's values as T (tensor.h lists the conversions). Fails if it is missing.
  template <class T>
  Result<Tensor<T>> read(const std::string& name) const;
  // The tensor's bytes, as the file has them, of any type. Fails if it is missing.
  Result<std::vector<std::byte>> read_bytes(const std::string& name) const;

 private:
  explicit Safetensors(Source source) : source_(std::move(source)) {}

  Source source_;
  std::uint64_t data_offset_ = 0;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::size_t> index_;
  std::map<std::string, std::string> metadata_;
};

extern template Result<Tensor<float>> Safetensors::read<float>(const std::string&) const;
extern template Result<Tensor<double>> Safetensors::read<double>(const std::string&) const;
extern template Result<Tensor<std::uint8_t>> Safetensors::read<std::uint8_t>(const std::string&) const;
extern template Result<Tensor<std::int64_t>> Safetensors::read<std::int64_t>(const std::string&) const;

// The whole file in memory, float32 tensors only; data starts at a multiple of 8 bytes.
Result<std::string> safetensors_bytes(const std::map<std::string, Tensor<float>>& tensors,
                                      const std::map<std::string, std::string>& metadata = {});
Result<void> write_safetensors(const std::string& path, const std::map<std::string, Tensor<float>>& tensors,
                               const std::map<std::string, std::string>& metadata = {});

}  // namespace mha::io

#endif  // MHA_TOOLS_IO_SAFETENSORS_H
