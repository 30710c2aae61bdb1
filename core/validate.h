// SPDX-License-Identifier: Apache-2.0
// Every check of the arguments of a call, once. Nothing is written before these pass.
#pragma once

#include <cstring>

#include "core/problem.h"

namespace mha {

// Size queries and explain pass kSizesOnly: pointers may be null and are not read through.
enum class Check { kSizesOnly, kAll };

// Sizes of a view, and the order in which it is dense where no strides are given.
struct Dimensions {
  int64_t b, t, h, d;
};
enum class Order { kBthd, kBhtd };

mha_status check_input(const char* name, const mha_view& view, const Dimensions& sizes, Check check, ConstTensor* out,
                       mha_error* error);
mha_status check_result(const char* name, const mha_mut_view& view, const Dimensions& sizes, Order order, Check check,
                        Tensor* out, mha_error* error);

// What a caller put into an enum, which may be no value of it: reading that as the enum is undefined.
template <class Enum>
int enum_value(const Enum& e) {
  static_assert(sizeof(Enum) == sizeof(int), "enums of the interface are ints");
  int value = 0;
  memcpy(&value, &e, sizeof(value));
  return value;
}

mha_status validate_attention(const mha_attention_args* args, Check check, AttentionProblem* problem, mha_error* error);

// The views of a layer call, without heads. The masks are checked into *problem, whose sizes must be set.
struct ForwardViews {
  ConstTensor query, key, value;
  Tensor output;
};
mha_status validate_forward(const mha_layer_config& config, const mha_forward_args* args, Check check,
                            ForwardViews* views, AttentionProblem* problem, mha_error* error);

mha_status validate_layer_config(const mha_layer_config* config, mha_layer_config* resolved, mha_error* error);

// value in [least, 2^62], else MHA_ERR_ARGUMENT or MHA_ERR_OVERFLOW naming it.
mha_status check_size(const char* name, int64_t value, int64_t least, mha_error* error);

}  // namespace mha
