// SPDX-License-Identifier: Apache-2.0
// Weights in their own type; see layer_reader.h.
#include "tools/cli/layer_reader.h"

#include <cstring>

#include "tools/cli/support.h"
#include "tools/cli/weight_names.h"

namespace mha::cli {

void LayerReader::fail(const std::string& name, const std::string& why) const {
  const WeightInfo* info = file_.find(prefix_ + name);
  throw Failure(file_.label() + ": tensor '" + prefix_ + name + "' of shape " +
                (info != nullptr ? io::shape_text(info->shape) : "[]") + ": " + why);
}

const WeightInfo& LayerReader::find(const std::string& name, std::size_t rank) const {
  const WeightInfo* info = file_.find(prefix_ + name);
  if (info == nullptr) throw Failure(file_.label() + ": no tensor '" + prefix_ + name + "'" + layers_hint(file_));
  if (info->shape.size() != rank) {
    fail(name, "must have " + std::to_string(rank) + " dimensions");
  }
  for (const std::int64_t dim : info->shape) {
    if (dim == 0) fail(name, "is empty");
  }
  return *info;
}

const StoredWeight& LayerReader::read_weight(const std::string& name) {
  const WeightInfo& info = find(name, 2);
  StoredWeight& weight = weights_[name];
  weight.shape = info.shape;
  weight.type_name = info.type_name;
  if (info.dtype) {
    weight.dtype = *info.dtype;
    weight.data = take(file_.read_bytes(info.name));
  } else if (file_.gguf() != nullptr) {
    fail(name, info.type_name + " is not supported: F32, F16, BF16, Q8_0 and Q4_0 are");
  } else {
    const io::Tensor<float> floats = take(file_.read_floats(info.name));
    weight.data.resize(floats.values.size() * sizeof(float));
    std::memcpy(weight.data.data(), floats.values.data(), weight.data.size());
  }
  if (weight.dtype == MHA_I8) read_scales(name, weight);
  return weight;
}

void LayerReader::read_scales(const std::string& name, StoredWeight& weight) const {
  const std::int64_t rows = weight.shape[0], columns = weight.shape[1];
  const std::string scales = name + "_scale", zeros = name + "_zero_point";
  const WeightInfo* info = file_.find(prefix_ + scales);
  if (info == nullptr) fail(name, "I8 needs a tensor '" + prefix_ + scales + "' of scales");
  std::int64_t groups = 1;
  const std::int64_t count = io::shape_elements(info->shape);
  if (info->shape.size() == 2) groups = info->shape[1];
  const bool per_tensor = count == 1 && info->shape.size() <= 1;
  const bool per_row = !info->shape.empty() && info->shape.size() <= 2 && info->shape[0] == rows && groups >= 1;
  if (!per_tensor && (!per_row || columns % groups != 0)) {
    fail(scales, "must be [1], [out], [out, 1] or [out, groups] for weights " + io::shape_text(weight.shape));
  }
  if (!info->dtype || *info->dtype == MHA_I8) fail(scales, info->type_name + " is not F32, F16 or BF16");
  weight.scales = take(file_.read_bytes(info->name));
  weight.quant.scales = weight.scales.data();
  weight.quant.scale_dtype = *info->dtype;
  weight.quant.stride_t = per_tensor ? 0 : groups;
  if (groups > 1) weight.quant.group = columns / groups, weight.quant.stride_d = 1;
  const WeightInfo* zero = file_.find(prefix_ + zeros);
  if (zero == nullptr) return;
  if (zero->shape != info->shape) fail(zeros, "must be as the scales, " + io::shape_text(info->shape));
  if (!zero->dtype || *zero->dtype != MHA_I8) fail(zeros, zero->type_name + " is not I8");
  weight.zeros = take(file_.read_bytes(zero->name));
  weight.quant.zeros = weight.zeros.data();
  weight.quant.zero_dtype = MHA_I8;
}

const float* LayerReader::read_bias(const std::string& name, std::int64_t size, const std::string& of) {
  if (!has(name)) return nullptr;
  const WeightInfo& info = find(name, 1);
  if (info.shape[0] != size) fail(name, of + " needs " + std::to_string(size) + " elements");
  return (biases_[name] = take(file_.read_floats(info.name))).values.data();
}

}  // namespace mha::cli
