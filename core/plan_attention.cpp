// SPDX-License-Identifier: Apache-2.0
// The planner of attention: how the rows of each item of the batch are cut, and what that takes of workspace.
#include "core/cache.h"
#include "core/items.h"
#include "core/plan.h"
#include "core/rows.h"

namespace mha {
namespace {

// Rows that share one packing of a chunk of keys and values, which costs what about 16 rows cost.
constexpr int64_t kMaxBlockRows = 1024;
// Weights of a block, so that those of its first chunks are still in L2 when it is done.
constexpr int64_t kMaxWeights = 256 * 1024;

class Planner {
 public:
  Planner(const KernelTable& table, int64_t threads, const AttentionProblem& p, bool split_all)
      : table_(table), threads_(threads), p_(p), split_all_(split_all), work_(threads > 1 ? work_of_call(p) : 0) {}

  // Plans item b, which begins where `end` (the item before it, or zeros) ends.
  SequencePlan plan(int64_t b, const SequencePlan& end) const {
    SequencePlan s = {};
    s.first_item = end.first_item + end.items;
    s.first_merge = end.first_merge + end.merges;
    s.first_weights = end.first_weights + end.weights;
    const int64_t rows = p_.heads * query_len_of(p_, b);
    s.first_partial = end.first_partial + partials(end);
    s.chunks = most(1, divide_up(key_len_of(p_, b), kChunk));
    // A sum over no queries is 0, which somebody must write.
    if (rows == 0 && p_.weights_mode == MHA_WEIGHTS_KEY_SUMS) s.weights = weights_items(b);
    if (rows == 0) return s;
    if (group_rows_of(p_, b) <= table_.streamed_rows) {
      plan_streamed(b, &s);
    } else {
      plan_packed(b, &s);
    }
    if (p_.weights_mode != MHA_WEIGHTS_NONE && !keeps_weights(p_)) s.weights = weights_items(b);
    return s;
  }

  // What there is to do for item b and, if it is the first of a group, for what the group shares. To be called once
  // the group and the split are known.
  void count(int64_t b, SequencePlan* s) const {
    const int64_t rows = p_.heads * query_len_of(p_, b);
    const int64_t units = s->streamed ? s->head_groups : p_.kv_heads * s->blocks;
    if (rows == 0) return;
    s->items = units * (s->split ? s->chunks - s->shared_chunks : 1) + s->shared_items(p_.kv_heads);
    s->merges = s->split ? rows : 0;
  }

  // Floats of partial results of a sequence that has been planned.
  int64_t partials(const SequencePlan& s) const {
    return s.split ? s.merges * s.chunks * partial_width(p_.value_head_dim) : 0;
  }

  // How many items from b on begin with the same pages, in whole chunks, and have few enough rows to go together.
  void find_group(int64_t b, SequencePlan* s) const {
    if (p_.cache == nullptr || split_all_) return;
    int64_t shared = key_len_of(p_, b) / kChunk, rows = group_rows_of(p_, b), n = b + 1;
    if (rows == 0) return;
    for (; n < p_.batch; ++n) {
      const int64_t more = shared_tokens(*p_.cache, sequence_of(p_, b), sequence_of(p_, n)) / kChunk;
      if (more == 0 || query_len_of(p_, n) == 0 || rows + group_rows_of(p_, n) > kMaxBlockRows) break;
      shared = least(shared, more), rows += group_rows_of(p_, n);
    }
    if (n == b + 1) return;
    s->members = n - b, s->shared_chunks = shared, s->shared_rows = rows;
  }

  int64_t weights_block_rows() const {
    const int64_t rows = p_.weight_rows.rows != nullptr ? p_.batch * p_.weight_rows.count : p_.total_queries();
    const int64_t share = divide_up(rows, threads_ * kItemsPerThread);
    return most(table_.attention_rows, round_up(least(kMaxBlockRows, share), table_.attention_rows));
  }

 private:
  // Few rows. Where a token holds all heads side by side, as many of them as the kernel takes make an item, so that
  // memory is read in long runs; where a head's tokens follow each other, one head (1024 keys, H 32: 1.23 ms instead of
  // 1.34). Chunks are what threads share.
  void plan_streamed(int64_t b, SequencePlan* s) const {
    const int64_t rows = group_rows_of(p_, b);
    s->streamed = true;
    s->block_rows = rows;
    s->blocks = 1;
    const TokenRows keys = keys_of(p_, b, 0);
    const int64_t most_heads = keys.stride_t <= keys.stride_h ? 1 : most(1, table_.max_streamed_rows / rows);
    s->heads_per_item = even_piece(p_.kv_heads, most_heads, 1);
    s->head_groups = divide_up(p_.kv_heads, s->heads_per_item);
    s->split = is_long(b, s->head_groups, kItemsPerThread, *s);
  }

  void plan_packed(int64_t b, SequencePlan* s) const {
    const int64_t rows = group_rows_of(p_, b), keys = most(1, key_len_of(p_, b));
    int64_t limit = kMaxBlockRows;
    if (keeps_weights(p_)) limit = most(4 * table_.attention_rows, least(limit, kMaxWeights / keys));
    if (threads_ > 1) {
      // As many items as balance the threads, but no block smaller than what shares one pass over a chunk.
      const double share = work_ / static_cast<double>(threads_ * kItemsPerThread);
      const double row_work = work_of_item(p_, b) / static_cast<double>(p_.kv_heads * rows);
      const double wanted = row_work > 0 ? share / row_work + 1 : static_cast<double>(limit);
      if (wanted < static_cast<double>(limit)) limit = most(table_.attention_rows, static_cast<int64_t>(wanted));
    }
    s->heads_per_item = 1;
    s->head_groups = p_.kv_heads;
    s->block_rows = even_piece(rows, limit, table_.attention_rows);
    s->blocks = divide_up(rows, s->block_rows);
    s->split = is_long(b, p_.kv_heads * s->blocks, 2, *s);
  }

  // Whether an item's work, in so many units, is too much for one thread at the end of a call: more than the
  // per_thread-th part of a thread's share.
  bool is_long(int64_t b, int64_t units, int64_t per_thread, const SequencePlan& s) const {
    if (split_all_) return true;
    if (threads_ <= 1 || s.chunks <= 1) return false;
    const double unit = work_of_item(p_, b) / static_cast<double>(units);
    return unit * static_cast<double>(threads_ * per_thread) > work_ * (1 + 1e-9);
  }

  int64_t weights_items(int64_t b) const {
    const int64_t blocks = divide_up(weight_rows_of(p_, b), weights_block_rows());
    switch (p_.weights_mode) {
      case MHA_WEIGHTS_AVERAGED:
        return blocks;
      case MHA_WEIGHTS_PER_HEAD:
        return p_.heads * blocks;
      default:
        return p_.heads;
    }
  }

  const KernelTable& table_;
  int64_t threads_;
  const AttentionProblem& p_;
  bool split_all_;
  double work_;  // of the call; one thread asks for none
};

// Calls take(b, plan of item b) for the whole batch.
template <class Take>
SequencePlan walk(const Planner& planner, const AttentionProblem& p, Take take) {
  SequencePlan end = {}, group = {};
  for (int64_t b = 0, group_end = 0; b < p.batch; ++b) {
    SequencePlan s = planner.plan(b, end);
    if (b >= group_end) {
      group = {};
      planner.find_group(b, &group);
      group_end = b + (group.members > 0 ? group.members : 1);
      s.members = group.members, s.shared_rows = group.shared_rows;
    }
    s.shared_chunks = group.shared_chunks;
    s.split |= group.shared_chunks > 0;
    planner.count(b, &s);
    take(b, s);
    end = s;
  }
  return end;
}

// What the slots and the workspace must hold for sequences like this.
struct Needs {
  int64_t slot_rows, scratch, shared_rows, maxima;
};

// Counts `alike` items of the batch that are planned so.
void add_counts(const SequencePlan& s, int64_t alike, AttentionPlan* plan) {
  if (s.items == 0 && s.merges == 0) return;  // no queries
  (s.streamed ? plan->streamed : plan->packed) += alike;
  plan->split += s.split ? alike : 0;
  plan->groups += s.members > 0 ? 1 : 0;
  plan->sharing += s.members;
}

void add_needs(const KernelTable& table, const AttentionProblem& p, const SequencePlan& s, Needs* needs) {
  if (s.items == 0) return;
  int64_t streamed_rows = s.streamed ? s.heads_per_item * s.block_rows : 0;
  if (s.shared_rows > 0 && s.shared_rows <= table.streamed_rows) streamed_rows = most(streamed_rows, s.shared_rows);
  needs->slot_rows = most(most(needs->slot_rows, s.block_rows * s.heads_per_item), s.shared_rows);
  if (!s.streamed && !s.split && s.chunks > 1) {
    needs->scratch = most(needs->scratch, table.attention_scratch(s.block_rows, p.head_dim, p.value_head_dim));
  }
  if (streamed_rows > 0) {
    needs->scratch = most(needs->scratch, table.streamed_scratch(streamed_rows, p.head_dim, p.value_head_dim));
  }
  needs->shared_rows = most(needs->shared_rows, s.shared_rows);
  if (keeps_weights(p) && !s.split) {
    needs->maxima = most(needs->maxima, s.chunks * s.block_rows * s.heads_per_item);
  }
}

// What attention_few_keys may take of rows * keys * D of a key/value head. It reads the keys for each row anew, the
// streamed kernel reads them once (8 keys, D 128: 0.35 of its time for one row, 1.1 for 8; D 20: 0.22 for one row, 0.76
// for 16). A whole vector of keys counts twice, as that kernel then need not copy them (D 32, 4 rows: 0.74 with 12
// keys, 1.07 with 16).
constexpr int64_t kMaxFewKeysWork = 4096;
constexpr int64_t kLeastFewKeysDim = 32;  // a lesser D counts as this

// Whether the rows, which are few, see all of few keys, and do nothing else with them.
bool suits_few_keys(const AttentionProblem& p) {
  if (p.key_len < 1 || p.key_len > kFewKeys || !rows_are_alike(p)) return false;
  if (p.masks.causal != MHA_CAUSAL_NONE && position_of(p, 0, 0) < p.key_len - 1) return false;
  const int64_t rows = group_rows_of(p, 0);
  const int64_t keys = p.key_len == kFewKeys ? 2 * p.key_len : p.key_len;
  return rows == 1 || most(p.head_dim, kLeastFewKeysDim) < kMaxFewKeysWork / (rows * keys);
}

mha_status too_large(const AttentionProblem& p, mha_error* error) {
  return fail(error, MHA_ERR_OVERFLOW, "the workspace for key_len %lld and head_dim %lld exceeds 2^63 bytes",
              static_cast<long long>(p.longest_key_len), static_cast<long long>(p.head_dim));
}

}  // namespace

void plan_sequences(const KernelTable& table, const AttentionProblem& p, const AttentionPlan& plan, bool split_all,
                    SequencePlan* sequences) {
  walk(Planner(table, plan.threads, p, split_all), p,
       [sequences](int64_t b, const SequencePlan& s) { sequences[b] = s; });
}

mha_status plan_attention(const KernelTable& table, int64_t threads, const AttentionProblem& p, bool split_all,
                          AttentionPlan* plan, mha_error* error) {
  *plan = {};
  plan->threads = threads;
  plan->batch = p.batch;
  plan->uniform = p.uniform();
  const Size rows = Size(p.heads) * Size(p.total_queries());
  const Size chunks = Size(most(1, divide_up(p.longest_key_len, kChunk)));
  // An upper bound of all that is counted below.
  if (!(rows * chunks * Size(partial_width(p.value_head_dim)) * Size(sizeof(float))).ok()) return too_large(p, error);
  const Planner planner(table, threads, p, split_all);
  Needs needs = {0, table.attention_scratch(0, p.head_dim, p.value_head_dim), 0, 0};
  if (plan->uniform) {
    SequencePlan& s = plan->each;
    s = planner.plan(0, {});
    planner.count(0, &s);
    plan->items = p.batch * s.items, plan->merges = p.batch * s.merges, plan->weights = p.batch * s.weights;
    plan->partial_floats = p.batch * planner.partials(s);
    add_needs(table, p, s, &needs);
    add_counts(s, p.batch, plan);
    plan->few_keys = s.streamed && !split_all && suits_few_keys(p);
    if (plan->few_keys) plan->items = divide_up(p.heads * p.total_queries(), kFewKeysRows);
  } else {
    const SequencePlan end = walk(planner, p, [&](int64_t, const SequencePlan& s) {
      add_needs(table, p, s, &needs);
      add_counts(s, 1, plan);
    });
    plan->items = end.first_item + end.items, plan->merges = end.first_merge + end.merges;
    plan->weights = end.first_weights + end.weights;
    plan->partial_floats = end.first_partial + planner.partials(end);
  }
  if (plan->weights > 0) {
    plan->weights_block_rows = planner.weights_block_rows();
    needs.slot_rows = most(needs.slot_rows, plan->weights_block_rows);
  }

  Layout layout;
  plan->states_offset = layout.append(rows * Size(sizeof(RowState)));
  plan->sequences_offset = layout.append(Size(plan->uniform ? 0 : p.batch) * Size(sizeof(SequencePlan)));
  plan->partials_offset = layout.append(Size(split_all ? 0 : plan->partial_floats) * Size(sizeof(float)));
  if (p.preparation.wanted()) {
    const Size queries = p.copies_queries ? rows * Size(p.head_dim) * Size(sizeof(float)) : Size(0);
    plan->queries_offset = layout.append(queries);
    plan->positions_offset = layout.append(Size(plan->uniform ? 0 : 2) * Size(p.batch) * Size(sizeof(int64_t)));
  }
  Layout slot;
  slot.append(Size(needs.scratch) * Size(sizeof(float)));
  plan->slot_rows_offset = slot.append(Size(needs.slot_rows) * Size(sizeof(AttentionRow)));
  if (p.has_extras()) plan->slot_extras_offset = slot.append(Size(needs.slot_rows) * Size(sizeof(RowExtras)));
  plan->slot_states_offset = slot.append(Size(needs.shared_rows) * Size(sizeof(RowState)));
  plan->slot_maxima_offset = slot.append(Size(needs.maxima) * Size(sizeof(float)));
  plan->slots_offset = layout.append(slot.bytes() * Size(plan->threads));
  if (!(layout.bytes() + Size(64)).ok()) return too_large(p, error);
  plan->slot_bytes = slot.bytes().value();
  plan->bytes = layout.bytes().value();
  return MHA_OK;
}

}  // namespace mha
