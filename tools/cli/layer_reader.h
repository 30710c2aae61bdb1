// SPDX-License-Identifier: Apache-2.0
// Reads the tensors of one layer after a prefix: weights in their own type, codes with their scales, biases as floats.
#ifndef MHA_TOOLS_CLI_LAYER_READER_H
#define MHA_TOOLS_CLI_LAYER_READER_H

#include <mha/mha.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tools/cli/weight_file.h"

namespace mha::cli {

// A weight [out, in] as the file stores it; only what the library has no type for (F64) is rounded to floats.
struct StoredWeight {
  std::vector<std::int64_t> shape;
  std::string type_name;  // as the file spells it
  mha_dtype dtype = MHA_F32;
  std::vector<std::byte> data, scales, zeros;
  mha_quant quant{};  // of I8, points into scales and zeros

  mha_view view() const {
    mha_view made{};
    made.data = data.data(), made.dtype = dtype;
    if (dtype == MHA_I8) made.quant = &quant;
    return made;
  }
};

class LayerReader {
 public:
  LayerReader(const WeightFile& file, std::string prefix) : file_(file), prefix_(std::move(prefix)) {}

  const WeightFile& file() const { return file_; }
  bool has(const std::string& name) const { return file_.find(prefix_ + name) != nullptr; }
  // Throws Failure: "FILE: tensor 'NAME' of shape [..]: why".
  [[noreturn]] void fail(const std::string& name, const std::string& why) const;

  // A matrix, no dimension of which is 0. I8 codes need a tensor NAME_scale of one, [out], [out, 1] or [out, groups]
  // scales in F32, F16 or BF16, and may have NAME_zero_point of the same shape in I8: compressed-tensors' int-quantized
  // format.
  const StoredWeight& read_weight(const std::string& name);
  // [size] floats; null if there is none. `of` is the weight that it belongs to.
  const float* read_bias(const std::string& name, std::int64_t size, const std::string& of);

  // What was read; the pointers above point into it.
  std::map<std::string, StoredWeight> take_weights() { return std::move(weights_); }
  std::map<std::string, io::Tensor<float>> take_biases() { return std::move(biases_); }

 private:
  const WeightInfo& find(const std::string& name, std::size_t rank) const;
  void read_scales(const std::string& name, StoredWeight& weight) const;

  const WeightFile& file_;
  std::string prefix_;
  std::map<std::string, StoredWeight> weights_;
  std::map<std::string, io::Tensor<float>> biases_;
};

}  // namespace mha::cli

#endif  // MHA_TOOLS_CLI_LAYER_READER_H
