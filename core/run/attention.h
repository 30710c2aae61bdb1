// SPDX-License-Identifier: Apache-2.0
// The attention stage: phases of work items over (item of the batch, key/value head) x query block x key chunk.
#pragma once

#include "core/plan/plan.h"
#include "core/run/norm_rope.h"
#include "core/run/parallel.h"

namespace mha {

// The scratch of one thread.
struct Slot {
  float* scratch;
  AttentionRow* rows;
  RowExtras* extras;  // null: the problem has none
  RowState* states;
  float* maxima;  // of chunks, for attention weights

  RowExtras* extras_of(int64_t row) const { return extras != nullptr ? extras + row : nullptr; }
};
Slot slot_memory(const AttentionJob& job, int64_t slot);

// The softmax states of item b: [H][Tq].
RowState* row_states(const AttentionJob& job, int64_t b);

// A planned item of the batch, and the number of one of its work items: in attention, the merge or the second pass.
struct Place {
  SequencePlan plan;
  int64_t b, index;
};
// Finds work item `index` of the whole call; `count` and `first` are the plan's fields for that kind of work item.
Place find_place(const AttentionJob& job, int64_t index, int64_t SequencePlan::*count, int64_t SequencePlan::*first);

// Writes the log-sum-exp of rows [row, row + count) of item b, if it is wanted.
void write_log_sum_exp(const AttentionJob& job, int64_t b, int64_t row, int64_t count);

// A work item of a plan with few keys (few_keys.cpp).
void run_few_keys(const void* job, int64_t item, int64_t slot);

// A work item of the second pass over the scores (weights.cpp), for attention weights that the first does not write.
void run_weights(const void* job, int64_t item, int64_t slot);

// The phases that compute all results, four at most; `job` and `last`, which is written, must stay until they have run.
int attention_phases(const AttentionJob& job, Phase* phases, NormRopePhase* last);

// Runs a planned call in the caller's workspace, or in one allocated for the call.
mha_status run_attention(const mha_context& context, const mha_resources* resources, AttentionJob* job,
                         mha_error* error);

}  // namespace mha
