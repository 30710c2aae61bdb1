// SPDX-License-Identifier: Apache-2.0
// The linear behind the public handle: packed weights, in memory of its own or mapped from a blob; and the arguments of
// its calls.
#pragma once

#include "core/base/fields.h"
#include "core/call/validate.h"
#include "core/kernels/kernel_table.h"

struct mha_linear {
  int64_t in_features, out_features;
  const char* panels;
  mha::Element element;  // of the panels
  mha::Arithmetic arithmetic;
  const float* bias;  // padded, or null
  const void* blob;   // header and packed weights
  size_t blob_bytes;
  mha_allocator allocator;
  size_t bytes;  // of the allocation that begins with this struct
};

namespace mha {

// Bytes of the packed weights [ceil(out / 16)][packed_depth(in)][16], and of the bias padded to whole panels.
inline Size packed_weight_bytes(Arithmetic arithmetic, int64_t in_features, int64_t out_features, Element element) {
  return Size(divide_up(out_features, kPanel)) * Size(packed_depth(arithmetic, in_features)) * Size(kPanel) *
         Size(bytes_of(element));
}
inline Size packed_bias_bytes(int64_t out_features) {
  return Size(divide_up(out_features, kPanel)) * Size(kPanel) * Size(kFloatBytes);
}

// The element type of the packed weights: that of `packed`, or the given type if `packed` is NULL. BF16 keeps bf16.
inline Element packed_element(Arithmetic arithmetic, const mha_storage* packed, Element given) {
  if (arithmetic == Arithmetic::kBf16) return Element::kBf16;
  return packed != nullptr ? static_cast<Element>(enum_value(packed->dtype)) : given;
}

// Weights [out, in] as a caller gives them: rows stride_t apart.
mha_status check_weight(const char* name, const mha_view& weight, int64_t out_features, int64_t in_features,
                        ConstTensor* out, mha_error* error);

mha_status validate_linear_config(const mha_linear_config& config, ConstTensor* weight, mha_error* error);

// A public call's arguments, checked, with every default filled in.
mha_status linear_problem(const mha_linear& linear, const mha_linear_args& args, Check check, LinearProblem* problem,
                          mha_error* error);

}  // namespace mha
