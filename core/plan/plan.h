// SPDX-License-Identifier: Apache-2.0
// How a call is carried out: threads, work items, workspace. Pure functions of sizes, kernel table and thread count;
// what mha_*_explain prints. Nothing decided here changes a bit of a result.
#pragma once

#include "core/call/problem.h"
#include "core/kernels/kernel_table.h"

namespace mha {

// Items for each thread where work can be cut freely, so that the last to finish is not far behind.
constexpr int64_t kItemsPerThread = 4;

// Rows of a work item where keys are few (some microseconds of work).
constexpr int64_t kFewKeysRows = 64;

// `total` cut in pieces of at most `limit`, equal as far as multiples of `unit` allow: the size of a piece.
constexpr int64_t even_piece(int64_t total, int64_t limit, int64_t unit) {
  if (total <= limit) return most(total, 1);
  return round_up(divide_up(total, divide_up(total, limit)), unit);
}

struct LinearPlan {
  int64_t block_rows;     // rows of an item, a multiple of the tile's unless it is all
  int64_t block_columns;  // columns of an item, whole panels unless it is all
  int64_t row_blocks, column_blocks;
  int64_t items;
  int64_t scratch_floats;  // of each thread; 0 where everything is F32
};

LinearPlan plan_linear(const LinearKernels& kernels, int64_t threads, const LinearProblem& problem);

// A planned product.
struct LinearJob {
  const LinearKernels* kernels;
  LinearProblem problem;
  LinearPlan plan;
  float* scratch;  // of the threads, one after the other scratch_floats apart; may be shared by the jobs of a phase
  int64_t scratch_step;
};
LinearJob make_linear_job(const KernelTable& table, int64_t threads, const LinearProblem& problem);

// How many of `tokens` make a work item: of norm and rotation; of storing in a cache.
int64_t plan_norm_rope(int64_t tokens, int64_t threads);
int64_t plan_append(int64_t tokens, int64_t threads);

// How the rows of one item of the batch are cut into work items. The counts before it (first_*) are over the whole
// call.
struct SequencePlan {
  bool in_place;  // few query rows: InPlaceKernels, a work item is heads_per_item key/value heads
  bool split;     // a work item is one chunk of a block, merged afterwards; else all chunks of a block
  int64_t heads_per_item, head_groups;
  int64_t block_rows;  // query rows of a block; in place: of a head
  int64_t blocks;      // of each key/value head
  int64_t chunks;      // of keys, 1 at least
  // Sequences of a cache that begin with the same pages form a group; its first has `members` of them, the others 0.
  // All rows of a group meet the first shared_chunks chunks together, one key/value head at a time.
  int64_t members, shared_chunks, shared_rows;
  int64_t items, first_item;
  int64_t merges, first_merge;     // rows to be merged
  int64_t weights, first_weights;  // work items of the second pass
  int64_t first_partial;           // where its partial results begin, in floats

  int64_t shared_items(int64_t kv_heads) const { return members > 0 ? kv_heads * shared_chunks : 0; }
};

struct AttentionPlan {
  AttentionKernels kernels;
  int64_t threads;                        // threads asked for
  int64_t useful;                         // threads that make the call faster
  bool few_keys;                          // FewKeysKernels: a work item is kFewKeysRows rows of any head
  bool uniform;                           // all items of the batch are planned alike:
  SequencePlan each;                      // the first of them; else the longest, and a table of SequencePlan is in the
                                          // workspace
  int64_t batch, items, merges, weights;  // in all
  // How many items of the batch are read in place, and how many packed; how many are cut in chunks that are merged
  // afterwards; how many groups begin with the same pages, and how many items those have.
  int64_t in_place, packed, split, groups, sharing;
  int64_t weights_block_rows;  // queries of an item of the second pass
  int64_t partial_floats;      // of all partial results

  // Workspace, in bytes from its start; each part begins on a 64-byte line.
  int64_t states_offset;     // RowState [H * queries of all items]
  int64_t sequences_offset;  // not uniform: SequencePlan [B]
  int64_t partials_offset;   // float [partial_floats]
  int64_t queries_offset;  // normed and rotated queries: float [queries of all items][H][D], and where items differ in
  int64_t positions_offset;  // length the position of the first: int64_t [B]
  int64_t attended_offset;   // outputs that are to be rotated: float [queries of all items][H][Dv]
  int64_t slots_offset;      // per thread: scratch, AttentionRow [rows], RowExtras, RowState [shared rows], maxima
  int64_t slot_bytes, slot_rows_offset, slot_extras_offset, slot_states_offset, slot_maxima_offset;
  int64_t bytes;  // in all
};

// A planned call, and where it runs.
struct AttentionJob {
  const KernelTable* table;
  AttentionProblem problem;
  AttentionPlan plan;
  char* workspace;        // plan.bytes, aligned to 64
  float* given_partials;  // the caller's buffer, if the call is to give partial results alone; null: in the workspace

  const SequencePlan* sequences() const {
    return reinterpret_cast<const SequencePlan*>(workspace + plan.sequences_offset);
  }
  float* partials() const {
    return given_partials != nullptr ? given_partials : reinterpret_cast<float*>(workspace + plan.partials_offset);
  }
};

// MHA_ERR_UNSUPPORTED: the target does not have the arithmetic.
mha_status check_target(const KernelTable& table, Arithmetic arithmetic, mha_error* error);

// split_all: every chunk's partial result is wanted. MHA_ERR_OVERFLOW: the workspace does not fit in 63 bits.
// MHA_ERR_UNSUPPORTED: as check_target.
mha_status plan_attention(const KernelTable& table, int64_t threads, const AttentionProblem& problem, bool split_all,
                          AttentionPlan* plan, mha_error* error);

// The same for a call that is nothing but attention: on as many of num_threads as pay. With split_all it is cut as it
// would be without, so that it needs no more workspace.
mha_status plan_call(const KernelTable& table, int64_t num_threads, const AttentionProblem& problem, bool split_all,
                     AttentionPlan* plan, mha_error* error);

// The workspace of every call of at most these sizes, on at most so many threads: of *plan only `bytes` has a meaning.
// problem.longest_query_len and longest_key_len are the greatest of any item. The problem says whether queries are
// packed, pages are shared, weights are wanted, rows have extras, and queries are normed or rotated.
mha_status bound_attention(const KernelTable& table, int64_t threads, const AttentionProblem& problem,
                           AttentionPlan* plan, mha_error* error);

// The table of a plan that is not uniform, as planned. Needs room for B.
void plan_sequences(const AttentionProblem& problem, const AttentionPlan& plan, bool split_all,
                    SequencePlan* sequences);

// What a caller must give so that `bytes` remain once the start is aligned to 64.
constexpr size_t workspace_bytes(int64_t bytes) { return static_cast<size_t>(bytes) + 63; }

// The cost model: waking a thread costs a microsecond or two while it spins, some more when it sleeps; half a million
// multiply-adds take 5 us on one AVX-512 core.
constexpr double kMultiplyAddsPerThread = 0.5e6;

// Threads worth waking for a call of so much work (problem.h: work()), at most num_threads. Decided once for all stages
// of a call.
int64_t useful_threads(int64_t num_threads, double work);

}  // namespace mha
