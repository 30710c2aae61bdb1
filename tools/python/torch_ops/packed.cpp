// SPDX-License-Identifier: Apache-2.0
#include "packed.h"

#include "runtime.h"

namespace mha_torch {
namespace {

mha_dtype stored_dtype(const std::string& text, const char* name) {
  const struct {
    const char* text;
    mha_dtype dtype;
  } known[] = {{"f32", MHA_F32},  {"f16", MHA_F16}, {"bf16", MHA_BF16}, {"int8", MHA_I8},
               {"uint8", MHA_U8}, {"int4", MHA_I4}, {"uint4", MHA_U4}};
  for (const auto& entry : known) {
    if (text == entry.text) return entry.dtype;
  }
  fail(std::string(name) + " \"" + text + "\" is none of f32, f16, bf16, int8, uint8, int4, uint4");
}

const void* packed_data(const Tensor& packed) {
  require(packed.scalar_type() == ScalarType::Byte && packed.dim() == 1,
          "packed must be a uint8 tensor of 1 dimension");
  const void* data = data_of(packed);
  require(packed.is_contiguous() && reinterpret_cast<uintptr_t>(data) % 4 == 0,
          "packed must be contiguous and begin at an address that is a multiple of 4: call .clone() on it");
  return data;
}

}  // namespace

const mha_storage* Storage::make() {
  if (dtype_.empty()) {
    require(group_ == 0 && scale_dtype_.empty() && !zero_points_, "group, scale_dtype and zero_points need a dtype");
    return nullptr;
  }
  storage_.dtype = stored_dtype(dtype_, "dtype");
  if (!scale_dtype_.empty()) storage_.scale_dtype = stored_dtype(scale_dtype_, "scale_dtype");
  storage_.group = group_;
  storage_.zero_points = zero_points_ ? 1 : 0;
  return &storage_;
}

LinearHandle map_linear(const Tensor& packed) {
  mha_linear* linear = nullptr;
  mha_error error = {};
  check(mha_linear_map(current_context(), packed_data(packed), static_cast<size_t>(packed.numel()), &linear, &error),
        error);
  return LinearHandle(linear);
}

LayerHandle map_layer(const Tensor& packed) {
  mha_layer* layer = nullptr;
  mha_error error = {};
  check(mha_layer_map(current_context(), packed_data(packed), static_cast<size_t>(packed.numel()), &layer, &error),
        error);
  return LayerHandle(layer);
}

}  // namespace mha_torch
