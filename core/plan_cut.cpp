// SPDX-License-Identifier: Apache-2.0
// The ways to cut an item, and the estimate that chooses among them.
#include "core/plan_cut.h"

#include "core/plan.h"

namespace mha {
namespace {

// What a second phase costs, and what waking threads for the first, in multiply-adds: some two microseconds.
constexpr double kMeeting = 0.2e6;
// Threads do not begin and end together: the last to finish is late by a part of a work item.
constexpr double kLateItem = 0.25;
// Where heads lie side by side, a work item reads runs of memory as long as its heads. Runs of so many bytes take
// twice the time of endless ones (decode, H 32/32, D 64, 4096 keys on two threads: runs of 4 KiB 1.03 times as long as
// of 8 KiB, 2 KiB 1.15, 1 KiB 1.36).
constexpr double kShortRun = 300;
// A split takes memory for its partial results: it must be so much faster than cutting the rows.
constexpr double kSplitGain = 1.25;
// Rounds beyond which a part of one does not count.
constexpr double kManyRounds = 1e6;

int64_t chunks_of(const Cutting& c) { return divide_up(c.keys, kChunk); }

// Work items of the whole call if all of it were cut so; chunks count by their keys.
double items_of(const Cutting& c, const Cut& cut) {
  const double alike = c.call_work / c.work;
  const double pieces = static_cast<double>(divide_up(c.kv_heads, cut.heads)) *
                        static_cast<double>(divide_up(c.rows, cut.block_rows));
  return alike * pieces * (cut.split ? static_cast<double>(c.keys) / static_cast<double>(kChunk) : 1.0);
}

// The time of merging: partial results are written and read.
double merging_time(const Cutting& c) {
  const double floats = static_cast<double>(c.kv_heads * c.rows) * static_cast<double>(chunks_of(c)) *
                        static_cast<double>(partial_width(c.value_head_dim));
  return kMeeting + 2 * floats * sizeof(float) * kMultiplyAddsPerByte * (c.call_work / c.work) /
                        static_cast<double>(c.threads);
}

// Blocks of rows for each key/value head, so that a thread has so many items or more of those that `cut` makes of one.
int64_t pieces_for(const Cutting& c, const Cut& cut, int64_t items_per_thread) {
  const double heads = c.call_work / c.work * static_cast<double>(c.kv_heads) *
                       (cut.split ? static_cast<double>(c.keys) / static_cast<double>(kChunk) : 1.0);
  return static_cast<int64_t>(static_cast<double>(c.threads * items_per_thread) / heads * (1 - 1e-9)) + 1;
}

// So many work items for each thread that nothing is gained by cutting more.
bool has_enough(const Cutting& c, const Cut& cut) {
  return items_of(c, cut) * (1 + 1e-9) >= static_cast<double>(c.threads * kItemsPerThread);
}

double time_of_item(const Cutting& c, const Cut& cut) {
  const double rows = static_cast<double>(cut.block_rows + c.packing_rows) / static_cast<double>(c.rows);
  double item = c.work * rows * static_cast<double>(cut.heads) / static_cast<double>(c.kv_heads);
  if (c.run_bytes > 0) item *= 1 + kShortRun / (static_cast<double>(c.run_bytes) * static_cast<double>(cut.heads));
  if (cut.split && c.keys > kChunk) item *= static_cast<double>(kChunk) / static_cast<double>(c.keys);
  return item;
}

// Of the call on all threads, merging included.
double time_of(const Cutting& c, const Cut& cut) {
  const double item = time_of_item(c, cut);
  const double share = items_of(c, cut) / static_cast<double>(c.threads);  // of work items, for each thread
  const double late = share + kLateItem + (cut.split ? 0 : c.unevenness / 2);
  double rounds = share;
  if (share < kManyRounds) {
    rounds = static_cast<double>(static_cast<int64_t>(share));
    if (rounds < share * (1 - 1e-9)) rounds += 1;
  }
  return item * (late > rounds ? late : rounds) + (cut.split ? merging_time(c) : 0);
}

// Rows of a block where there are so many or, if they are too short or too long for that, about as many.
int64_t block_rows(const Cutting& c, int64_t blocks) {
  return even_piece(c.rows, least(c.most_rows, most(c.row_unit, divide_up(c.rows, blocks))), c.row_unit);
}

struct Best {
  Cut cut;
  double time;

  void consider(const Cutting& c, const Cut& other) {
    const double t = time_of(c, other);
    if (t < time) cut = other, time = t;
  }
};

}  // namespace

Cut cut_least(const Cutting& c) {
  return {even_piece(c.kv_heads, c.most_heads, 1), even_piece(c.rows, c.most_rows, c.row_unit), false};
}

Cut cut_streamed(const Cutting& c) {
  const Cut whole = cut_least(c);
  if (!(c.work > 0) || has_enough(c, whole)) return whole;
  Best best = {whole, time_of(c, whole)};
  const bool may_split = c.may_split && c.keys > kChunk;
  if (may_split) best.consider(c, {whole.heads, c.rows, true});
  // As many heads together as leave a group for each thread, then half of that, and so on.
  const int64_t share = divide_up(c.kv_heads, c.threads);
  for (int64_t heads = whole.heads; heads > 1;) {
    heads = even_piece(c.kv_heads, share < heads ? share : heads / 2, 1);
    best.consider(c, {heads, c.rows, false});
    if (may_split) best.consider(c, {heads, c.rows, true});
  }
  return best.cut;
}

Cut cut_packed(const Cutting& c) {
  const Cut whole = cut_least(c);
  if (!(c.work > 0) || has_enough(c, whole)) return whole;
  Best best = {whole, time_of(c, whole)};
  Best split = {{1, whole.block_rows, true}, 0};
  split.time = time_of(c, split.cut);
  for (int64_t items = 1; items <= kItemsPerThread; items *= 2) {
    best.consider(c, {1, block_rows(c, pieces_for(c, whole, items)), false});
    split.consider(c, {1, block_rows(c, pieces_for(c, split.cut, items)), true});
  }
  const bool may_split = c.may_split && c.keys > kChunk;
  return may_split && split.time * kSplitGain < best.time ? split.cut : best.cut;
}

bool threads_pay(const Cutting& c, const Cut& cut) {
  if (!(c.work > 0)) return true;
  const Cut alone = cut_least(c);
  return time_of(c, cut) + kMeeting < time_of_item(c, alone) * items_of(c, alone);
}

}  // namespace mha
