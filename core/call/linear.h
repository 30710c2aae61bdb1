// SPDX-License-Identifier: Apache-2.0
// The linear behind the public handle: packed weights, in memory of its own or mapped from a blob; and the arguments of
// its calls.
#pragma once

#include "core/base/fields.h"
#include "core/call/validate.h"
#include "core/call/weight_source.h"
#include "core/kernels/kernel_table.h"

struct mha_linear {
  int64_t in_features, out_features;
  mha::PackedWeight weight;
  mha::Arithmetic arithmetic;
  const float* bias;  // padded, or null
  const void* blob;   // header and packed weights
  size_t blob_bytes;
  mha_allocator allocator;
  size_t bytes;  // of the allocation that begins with this struct
};

namespace mha {

// Bytes of the bias padded to whole panels.
inline Size packed_bias_bytes(int64_t out_features) {
  return Size(divide_up(out_features, kPanel)) * Size(kPanel) * Size(kFloatBytes);
}

mha_status validate_linear_config(const mha_linear_config& config, WeightSource* weight, mha_error* error);

// A public call's arguments, checked, with every default filled in.
mha_status linear_problem(const mha_linear& linear, const mha_linear_args& args, Check check, LinearProblem* problem,
                          mha_error* error);

}  // namespace mha
