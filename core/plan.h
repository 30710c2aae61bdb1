// SPDX-License-Identifier: Apache-2.0
// How a call is carried out: threads, work items, workspace. Pure functions of sizes, kernel table and thread count;
// what mha_*_explain prints. Nothing decided here changes a bit of a result.
#pragma once

#include "core/kernels/kernel_table.h"
#include "core/problem.h"

namespace mha {

struct LinearPlan {
  int64_t block_rows;     // rows of an item, a multiple of the tile's unless it is all
  int64_t block_columns;  // columns of an item, a multiple of the tile's unless it is all
  int64_t row_blocks, column_blocks;
  int64_t items;
};

LinearPlan plan_linear(const KernelTable& table, int64_t threads, const LinearProblem& problem);

struct AttentionPlan {
  int64_t threads;
  bool streamed;  // few query rows: KernelTable::attention_streamed, an item is heads_per_item key/value heads
  int64_t heads_per_item, head_groups;
  int64_t block_rows;  // query rows of an item; streamed: of a head
  int64_t blocks;      // blocks of each (batch, key/value head)
  int64_t chunks;      // chunks of keys, 1 at least
  bool split;          // an item is one chunk of a block, merged afterwards; else all chunks of a block
  int64_t items;
  int64_t average_block_rows;  // queries of an item of the averaged weights
  int64_t average_blocks;

  // Workspace, in bytes from its start; each part begins on a 64-byte line.
  int64_t states_offset;           // RowState [B * Hkv * group_rows]
  int64_t partial_states_offset;   // split: RowState [B * Hkv * group_rows][chunks]
  int64_t partial_outputs_offset;  // split: float [B * Hkv * group_rows][chunks][Dv]
  int64_t slots_offset;            // per thread: scratch, AttentionRow [block_rows] and, where the problem has them,
  int64_t slot_bytes, slot_rows_offset, slot_extras_offset;  // RowExtras [block_rows]
  int64_t bytes;                                             // in all
};

// MHA_ERR_OVERFLOW: the workspace does not fit in 63 bits.
mha_status plan_attention(const KernelTable& table, int64_t threads, const AttentionProblem& problem,
                          AttentionPlan* plan, mha_error* error);

// What a caller must give so that `bytes` remain once the start is aligned to 64.
constexpr size_t workspace_bytes(int64_t bytes) { return static_cast<size_t>(bytes) + 63; }

// Lays out parts of a workspace one after the other, each from a 64-byte line on.
class Layout {
 public:
  // Returns the offset of a part of `bytes`.
  int64_t append(Size bytes) {
    const int64_t offset = end_.ok() ? end_.value() : 0;
    end_ = end_ + bytes;
    if ((end_ + Size(64)).ok()) end_ = Size(round_up(end_.value(), 64));
    return offset;
  }
  Size bytes() const { return end_; }

 private:
  Size end_ = Size(0);
};

// The cost model: waking a thread costs a microsecond or two while it spins, some more when it sleeps; half a million
// multiply-adds take 5 on one AVX-512 core. Measured with mha_threads: two threads pay from 0.13 (linear) to 0.3
// million multiply-adds on, and at one million are 1.5 times as fast as one.
constexpr double kMultiplyAddsPerThread = 0.5e6;

// Threads worth waking for a call of so much work (problem.h: work()), at most num_threads. Decided once for all stages
// of a call.
int64_t useful_threads(int64_t num_threads, double work);

}  // namespace mha
