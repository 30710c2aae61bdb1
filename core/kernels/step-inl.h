// SPDX-License-Identifier: Apache-2.0
// The attention driver: which chunks of keys a block of query rows sees, and one step of the online softmax for a group
// of rows and a chunk. How a group gets its scores and its sums of values is a policy (`Blocks`): packed-inl.h for many
// rows, in_place-inl.h for few. Included by algorithms-inl.h, once per target.
//
// A policy has
//   kGroupRows                        rows that take a step together, at most kMaxGroupRows
//   begin(seen)                       before the first chunk
//   begin_chunk(chunk)                before the groups of a chunk
//   multiply_keys(group)              scores() [rows][kScoreStride] = queries * keys
//   multiply_values(group, hidden)    sums() [rows][pitch()] = probabilities, in scores(), * values. hidden: some key
//                                     is hidden from some row; NaN or Inf in its value must not reach that row
//   scores(), sums(), pitch(), running(row)
//   Softmax, softmax()                F32Softmax or its like
namespace mha::MHA_TARGET_NS {
namespace {

// The first keys of the first and of the last chunk that any row may see. Chunks in between that no row sees are
// skipped.
struct SeenChunks {
  int64_t first, last;  // last < first: none

  bool none() const { return last < first; }
};

inline bool sees_chunk(const AttentionArgs& a, int64_t begin) {
  return any_may_see(a.rows, a.num_rows, begin, least(begin + kChunk, a.key_end));
}

MHA_NOINLINE SeenChunks seen_chunks(const AttentionArgs& a) {
  SeenChunks seen = {a.key_begin, a.key_begin + divide_up(a.key_end - a.key_begin, kChunk) * kChunk - kChunk};
  while (seen.first <= seen.last && !sees_chunk(a, seen.first)) seen.first += kChunk;
  while (seen.last > seen.first && !sees_chunk(a, seen.last)) seen.last -= kChunk;
  return seen;
}

// The number of keys of the chunk at `begin`, up to the last one in any row's range.
MHA_NOINLINE int64_t keys_of_chunk(const AttentionArgs& a, int64_t begin) {
  const int64_t end = least(begin + kChunk, a.key_end);
  int64_t seen = begin;
  for (int64_t r = 0; r < a.num_rows && seen < end; ++r) {
    const AttentionRow& row = a.rows[r];
    seen = most(seen, least(row.key_begin < end ? row.key_end : pinned_end(row), end));
  }
  return seen - begin;
}

// The partial result if no row sees any chunk of the call.
inline void leave_unseen(const AttentionArgs& a) {
  for (int64_t r = 0; r < a.num_rows; ++r) a.states[r] = {-kInfinity, kUnseen};
}

// The number of the chunk's keys that come before `end`.
inline int64_t keys_before(int64_t end, int64_t begin, int64_t keys) { return least(most(end - begin, 0), keys); }

// Keys [begin, begin + keys). done: where the chunk before ended; -1 for the first chunk.
struct Chunk {
  int64_t begin, keys, done;
  bool last;

  bool first() const { return done < 0; }
};

// What the rows of a group see together, collected in one pass over the rows instead of one for each question.
struct GroupSight {
  int64_t end, least_end;  // the greatest and the least key_end of the rows
  bool ends_only;          // only key_end hides keys
};

MHA_NOINLINE GroupSight group_sight(const AttentionRow* rows, int64_t num_rows) {
  GroupSight sight = {rows[0].key_end, rows[0].key_end, true};
  for (int64_t r = 0; r < num_rows; ++r) {
    const AttentionRow& row = rows[r];
    sight.end = most(sight.end, row.key_end), sight.least_end = least(sight.least_end, row.key_end);
    sight.ends_only &= row.key_begin == 0 && !has_tail(row) && row.bool_mask == nullptr && row.add_mask == nullptr &&
                       add_mask2(row) == nullptr && !has_key_bits(row) && !has_blocks(row);
  }
  return sight;
}

// Rows [row, row + num_rows) of a call, and the keys of a chunk that they may see.
struct Group {
  int64_t row, num_rows;
  int64_t begin, keys;
  bool first, leaves, last;  // as in ChunkSums
  GroupSight sight;
};

// A group that looks at no keys yet.
inline Group group_at(const AttentionRow* rows, int64_t row, int64_t num_rows, int64_t begin) {
  Group g = {};
  g.row = row, g.num_rows = num_rows, g.begin = begin, g.sight = group_sight(rows + row, num_rows);
  return g;
}

// Applies softcap, biases and masks to a group's scores. Returns whether any key is hidden from any row.
template <class Rounding>
inline bool mask_group(const AttentionRow* rows, const ScoreMods& mods, const Group& g, float* scores) {
  if (changes_scores(mods)) {
    for (int64_t r = 0; r < g.num_rows; ++r)
      modify_scores<Rounding>(rows[r], mods, g.begin, g.keys, scores + r * kScoreStride);
  }
  bool hidden = false;
  ChunkMasks common;
  const int64_t padded_end = g.begin + round_up(g.keys, kLanes);
  if (g.sight.ends_only && g.sight.least_end >= padded_end) return hidden;
  for (int64_t r = 0; r < g.num_rows; ++r) {
    if (!has_hidden_keys(rows[r], g.begin, padded_end)) continue;
    mask_scores(rows[r], g.begin, g.keys, common, scores + r * kScoreStride);
    hidden |= has_hidden_keys(rows[r], g.begin, g.begin + g.keys);
  }
  return hidden;
}

// The online softmax between the two products: scores become probabilities of the chunk, running max and sum are
// updated, attention weights are stored. Returns the result of mask_group.
template <class Softmax>
MHA_NOINLINE bool softmax_step(const Softmax& softmax, const AttentionArgs& a, const Group& g, float* scores,
                               RowFactors& f) {
  using Rounding = typename Softmax::Rounding;
  const AttentionRow* rows = a.rows + g.row;
  RowState* states = a.states + g.row;
  const bool hidden = g.keys > 0 && mask_group<Rounding>(rows, a.mods, g, scores);
  load_states(states, g.num_rows, g.first, f);
  softmax_rows(softmax, {rows, g.num_rows, g.begin, g.keys}, copies_whole(rows, g.keys, g.last), scores, f);
  merge_states<Rounding>(f, g.num_rows);
  store_states(f, g.num_rows, states);
  if (g.last && a.mods.sinks) merge_row_sinks<Rounding>(rows, g.num_rows, f);
  keep_weights<Rounding>(a, g.row, g.num_rows, g.begin, g.keys, g.last, f, scores);
  return hidden;
}

template <class Blocks>
MHA_NOINLINE void attention_step(const AttentionArgs& a, Blocks& blocks, const Chunk& chunk, int64_t row,
                                 int64_t num_rows) {
  const AttentionRow* rows = a.rows + row;
  Group g = group_at(a.rows, row, num_rows, chunk.begin);
  g.first = chunk.first();
  if (g.sight.end <= chunk.done) return;  // finished by an earlier chunk
  g.leaves = chunk.last || chunk.begin + kChunk >= g.sight.end, g.last = a.finish && g.leaves;
  g.keys = keys_before(g.sight.end, chunk.begin, chunk.keys);
  const bool sees = g.keys > 0 && (g.sight.ends_only || num_rows == a.num_rows ||
                                   any_may_see(rows, num_rows, chunk.begin, chunk.begin + g.keys));
  if (!sees) {
    if (!g.first && !g.leaves) return;
    g.keys = 0;  // rows without visible keys need a result too
  }
  if (g.keys > 0) blocks.multiply_keys(g);
  RowFactors factors;
  const bool hidden = softmax_step(blocks.softmax(), a, g, blocks.scores(), factors);
  const int64_t pitch = blocks.pitch();
  if (g.keys > 0) {
    blocks.multiply_values(g, hidden);
  } else {
    memset(blocks.sums(), 0, static_cast<size_t>(num_rows * pitch) * sizeof(float));
  }
  ChunkSums sums = {};
  sums.rows = rows, sums.num_rows = num_rows, sums.width = a.value_head_dim;
  sums.sums = blocks.sums(), sums.pitch = pitch, sums.running = blocks.running(row);
  sums.element = a.output_element;
  sums.first = g.first, sums.leaves = g.leaves, sums.last = g.last;
  combine_rows<typename Blocks::Softmax::Rounding>(sums, factors);
  if (g.last) clear_empty_rows(rows, a.states + row, num_rows, a.value_head_dim, a.output_element);
  if (g.last && a.mods.sinks) store_states(factors, num_rows, a.states + row);
}

template <class Blocks>
inline void run_chunks(const AttentionArgs& a, Blocks& blocks) {
  const SeenChunks seen = seen_chunks(a);
  clear_maxima(a);
  if (seen.none() && !a.finish) return leave_unseen(a);
  blocks.begin(seen);
  int64_t begin = seen.none() ? a.key_begin : seen.first, done = -1;
  do {  // at least once: rows without visible keys need a result too
    if (done >= 0 && !sees_chunk(a, begin)) {
      begin += kChunk;
      continue;
    }
    const Chunk chunk = {begin, seen.none() ? 0 : keys_of_chunk(a, begin), done, seen.none() || begin >= seen.last};
    blocks.begin_chunk(chunk);
    for (int64_t r = 0; r < a.num_rows; r += Blocks::kGroupRows) {
      attention_step(a, blocks, chunk, r, least(a.num_rows - r, Blocks::kGroupRows));
    }
    done = begin += kChunk;
  } while (begin <= seen.last);
}

// The sum over keys in F32.
struct OneChain {
  Vec sum = zero();
  MHA_INLINE void add(int64_t, const Vec& p, const Vec& value) { sum = fma(p, value, sum); }
  MHA_INLINE Vec end() const { return sum; }
};

// A chunk's sums if values have NaN or Inf and some keys are hidden: 0 * NaN would reach rows that do not see the key,
// so each row skips its hidden keys. For finite values the bits are those of the value tiles. values_of(j, column,
// count) loads columns of value j. Chain: the order of the sum, OneChain or PairedChains.
template <class Chain, class ValuesOf>
MHA_COLD void sums_of_visible(const AttentionRow* rows, int64_t num_rows, int64_t begin, int64_t keys, int64_t width,
                              const float* probabilities, ValuesOf values_of, float* sums, int64_t pitch) {
  for (int64_t r = 0; r < num_rows; ++r) {
    for (int64_t column = 0; column < width; column += kLanes) {
      const int count = static_cast<int>(least(width - column, kLanes));
      Chain chain;
      for (int64_t j = 0; j < keys; ++j) {
        if (!is_visible(rows[r], begin + j)) continue;
        chain.add(j, set1(probabilities[r * kScoreStride + j]), values_of(j, column, count));
      }
      store(sums + r * pitch + column, chain.end());
    }
  }
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
