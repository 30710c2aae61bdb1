// SPDX-License-Identifier: Apache-2.0
// The planner.
#include "core/plan.h"

namespace mha {
namespace {

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Rows that share one packing of a chunk of keys and values, which costs what about 16 rows cost.
constexpr int64_t kMaxBlockRows = 1024;
// Scores that a block keeps for its weights, so that they are still in L2 when it is done (T 512: 0.56 of the peak; a
// quarter of it 0.47, since keys are packed more often).
constexpr int64_t kMaxWeights = 256 * 1024;

// Rows of A that pass over all columns of B: a block of so many floats (of one block of k) stays in L2 beside the
// groups of B's columns, which come from the outer caches once per block of rows, ahead of time (gemm-inl.h). At M, N
// and K 1024 blocks of 128 rows reach 0.92 of the peak, of 512 rows 0.87.
constexpr int64_t kLinearBlockFloats = 128 * 1024;
constexpr int64_t kLeastLinearRows = 96;

// Items for each thread where work can be cut freely, so that the last to finish is not far behind.
constexpr int64_t kItemsPerThread = 4;

// `total` cut in pieces of at most `limit`, equal as far as multiples of `unit` allow: the size of a piece.
int64_t even_piece(int64_t total, int64_t limit, int64_t unit) {
  if (total <= limit) return most(total, 1);
  return round_up(divide_up(total, divide_up(total, limit)), unit);
}

}  // namespace

int64_t useful_threads(int64_t num_threads, double work) {
  const double worth = work / kMultiplyAddsPerThread;
  return worth >= static_cast<double>(num_threads) ? num_threads : most(1, static_cast<int64_t>(worth));
}

LinearPlan plan_linear(const KernelTable& table, int64_t threads, const LinearProblem& p) {
  LinearPlan plan = {};
  const int64_t rows = most(kLeastLinearRows, kLinearBlockFloats / least(p.in_features, table.gemm_depth));
  plan.block_rows = even_piece(p.rows, rows, table.tile_rows);
  plan.row_blocks = divide_up(p.rows, plan.block_rows);
  plan.block_columns = p.out_features;
  if (threads > 1) {
    const int64_t pieces = divide_up(threads * kItemsPerThread, most(p.batch * plan.row_blocks, 1));
    plan.block_columns =
        even_piece(p.out_features, most(divide_up(p.out_features, pieces), table.tile_columns), table.tile_columns);
  }
  plan.column_blocks = divide_up(p.out_features, plan.block_columns);
  plan.items = p.batch * plan.row_blocks * plan.column_blocks;
  return plan;
}

namespace {

void cut_rows(const KernelTable& table, const AttentionProblem& p, AttentionPlan* plan) {
  const int64_t rows = p.group_rows();
  const int64_t pairs = p.batch * p.kv_heads;
  int64_t limit = kMaxBlockRows;
  if (p.weights_mode == MHA_WEIGHTS_PER_HEAD && p.key_len > 0) {
    limit = most(4 * table.attention_rows, least(limit, kMaxWeights / p.key_len));
  }
  if (plan->threads > 1) {
    // As many items as balance the threads, but no block smaller than what shares one pass over a chunk.
    const int64_t share = divide_up(pairs * rows, plan->threads * kItemsPerThread);
    limit = most(table.attention_rows, least(limit, share));
  }
  plan->block_rows = even_piece(rows, limit, table.attention_rows);
  plan->blocks = divide_up(rows, plan->block_rows);
  plan->split = plan->threads > 1 && plan->chunks > 1 && pairs * plan->blocks < 2 * plan->threads;
  plan->items = pairs * plan->blocks * (plan->split ? plan->chunks : 1);
}

// Few rows. Where a token holds all heads side by side, as many of them as the kernel takes make an item, so that
// memory is read in long runs; where a head's tokens follow each other, one head (1024 keys, H 32: 1.23 ms instead of
// 1.34). Chunks are what threads share.
void plan_streamed(const KernelTable& table, const AttentionProblem& p, AttentionPlan* plan) {
  plan->streamed = true;
  plan->block_rows = p.group_rows();
  plan->blocks = 1;
  const int64_t most_heads = p.key.stride_t <= p.key.stride_h ? 1 : most(1, table.max_streamed_rows / p.group_rows());
  plan->heads_per_item = even_piece(p.kv_heads, most_heads, 1);
  plan->head_groups = divide_up(p.kv_heads, plan->heads_per_item);
  plan->items = p.batch * plan->head_groups;
  plan->split = plan->threads > 1 && plan->chunks > 1 && plan->items < plan->threads * kItemsPerThread;
  if (plan->split) plan->items *= plan->chunks;
}

}  // namespace

mha_status plan_attention(const KernelTable& table, int64_t threads, const AttentionProblem& p, AttentionPlan* plan,
                          mha_error* error) {
  *plan = {};
  const int64_t rows = p.batch * p.kv_heads * p.group_rows();
  plan->threads = threads;
  plan->chunks = most(1, divide_up(p.key_len, kChunk));
  if (p.group_rows() <= table.streamed_rows) {
    plan_streamed(table, p, plan);
  } else {
    cut_rows(table, p, plan);
  }
  if (p.weights_mode == MHA_WEIGHTS_AVERAGED) {
    const int64_t share = divide_up(p.batch * p.query_len, plan->threads * kItemsPerThread);
    plan->average_block_rows =
        even_piece(p.query_len, most(table.attention_rows, least(kMaxBlockRows, share)), table.attention_rows);
    plan->average_blocks = divide_up(p.query_len, plan->average_block_rows);
  }

  Layout layout;
  const Size state_bytes = Size(rows) * Size(sizeof(RowState));
  plan->states_offset = layout.append(state_bytes);
  if (plan->split) {
    plan->partial_states_offset = layout.append(state_bytes * Size(plan->chunks));
    plan->partial_outputs_offset =
        layout.append(Size(rows) * Size(plan->chunks) * Size(p.value_head_dim) * Size(sizeof(float)));
  }
  Layout slot;
  int64_t slot_rows = most(plan->block_rows, plan->average_block_rows);
  int64_t scratch = table.attention_scratch(p.head_dim, p.value_head_dim);
  if (plan->streamed) {
    const int64_t streamed_rows = plan->heads_per_item * plan->block_rows;
    slot_rows = most(slot_rows, streamed_rows);
    scratch = most(scratch, table.streamed_scratch(streamed_rows, p.head_dim, p.value_head_dim));
  }
  slot.append(Size(scratch) * Size(sizeof(float)));
  plan->slot_rows_offset = slot.append(Size(slot_rows) * Size(sizeof(AttentionRow)));
  if (p.has_extras()) plan->slot_extras_offset = slot.append(Size(slot_rows) * Size(sizeof(RowExtras)));
  plan->slots_offset = layout.append(slot.bytes() * Size(plan->threads));
  if (!(layout.bytes() + Size(64)).ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "the workspace for key_len %lld and head_dim %lld exceeds 2^63 bytes",
                static_cast<long long>(p.key_len), static_cast<long long>(p.head_dim));
  }
  plan->slot_bytes = slot.bytes().value();
  plan->bytes = layout.bytes().value();
  return MHA_OK;
}

}  // namespace mha
