// SPDX-License-Identifier: Apache-2.0
// The attention stage: phases of work items over (item of the batch, key/value head) x query block x key chunk.
#pragma once

#include "core/plan/plan.h"
#include "core/run/parallel.h"

namespace mha {

// What a thread has to itself.
struct Slot {
  float* scratch;
  AttentionRow* rows;
  RowExtras* extras;  // null: the problem has none
  RowState* states;
  float* maxima;  // of chunks, for weights

  RowExtras* extras_of(int64_t row) const { return extras != nullptr ? extras + row : nullptr; }
};
Slot slot_memory(const AttentionJob& job, int64_t slot);

// The states of a call's rows: those of item b [H][Tq] from its first query on.
RowState* row_states(const AttentionJob& job, int64_t b);

// An item of the batch as planned, and what of it is meant: number `index` of its work items, merges or second pass.
struct Place {
  SequencePlan plan;
  int64_t b, index;
};
// Finds number `index` of the whole call; `count` and `first` say of what.
Place find_place(const AttentionJob& job, int64_t index, int64_t SequencePlan::*count, int64_t SequencePlan::*first);

// Writes the log-sum-exp of rows [row, row + count) of item b, if it is wanted.
void write_log_sum_exp(const AttentionJob& job, int64_t b, int64_t row, int64_t count);

// A work item of a plan with few keys (few_keys.cpp).
void run_few_keys(const void* job, int64_t item, int64_t slot);

// A work item of the second pass over the scores (weights.cpp): weights that are not kept on the way.
void run_weights(const void* job, int64_t item, int64_t slot);

// The phases that compute all results, three at most; `job` must stay until they have run.
int attention_phases(const AttentionJob& job, Phase* phases);

// Runs a planned call on its own, on the caller's workspace or one for the time of the call.
mha_status run_attention(const mha_context& context, const mha_resources* resources, AttentionJob* job,
                         mha_error* error);

}  // namespace mha
