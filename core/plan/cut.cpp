// SPDX-License-Identifier: Apache-2.0
// The ways to cut an item, and the estimate that chooses among them.
#include "core/plan/cut.h"

#include "core/plan/plan.h"

namespace mha {
namespace {

// The cost of a second phase, and of waking threads for the first: a microsecond, in multiply-adds.
constexpr double kMeeting = 0.1e6;
// Threads do not begin and end together: the last to finish is late by a part of a work item.
constexpr double kLateItem = 0.25;
// Where the heads of a token are stored side by side, a work item reads its heads of a token as one run and then jumps
// to the next token. The hardware prefetcher does not follow the jump, so short runs are slow: runs of this many bytes
// take twice the time of endless ones.
constexpr double kShortRun = 300;
// A split takes memory for its partial results, so it must be this much faster than cutting the rows.
constexpr double kSplitGain = 1.15;
// The estimate is not exact, so threads must be this much faster than one.
constexpr double kThreadsGain = 1.15;
// Beyond this many turns, a part of a turn does not matter.
constexpr double kManyTurns = 1e6;

double ratio(int64_t a, int64_t b) { return static_cast<double>(a) / static_cast<double>(b); }

// How many items of the batch like this one are as much work as the call.
double alike(const Cutting& c) { return c.call_work / c.work; }

// Work items of the call if all of it is cut this way: with the remainders of divisions, and without them.
double items_of(const Cutting& c, const Cut& cut) {
  const int64_t pieces = divide_up(c.kv_heads, cut.heads) * divide_up(c.rows, cut.block_rows);
  return alike(c) * static_cast<double>(pieces) * static_cast<double>(cut.split ? divide_up(c.keys, kChunk) : 1);
}
double whole_items_of(const Cutting& c, const Cut& cut) {
  const int64_t pieces = (c.kv_heads / cut.heads) * (c.rows / cut.block_rows);
  return alike(c) * static_cast<double>(pieces) * static_cast<double>(cut.split ? c.keys / kChunk : 1);
}

// The largest remainder, as a part of a whole work item.
double rest_of(const Cutting& c, const Cut& cut) {
  double rest = ratio(c.kv_heads % cut.heads, cut.heads);
  const double rows = ratio(c.rows % cut.block_rows, cut.block_rows), keys = ratio(c.keys % kChunk, kChunk);
  if (rows > rest) rest = rows;
  return cut.split && keys > rest ? keys : rest;
}

// How many turns of all threads so many work items take.
double turns_of(const Cutting& c, double items) {
  const double turns = items / static_cast<double>(c.threads);
  if (turns >= kManyTurns) return turns;
  const double whole = static_cast<double>(static_cast<int64_t>(turns));
  return whole < turns * (1 - 1e-9) ? whole + 1 : whole;
}

// The time of merging: partial results are written and read.
double merging_time(const Cutting& c) {
  const double rows = static_cast<double>(c.kv_heads) * static_cast<double>(c.rows);
  const double floats = rows * static_cast<double>(divide_up(c.keys, kChunk) * partial_width(c.value_head_dim));
  return kMeeting + 2 * floats * sizeof(float) * kMultiplyAddsPerByte * alike(c) / static_cast<double>(c.threads);
}

// Blocks of rows for each key/value head that give each thread at least items_per_thread work items. cut.split: keys
// are cut into chunks, too.
int64_t pieces_for(const Cutting& c, const Cut& cut, int64_t items_per_thread) {
  const double heads = alike(c) * static_cast<double>(c.kv_heads) * (cut.split ? ratio(c.keys, kChunk) : 1.0);
  return static_cast<int64_t>(static_cast<double>(c.threads * items_per_thread) / heads * (1 - 1e-9)) + 1;
}

// Whether each thread has so many work items that cutting more gains nothing.
bool has_enough(const Cutting& c, const Cut& cut) {
  return whole_items_of(c, cut) * (1 + 1e-9) >= static_cast<double>(c.threads * kItemsPerThread);
}

// The time of `rows` rows of `heads` heads over all keys. They are cut in `blocks` blocks, and each packs the keys.
double time_of_rows(const Cutting& c, const Cut& cut, int64_t rows, int64_t blocks, int64_t heads) {
  const double time = c.work * ratio(rows + blocks * c.packing_rows, c.rows) * ratio(heads, c.kv_heads);
  return c.run_bytes == 0 ? time : time * (1 + kShortRun / static_cast<double>(c.run_bytes * cut.heads));
}

double time_alone(const Cutting& c, const Cut& cut) {
  return alike(c) * time_of_rows(c, cut, c.rows, divide_up(c.rows, cut.block_rows), c.kv_heads);
}

// The time on all threads, merging included. Whole work items take turns; remainders fill the last turn or follow it.
double time_of(const Cutting& c, const Cut& cut) {
  double item = time_of_rows(c, cut, cut.block_rows, 1, cut.heads);
  if (cut.split && c.keys > kChunk) item *= ratio(kChunk, c.keys);
  const double threads = static_cast<double>(c.threads), share = time_alone(c, cut) / threads;
  double time = share + rest_of(c, cut) * (1 - 1 / threads) * item;
  const double whole = turns_of(c, whole_items_of(c, cut)) * item, all = turns_of(c, items_of(c, cut)) * item;
  if (time < whole) time = whole;
  if (time > all) time = all;
  const bool uneven = !cut.split && cut.block_rows < c.query_len;
  const double late = share + (kLateItem + (uneven ? c.unevenness / 2 : 0)) * item;
  if (time < late) time = late;
  return time + (cut.split ? merging_time(c) : 0);
}

// Rows of a block if there are `blocks` of them, or about as many if their rows would be too few or too many.
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

Cut cut_in_place(const Cutting& c) {
  const Cut whole = cut_least(c);
  if (!(c.work > 0) || has_enough(c, whole)) return whole;
  Best best = {whole, time_of(c, whole)};
  const bool may_split = c.may_split && c.keys > kChunk;
  if (may_split) best.consider(c, {whole.heads, c.rows, true});
  // First as many heads together as leave a group for each thread, then half as many, and so on.
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
  return kThreadsGain * (time_of(c, cut) + kMeeting) < time_alone(c, cut_least(c));
}

}  // namespace mha
