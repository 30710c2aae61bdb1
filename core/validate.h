// SPDX-License-Identifier: Apache-2.0
// Every check of the arguments of a call, once. Nothing is written before these pass.
#pragma once

#include <cstring>

#include "core/problem.h"

namespace mha {

// Size queries and explain pass kSizesOnly: pointers may be null and are not read through. Partial results go elsewhere
// than results: kNoResults does not ask for those.
enum class Check { kSizesOnly, kNoResults, kAll };

mha_status validate_attention(const mha_attention_args* args, Check check, AttentionProblem* problem, mha_error* error);

// The views of a layer call, without heads. problem->tail must be set: the keys that the layer adds.
struct ForwardViews {
  ConstTensor query, key, value;
  Tensor output;
};
mha_status validate_forward(const mha_layer_config& config, const mha_forward_args* args, Check check,
                            ForwardViews* views, AttentionProblem* problem, mha_error* error);

// How long the items of a batch are; the lengths of *problem must be set. Offsets and sequences are read even for
// sizes.
struct ItemArgs {
  const int64_t* query_offsets;
  const int64_t* key_offsets;
  const mha_cache* cache;
  const int64_t* sequences;
};
mha_status check_items(const ItemArgs& args, AttentionProblem* problem, mha_error* error);
// Whether a ring still keeps what the masks show.
mha_status check_ring(const AttentionProblem& problem, mha_error* error);
mha_status check_weight_rows(const mha_weight_rows& rows, AttentionProblem* problem, mha_error* error);

mha_status validate_layer_config(const mha_layer_config* config, mha_layer_config* resolved, mha_error* error);

// A view given as [b, t, h, d], with its strides resolved; pointers are not looked at where a size is 0.
struct ViewSizes {
  int64_t b, t, h, d;
};
mha_status check_view(const char* name, const mha_view& view, const ViewSizes& sizes, ConstTensor* out,
                      mha_error* error);
mha_status check_view(const char* name, const mha_mut_view& view, const ViewSizes& sizes, Tensor* out,
                      mha_error* error);

// What a caller put into an enum, which may be no value of it: reading that as the enum is undefined.
template <class Enum>
int enum_value(const Enum& e) {
  static_assert(sizeof(Enum) == sizeof(int), "enums of the interface are ints");
  int value = 0;
  memcpy(&value, &e, sizeof(value));
  return value;
}

// value in [least, 2^62], else MHA_ERR_ARGUMENT or MHA_ERR_OVERFLOW naming it.
mha_status check_size(const char* name, int64_t value, int64_t least, mha_error* error);

}  // namespace mha
