// SPDX-License-Identifier: Apache-2.0
// The planner of attention: how the rows of each item of the batch are cut, and what that takes of workspace.
#include "core/base/layout.h"
#include "core/cache/cache.h"
#include "core/call/items.h"
#include "core/call/rows.h"
#include "core/plan/cut.h"
#include "core/plan/plan.h"

namespace mha {
namespace {

// Rows that share one packing of a chunk of keys and values, which costs what about so many rows cost.
constexpr int64_t kMaxBlockRows = 1024;
constexpr int64_t kPackingRows = 16;
// Weights of a block, so that those of its first chunks are still in L2 when it is done.
constexpr int64_t kMaxWeights = 256 * 1024;

// The workspace can hold all partial results of this many rows for each thread. Calls with more rows are not split:
// their rows occupy the threads.
constexpr int64_t kSplitRows = 512;
// Floats of the partial results that sharing pages may take beside these.
constexpr int64_t kSharedPartials = 64 * 1024 * 1024;

// Floats of all partial results of a call at most. Greater sizes never make it less.
int64_t partial_limit(const AttentionProblem& p, int64_t threads) {
  const Size each =
      Size(most(1, divide_up(p.longest_reachable_key_len(), kChunk))) * Size(partial_width(p.value_head_dim));
  const Size all = Size(p.heads) * Size(p.total_queries()) * each;
  const Size split = threads > 1 ? Size(threads) * Size(kSplitRows) * each : Size(0);
  const Size limit = split + Size(p.shares_pages ? kSharedPartials : 0);
  const int64_t none = INT64_MAX / 8;  // sizes that do not fit are refused elsewhere
  return least(all.ok() ? all.value() : none, limit.ok() ? limit.value() : none);
}

class Planner {
 public:
  Planner(const AttentionKernels& kernels, int64_t threads, const AttentionProblem& p, bool split_all)
      : packed_(*kernels.packed),
        in_place_(*kernels.in_place),
        threads_(threads),
        p_(p),
        split_all_(split_all),
        work_(threads > 1 ? work_of_call(p) : 0) {
    const Size chunks = Size(most(1, divide_up(p.longest_key_len, kChunk)));
    partials_fit_ =
        (Size(p.heads) * Size(p.total_queries()) * chunks * Size(partial_width(p.value_head_dim)) * Size(sizeof(float)))
            .ok();
    partial_limit_ = partial_limit(p, threads);
  }

  // Whether every row of the call could have a partial result of every chunk, so that all that is counted fits.
  bool partials_fit() const { return partials_fit_; }

  // Plans item b, which begins where `end` (the item before it, or zeros) ends.
  SequencePlan plan(int64_t b, const SequencePlan& end) const {
    SequencePlan s = {};
    s.first_item = end.first_item + end.items;
    s.first_merge = end.first_merge + end.merges;
    s.first_weights = end.first_weights + end.weights;
    const int64_t rows = p_.heads * query_len_of(p_, b);
    s.first_partial = end.first_partial + partials(end);
    s.chunks = chunks_of(b);
    // A sum over no queries is 0, which somebody must write.
    if (rows == 0 && p_.weights_mode == MHA_WEIGHTS_KEY_SUMS) s.weights = weights_items(b);
    if (rows == 0) return s;
    if (group_rows_of(p_, b) <= in_place_.head_rows) {
      plan_in_place(b, may_split(b, s), &s);
    } else {
      plan_packed(b, may_split(b, s), &s);
    }
    if (p_.weights_mode != MHA_WEIGHTS_NONE && !keeps_weights(p_)) s.weights = weights_items(b);
    return s;
  }

  // What there is to do for item b and, if it is the first of a group, for what the group shares. To be called once
  // the group and the split are known.
  void count(int64_t b, SequencePlan* s) const {
    const int64_t rows = p_.heads * query_len_of(p_, b);
    const int64_t units = s->in_place ? s->head_groups : p_.kv_heads * s->blocks;
    if (rows == 0) return;
    s->items = units * (s->split ? s->chunks - s->shared_chunks : 1) + s->shared_items(p_.kv_heads);
    s->merges = s->split ? rows : 0;
  }

  // Floats of partial results of a sequence that has been planned.
  int64_t partials(const SequencePlan& s) const {
    return s.split ? s.merges * s.chunks * partial_width(p_.value_head_dim) : 0;
  }

  // How many items from b on begin with the same pages, in whole chunks, and have few enough rows to go together.
  void find_group(int64_t b, int64_t first_partial, SequencePlan* s) const {
    if (!p_.shares_pages || split_all_) return;
    int64_t shared = key_len_of(p_, b) / kChunk, rows = group_rows_of(p_, b), n = b + 1;
    if (rows == 0) return;
    int64_t floats = first_partial + partials_of(b);
    for (; n < p_.batch; ++n) {
      const int64_t more = shared_tokens_of(p_, b, n) / kChunk;
      if (more == 0 || query_len_of(p_, n) == 0 || rows + group_rows_of(p_, n) > kMaxBlockRows) break;
      floats += partials_of(n);
      if (floats > partial_limit_) break;
      shared = least(shared, more), rows += group_rows_of(p_, n);
    }
    if (n == b + 1) return;
    s->members = n - b, s->shared_chunks = shared, s->shared_rows = rows;
  }

  // How many threads make a call of `items` work items faster. Item b is the longest of the batch.
  int64_t useful_threads(int64_t b, const SequencePlan& s, int64_t items) const {
    if (threads_ <= 1 || items <= 1) return 1;
    const Cut cut = {s.heads_per_item, s.block_rows, s.split};
    return threads_pay(cutting(b, s.in_place, true), cut) ? least(threads_, items) : 1;
  }

  // Item b as it is to be cut.
  Cutting cutting(int64_t b, bool in_place, bool may_split) const {
    const int64_t rows = group_rows_of(p_, b), keys = most(1, key_len_of(p_, b));
    const bool side_by_side = heads_side_by_side(b);
    Cutting c = {};
    c.threads = threads_;
    c.kv_heads = p_.kv_heads, c.rows = rows, c.keys = keys;
    c.most_heads = in_place && side_by_side ? most(1, in_place_.most_rows / rows) : 1;
    c.most_rows = in_place ? rows : kMaxBlockRows, c.row_unit = packed_.group_rows;
    if (keeps_weights(p_) && !in_place) {
      c.most_rows = most(4 * packed_.group_rows, least(c.most_rows, kMaxWeights / keys));
    }
    if (threads_ <= 1) return c;
    c.work = work_of_item(p_, b), c.call_work = work_;
    c.packing_rows = in_place ? 0 : kPackingRows;
    c.run_bytes = in_place && side_by_side ? row_bytes(key_element_of(p_), p_.head_dim) : 0;
    c.value_head_dim = p_.value_head_dim;
    c.query_len = query_len_of(p_, b);
    if (p_.causal) {
      c.unevenness = static_cast<double>(least(c.query_len, keys)) / static_cast<double>(keys);
    }
    c.may_split = may_split;
    return c;
  }

  int64_t weights_block_rows() const {
    const int64_t rows = p_.weights_rows != nullptr ? p_.batch * p_.num_weights_rows : p_.total_queries();
    const int64_t share = divide_up(rows, threads_ * kItemsPerThread);
    return most(packed_.group_rows, round_up(least(kMaxBlockRows, share), packed_.group_rows));
  }

 private:
  // Few rows. Where a token holds all heads side by side, an item is as many of them as the kernel takes, so that
  // memory is read in long runs; where a head's tokens follow each other, one head.
  void plan_in_place(int64_t b, bool may_split, SequencePlan* s) const {
    s->in_place = true;
    const Cutting c = cutting(b, true, may_split);
    take(threads_ > 1 ? cut_in_place(c) : cut_least(c), s);
  }

  void plan_packed(int64_t b, bool may_split, SequencePlan* s) const {
    const Cutting c = cutting(b, false, may_split);
    take(threads_ > 1 ? cut_packed(c) : cut_least(c), s);
    s->blocks = divide_up(c.rows, s->block_rows);
  }

  void take(const Cut& cut, SequencePlan* s) const {
    s->heads_per_item = cut.heads;
    s->head_groups = divide_up(p_.kv_heads, cut.heads);
    s->block_rows = cut.block_rows;
    s->blocks = 1;
    s->split = cut.split || split_all_;
  }

  int64_t chunks_of(int64_t b) const { return most(1, divide_up(key_len_of(p_, b), kChunk)); }

  // Floats of the partial results of an item that is split.
  int64_t partials_of(int64_t b) const {
    return p_.heads * query_len_of(p_, b) * chunks_of(b) * partial_width(p_.value_head_dim);
  }

  // Whether item b, or all where they are alike, may be split: what that takes of memory has a bound.
  bool may_split(int64_t b, const SequencePlan& s) const {
    if (!partials_fit_) return false;
    return s.first_partial + (p_.uniform() ? p_.batch : 1) * partials_of(b) <= partial_limit_;
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

  bool heads_side_by_side(int64_t b) const {
    const TokenRows keys = keys_of(p_, b, 0);
    return keys.stride_t > keys.stride_h;
  }

  const PackedKernels& packed_;
  const InPlaceKernels& in_place_;
  int64_t threads_;
  const AttentionProblem& p_;
  bool split_all_;
  double work_;  // of the call; one thread asks for none
  bool partials_fit_;
  int64_t partial_limit_;
};

// Calls take(b, plan of item b) for the whole batch.
template <class Take>
SequencePlan walk(const Planner& planner, const AttentionProblem& p, Take take) {
  SequencePlan end = {}, group = {};
  for (int64_t b = 0, group_end = 0; b < p.batch; ++b) {
    SequencePlan s = planner.plan(b, end);
    if (b >= group_end) {
      group = {};
      planner.find_group(b, s.first_partial, &group);
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
  (s.in_place ? plan->in_place : plan->packed) += alike;
  plan->split += s.split ? alike : 0;
  plan->groups += s.members > 0 ? 1 : 0;
  plan->sharing += s.members;
}

void add_needs(const AttentionKernels& kernels, const AttentionProblem& p, const SequencePlan& s, Needs* needs) {
  if (s.items == 0) return;
  int64_t in_place_rows = s.in_place ? s.heads_per_item * s.block_rows : 0;
  if (s.shared_rows > 0 && s.shared_rows <= kernels.in_place->head_rows) {
    in_place_rows = most(in_place_rows, s.shared_rows);
  }
  needs->slot_rows = most(most(needs->slot_rows, s.block_rows * s.heads_per_item), s.shared_rows);
  if (!s.in_place && !s.split && s.chunks > 1) {
    needs->scratch =
        most(needs->scratch, kernels.packed->scratch(s.block_rows, p.head_dim, p.value_head_dim, p.output.element));
  }
  if (in_place_rows > 0) {
    needs->scratch = most(needs->scratch, kernels.in_place->scratch(in_place_rows, p.head_dim, p.value_head_dim));
  }
  needs->shared_rows = most(needs->shared_rows, s.shared_rows);
  if (keeps_weights(p) && !s.split) {
    needs->maxima = most(needs->maxima, s.chunks * s.block_rows * s.heads_per_item);
  }
}

// The kernel for few keys reads the keys again for each row, the in-place kernel reads them once: so rows * keys * D of
// a key/value head must be less than this. 16 keys count twice, because the in-place kernel reads 16 keys without a copy
// but copies fewer keys first.
constexpr int64_t kMaxFewKeysWork = 4096;
constexpr int64_t kLeastFewKeysDim = 32;  // a lesser D counts as this

// Whether the rows, which are few, see all of few keys, and do nothing else with them.
bool suits_few_keys(const AttentionProblem& p) {
  if (p.key_len < 1 || p.key_len > kFewKeys || !rows_are_alike(p)) return false;
  if (is_code(p.key.element) || is_code(p.value.element)) return false;
  if (p.causal && position_of(p, 0, 0) < p.key_len - 1) return false;
  const int64_t rows = group_rows_of(p, 0);
  const int64_t keys = p.key_len == kFewKeys ? 2 * p.key_len : p.key_len;
  return rows == 1 || most(p.head_dim, kLeastFewKeysDim) < kMaxFewKeysWork / (rows * keys);
}

mha_status too_large(const AttentionProblem& p, mha_error* error) {
  return fail(error, MHA_ERR_OVERFLOW, "the workspace for key_len %lld and head_dim %lld exceeds 2^63 bytes",
              static_cast<long long>(p.longest_key_len), static_cast<long long>(p.head_dim));
}

// The parts of the workspace, for a plan whose threads and `uniform` are set.
mha_status lay_out_workspace(const AttentionProblem& p, const Needs& needs, int64_t partial_floats, AttentionPlan* plan,
                             mha_error* error) {
  const Size rows = Size(p.heads) * Size(p.total_queries());
  Layout layout;
  plan->states_offset = layout.append(rows * Size(sizeof(RowState)));
  plan->sequences_offset = layout.append(Size(plan->uniform ? 0 : p.batch) * Size(sizeof(SequencePlan)));
  plan->partials_offset = layout.append(Size(partial_floats) * Size(sizeof(float)));
  if (p.norm_rope.wanted()) {
    const Size queries = p.copies_queries ? rows * Size(p.head_dim) * Size(sizeof(float)) : Size(0);
    plan->queries_offset = layout.append(queries);
    plan->positions_offset = layout.append(Size(plan->uniform ? 0 : 2) * Size(p.batch) * Size(sizeof(int64_t)));
  }
  if (p.copies_output()) {
    plan->attended_offset = layout.append(rows * Size(p.value_head_dim) * Size(sizeof(float)));
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

}  // namespace

void plan_sequences(const AttentionProblem& p, const AttentionPlan& plan, bool split_all, SequencePlan* sequences) {
  walk(Planner(plan.kernels, plan.threads, p, split_all), p,
       [sequences](int64_t b, const SequencePlan& s) { sequences[b] = s; });
}

mha_status plan_attention(const KernelTable& table, int64_t threads, const AttentionProblem& p, bool split_all,
                          AttentionPlan* plan, mha_error* error) {
  *plan = {};
  MHA_TRY(check_target(table, p.arithmetic, error));
  plan->kernels = attention_kernels_of(table, p.arithmetic, key_element_of(p));
  plan->threads = threads;
  plan->batch = p.batch;
  plan->uniform = p.uniform();
  const Planner planner(plan->kernels, threads, p, split_all);
  if (split_all && !planner.partials_fit()) return too_large(p, error);
  Needs needs = {0, plan->kernels.packed->scratch(0, p.head_dim, p.value_head_dim, p.output.element), 0, 0};
  if (plan->uniform) {
    SequencePlan& s = plan->each;
    s = planner.plan(0, {});
    planner.count(0, &s);
    plan->items = p.batch * s.items, plan->merges = p.batch * s.merges, plan->weights = p.batch * s.weights;
    plan->partial_floats = p.batch * planner.partials(s);
    add_needs(plan->kernels, p, s, &needs);
    add_counts(s, p.batch, plan);
    plan->few_keys = s.in_place && !split_all && plan->kernels.few_keys != nullptr && suits_few_keys(p);
    if (plan->few_keys) {
      plan->items = divide_up(p.heads * p.total_queries(), kFewKeysRows);
      needs.scratch = most(needs.scratch, plan->kernels.few_keys->scratch(p.head_dim, p.value_head_dim));
    }
    plan->useful = planner.useful_threads(0, s, plan->items);
  } else {
    int64_t longest = 0;
    const SequencePlan end = walk(planner, p, [&](int64_t b, const SequencePlan& s) {
      if (b == 0 || (threads > 1 && work_of_item(p, b) > work_of_item(p, longest))) longest = b, plan->each = s;
      add_needs(plan->kernels, p, s, &needs);
      add_counts(s, 1, plan);
    });
    plan->items = end.first_item + end.items, plan->merges = end.first_merge + end.merges;
    plan->weights = end.first_weights + end.weights;
    plan->partial_floats = end.first_partial + planner.partials(end);
    plan->useful = planner.useful_threads(longest, plan->each, plan->items);
  }
  if (plan->weights > 0) {
    plan->weights_block_rows = planner.weights_block_rows();
    needs.slot_rows = most(needs.slot_rows, plan->weights_block_rows);
    plan->useful = threads;
  }

  return lay_out_workspace(p, needs, split_all ? 0 : plan->partial_floats, plan, error);
}

mha_status plan_call(const KernelTable& table, int64_t num_threads, const AttentionProblem& p, bool split_all,
                     AttentionPlan* plan, mha_error* error) {
  // One thread needs no cost model.
  const int64_t threads = num_threads > 1 ? useful_threads(num_threads, work_of_call(p)) : 1;
  const mha_status status = plan_attention(table, threads, p, false, plan, error);
  if (status != MHA_OK || (plan->useful >= threads && !split_all)) return status;
  return plan_attention(table, plan->useful, p, split_all, plan, error);
}

mha_status bound_attention(const KernelTable& table, int64_t threads, const AttentionProblem& p, AttentionPlan* plan,
                           mha_error* error) {
  *plan = {};
  MHA_TRY(check_target(table, p.arithmetic, error));
  plan->kernels = attention_kernels_of(table, p.arithmetic, key_element_of(p));
  plan->threads = threads, plan->batch = p.batch;  // not uniform: items of any lengths
  const int64_t unit = plan->kernels.packed->group_rows, most_rows = round_up(kMaxBlockRows, unit);
  const int64_t chunks = most(1, divide_up(p.longest_key_len, kChunk));
  // Rows that share key/value heads, of one item and of all, as far as 2^62 goes: more would not fit anyway.
  const int64_t group_rows = p.group() * p.longest_query_len, all_rows = p.heads * p.total_queries();
  const int64_t block_rows = least(group_rows, most_rows);
  const int64_t in_place_rows = least(p.heads * p.longest_query_len, plan->kernels.in_place->most_rows);
  const int64_t shared_rows = p.shares_pages ? least(kMaxBlockRows, p.group() * p.total_queries()) : 0;
  Needs needs = {};
  needs.slot_rows = most(most(block_rows, in_place_rows), shared_rows);
  needs.shared_rows = shared_rows;
  needs.scratch =
      most(plan->kernels.packed->scratch(chunks > 1 ? block_rows : 0, p.head_dim, p.value_head_dim, p.output.element),
           plan->kernels.in_place->scratch(in_place_rows, p.head_dim, p.value_head_dim));
  if (plan->kernels.few_keys != nullptr) {
    needs.scratch = most(needs.scratch, plan->kernels.few_keys->scratch(p.head_dim, p.value_head_dim));
  }
  if (keeps_weights(p)) {
    const int64_t fewest = most(4 * unit, in_place_rows) + unit;  // rows of a block, however many keys there are
    needs.maxima = chunks * fewest + kMaxWeights / kChunk + most_rows;
  } else if (p.weights_mode != MHA_WEIGHTS_NONE) {
    plan->weights_block_rows = least(most_rows, round_up(most(all_rows, 1), unit));
    needs.slot_rows = most(needs.slot_rows, plan->weights_block_rows);
  }
  return lay_out_workspace(p, needs, partial_limit(p, threads), plan, error);
}

}  // namespace mha
