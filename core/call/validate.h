// SPDX-License-Identifier: Apache-2.0
// Every check of the arguments of a call, once. Nothing is written before these pass.
#pragma once

#include <cstring>

#include "core/base/context.h"
#include "core/call/problem.h"

namespace mha {

// Size queries and explain pass kSizesOnly: data pointers may be null and are not followed. kNoResults is for partial
// results: the inputs must be there, the results need not, since a merge makes them.
enum class Check { kSizesOnly, kNoResults, kAll };

// bound_over: the cache of the calls that a bound is for, which the args of the bound leave out: its types of keys and
// values count.
mha_status validate_attention(const mha_attention_args* args, Check check, AttentionProblem* problem, mha_error* error,
                              const mha_cache* bound_over = nullptr);
// Refuses partial results, `floats` of them, that overlap query, keys or values.
mha_status check_partials_overlap(const mha_attention_args& args, const AttentionProblem& problem,
                                  const float* partials, int64_t floats, mha_error* error);

// The views of a layer call, without heads.
struct ForwardViews {
  ConstTensor query, key, value;
  Tensor output;
};
// problem->tail must be set: the keys that the layer adds.
mha_status validate_forward(const mha_layer_config& config, const mha_layer_args* args, Check check,
                            ForwardViews* views, AttentionProblem* problem, mha_error* error,
                            const mha_cache* bound_over = nullptr);

mha_status validate_layer_config(const mha_layer_config* config, mha_layer_config* resolved, mha_error* error);

mha_status validate_rows(const mha_rows_args& args, Check check, NormRopeProblem* problem, mha_error* error);

// Copies the context for one call and applies the call's `resources` to the copy: threads and the host's `user`.
mha_status lend(const mha_context& context, const mha_resources* resources, mha_context* lent, mha_error* error);

}  // namespace mha
