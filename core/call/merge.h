// SPDX-License-Identifier: Apache-2.0
// Calls on parts of attention, after validation.
#pragma once

#include "core/call/validate.h"

namespace mha {

// Partial results of all chunks to be merged.
struct PartialsProblem {
  mha_merge_partials_args args;
  Tensor output;
  int64_t rows;
};

// As validate_attention, for partial results; *floats is the size of the partial results of all chunks.
mha_status validate_partial(const mha_attention_args* args, Check check, AttentionProblem* problem, int64_t* floats,
                            mha_error* error);
mha_status validate_merge_partials(const mha_merge_partials_args& args, PartialsProblem* problem, mha_error* error);
mha_status validate_merge(const mha_merge_args& args, mha_error* error);

}  // namespace mha
