// SPDX-License-Identifier: Apache-2.0
// Fused attention of a block of query rows over a range of keys, chunk by chunk. Included by all-inl.h, once per
// target.
//
// What a chunk of C = 256 keys costs for R rows (up to 1024), in floats moved and vector operations:
//   pack keys and values   C (D + Dv) read and written, once for all R rows: 4 % of the time at 512 rows
//   queries * keys         R C D / 16 multiply-adds; 4 panels of keys stay in L1 while kAttentionRows rows pass
//   softmax                R C scores read and written in L1, 11 (AVX-512) to 14 operations for 16 of them
//   weights * values       R C Dv / 16 multiply-adds; C Dv from L2 for every kTileRows rows
//   merge                  the running output read and written once, R Dv
// Nothing of size Tq x Tk exists.
namespace mha::MHA_TARGET_NS {
namespace {

constexpr int kAttentionRows = 4 * kTileRows;
// Keys of one head lie far apart ([T, H, D]), where no hardware prefetcher follows: rows are asked for this far ahead.
constexpr int kRowsAhead = 16;

// Output rows of one head lie far apart ([T, H, D]): each is a page of its own, or half of one, and together they fall
// into few sets of the caches. Up to this width they are kept in scratch between chunks (T 1024 and 2048: 0.735 and
// 0.725 of the peak in the output rows, 0.754 and 0.751 in scratch). Of wider ones scratch could hold so few rows that
// packing more often costs more than that (D 128: 0.79 and 0.75).
constexpr int64_t kRunningWidth = 64;

struct Scratch {
  float* scores;   // [kAttentionRows][kScoreStride]
  float* keys;     // panels of a chunk
  float* values;   // panels of a chunk
  float* queries;  // [kAttentionRows][D], scaled
  float* block;    // [16][D rounded up to 16]: keys that lie in more than one page
  float* running;  // [rows][Dv rounded up to 16]: outputs between chunks; null: those are in the output rows
};

inline Scratch split_scratch(float* p, int64_t head_dim, int64_t value_head_dim, bool keeps_outputs) {
  Scratch s;
  s.scores = p;
  s.keys = s.scores + kAttentionRows * kScoreStride;
  s.values = s.keys + kChunk * head_dim;
  s.queries = s.values + kChunk * padded(value_head_dim);
  s.block = s.queries + kAttentionRows * head_dim;
  s.running = keeps_outputs ? s.block + kLanes * padded(head_dim) : nullptr;
  return s;
}

inline int64_t attention_scratch(int64_t running_rows, int64_t head_dim, int64_t value_head_dim) {
  const int64_t kept = value_head_dim <= kRunningWidth ? running_rows : 0;
  return kAttentionRows * (kScoreStride + head_dim) + kChunk * (head_dim + padded(value_head_dim)) +
         kLanes * padded(head_dim) + kept * padded(value_head_dim);
}

// dst[p][j][lane] = value[j][p * 16 + lane] for tokens [begin, begin + keys), zeros beyond the width. Returns whether
// all values are finite.
inline bool pack_values(const TokenRows& tokens, int64_t begin, int64_t keys, int64_t width, float* dst) {
  Vec probe = zero();  // 0 * NaN and 0 * Inf are NaN
  for_each_run(tokens, 0, begin, keys, [&](const TokenRun& run, int64_t) MHA_ALWAYS_INLINE {
    const float* value = run.row;
    for (int64_t j = 0; j < run.count; ++j, value += run.stride, dst += kLanes) {
      float* panel = dst;
      for (int64_t c = 0; c < width; c += kLanes, panel += keys * kLanes) {
        const int count = static_cast<int>(width - c < kLanes ? width - c : kLanes);
        const Vec v = count == kLanes ? load(value + c) : load_first(value + c, count);
        if (j + kRowsAhead < run.count) prefetch(value + kRowsAhead * run.stride + c);
        probe = fma(v, zero(), probe);
        store(panel, v);
      }
    }
  });
  return sum(probe) == 0.0f;
}

inline void scale_query(const float* query, float scale, int64_t head_dim, float* dst) {
  const Vec factor = set1(scale);
  int64_t d = 0;
  for (; d + kLanes <= head_dim; d += kLanes) store(dst + d, mul(load(query + d), factor));
  const int count = static_cast<int>(head_dim - d);
  if (count > 0) store_first(dst + d, mul(load_first(query + d, count), factor), count);
}

// dst[r][d] = query of row r, scaled.
inline void scale_queries(const AttentionRow* rows, int64_t num_rows, int64_t head_dim, float scale, float* dst) {
  for (int64_t r = 0; r < num_rows; ++r, dst += head_dim) scale_query(rows[r].query, scale, head_dim, dst);
}

// What a group's rows see together: one look at each row instead of several (T 128: 2 % of the time).
struct GroupSight {
  int64_t end, least_end;  // of the rows' key_end
  bool ends_only;          // nothing but their ends hides keys
};

inline GroupSight group_sight(const AttentionRow* rows, int64_t num_rows) {
  GroupSight sight = {rows[0].key_end, rows[0].key_end, true};
  for (int64_t r = 0; r < num_rows; ++r) {
    const AttentionRow& row = rows[r];
    sight.end = most(sight.end, row.key_end), sight.least_end = least(sight.least_end, row.key_end);
    sight.ends_only &= row.key_begin == 0 && !has_tail(row) && row.bool_mask == nullptr && row.add_mask == nullptr &&
                       add_mask2(row) == nullptr && !has_key_bits(row) && !has_blocks(row);
  }
  return sight;
}

// The product of a group's queries and the packed keys of a chunk. Not the GEMM's tile: that one's bias, blocks of k and
// edges cost a product of 64 steps 4 % (T 1024: 0.77 of the peak through it, 0.79 so).
struct ScoreTile {
  const float* queries;  // [rows][head_dim]
  const float* keys;     // panels [keys / 16][head_dim][16]
  int64_t head_dim;
  float* scores;  // [rows][kScoreStride]

  template <int kRows, int kPanels>
  MHA_INLINE void run(int64_t row, int64_t column) const {
    Sums<kRows, kPanels> sums;
    clear<kRows, kPanels>(sums);
    multiply_add<kRows, kPanels>(sums, queries + row * head_dim, head_dim, keys + column * head_dim, head_dim * kLanes,
                                 kLanes, head_dim);
    store_sums<kRows, kPanels>(sums, scores + row * kScoreStride + column, kScoreStride);
  }
};

// Scores of a group of rows (`queries` [num_rows][D], scaled) against the packed keys of a chunk, modified and masked:
// scratch.scores[r][j], j in [0, keys rounded up to 16). Returns whether any key of the range is hidden from any row.
inline bool group_scores(const AttentionRow* rows, int64_t num_rows, const GroupSight& sight, const float* queries,
                         int64_t head_dim, const ScoreMods& mods, int64_t begin, int64_t keys, const Scratch& scratch) {
  cover(ScoreTile{queries, scratch.keys, head_dim, scratch.scores}, num_rows, round_up(keys, kLanes));
  if (changes_scores(mods)) {
    for (int64_t r = 0; r < num_rows; ++r) {
      modify_scores(rows[r], mods, begin, keys, scratch.scores + r * kScoreStride);
    }
  }
  bool hidden = false;
  ChunkMasks common;
  if (sight.ends_only && sight.least_end >= begin + round_up(keys, kLanes)) return hidden;
  for (int64_t r = 0; r < num_rows; ++r) {
    if (!has_hidden_keys(rows[r], begin, begin + round_up(keys, kLanes))) continue;
    mask_scores(rows[r], begin, keys, common, scratch.scores + r * kScoreStride);
    hidden |= has_hidden_keys(rows[r], begin, begin + keys);
  }
  return hidden;
}

struct ChunkValues {
  int64_t begin, keys;
  int64_t done;  // the end of the chunk before this one, of those that are looked at; the first: -1
  bool last, finite;
  AheadRows* ahead;

  bool first() const { return done < 0; }
};

// The chunks that a call looks at: from the first to the last that any row may see, by their first keys. Chunks in
// between that no row sees are passed over.
struct SeenChunks {
  int64_t first, last;  // last < first: none
};

inline bool sees_chunk(const AttentionArgs& a, int64_t begin) {
  return any_may_see(a.rows, a.num_rows, begin, least(begin + kChunk, a.key_end));
}

inline SeenChunks seen_chunks(const AttentionArgs& a) {
  SeenChunks seen = {a.key_begin, a.key_begin + divide_up(a.key_end - a.key_begin, kChunk) * kChunk - kChunk};
  while (seen.first <= seen.last && !sees_chunk(a, seen.first)) seen.first += kChunk;
  while (seen.last > seen.first && !sees_chunk(a, seen.last)) seen.last -= kChunk;
  return seen;
}

// Keys of the chunk at `begin` up to the last in the range of any row.
inline int64_t keys_of_chunk(const AttentionArgs& a, int64_t begin) {
  const int64_t end = least(begin + kChunk, a.key_end);
  int64_t seen = begin;
  for (int64_t r = 0; r < a.num_rows && seen < end; ++r) {
    const AttentionRow& row = a.rows[r];
    seen = most(seen, least(row.key_begin < end ? row.key_end : pinned_end(row), end));
  }
  return seen - begin;
}

// A partial result of chunks that no row sees.
inline void leave_unseen(const AttentionArgs& a) {
  for (int64_t r = 0; r < a.num_rows; ++r) a.states[r] = {-kInfinity, kUnseen};
}

using GroupFactors = RowFactors<kAttentionRows>;

// Keys of the chunk that lie before `end`.
inline int64_t keys_before(int64_t end, int64_t begin, int64_t keys) {
  const int64_t seen = end - begin;
  return seen < 0 ? 0 : (seen < keys ? seen : keys);
}

inline void attention_group(const AttentionArgs& args, int64_t row, int64_t num_rows, const ChunkValues& chunk,
                            const Scratch& scratch) {
  const AttentionRow* rows = args.rows + row;
  RowState* states = args.states + row;
  const GroupSight sight = group_sight(rows, num_rows);
  const int64_t group_end = sight.end;
  if (group_end <= chunk.done) return;  // finished before
  const bool leaves = chunk.last || chunk.begin + kChunk >= group_end, last = args.finish && leaves;
  int64_t keys = keys_before(group_end, chunk.begin, chunk.keys);
  if (keys == 0 || (!sight.ends_only && !any_may_see(rows, num_rows, chunk.begin, chunk.begin + keys))) {
    if (!chunk.first() && !leaves) return;
    keys = 0;  // a row without keys has a result too
  }

  bool hidden = false;
  if (keys > 0) {
    scale_queries(rows, num_rows, args.head_dim, args.query_scale, scratch.queries);
    hidden = group_scores(rows, num_rows, sight, scratch.queries, args.head_dim, args.mods, chunk.begin, keys, scratch);
  }
  GroupFactors factors;
  load_states(states, num_rows, chunk.first(), factors);
  softmax_rows<kAttentionRows>({rows, num_rows, chunk.begin, keys}, copies_whole(rows, keys, last), scratch.scores,
                               factors);
  merge_states(factors, num_rows);
  store_states(factors, num_rows, states);
  if (last && args.mods.sink) merge_row_sinks(rows, num_rows, factors);
  keep_weights(args, row, num_rows, chunk.begin, keys, last, factors, scratch.scores);

  const ValueTile tile = {rows,
                          scratch.scores,
                          scratch.values,
                          keys,
                          sight.least_end < chunk.begin + keys,
                          chunk.keys * kLanes,
                          args.value_head_dim,
                          chunk.begin,
                          factors.keep,
                          factors.take,
                          last ? factors.inverse : nullptr,
                          chunk.first(),
                          chunk.ahead,
                          scratch.running == nullptr ? nullptr : scratch.running + row * padded(args.value_head_dim),
                          leaves};
  if (hidden && !chunk.finite) {
    value_rows_skipping(tile, num_rows, [&](int64_t j, int64_t column) {
      return tile.values + column / kLanes * tile.panel_stride + j * kLanes;
    });
  } else {
    cover(tile, num_rows, args.value_head_dim);
  }
  if (last) clear_empty_rows(rows, states, num_rows, args.value_head_dim);
  if (last && args.mods.sink) store_states(factors, num_rows, states);
}

// The queries of the group at `row`, or where there is none, of the next call's first.
inline AheadRows group_ahead(const AttentionArgs& a, int64_t row, bool last_chunk) {
  const int64_t left = a.num_rows - row, count = left < kAttentionRows ? left : kAttentionRows;
  if (count <= 0 && last_chunk && a.next_keys > 0) {
    return float_rows(a.next_query, a.next_query_stride, a.head_dim, kAttentionRows);
  }
  if (count < 2) return {};
  const float* first = a.rows[row].query;  // rows of one head but for a few: what lies elsewhere is not asked for
  return float_rows(first, a.rows[row + 1].query - first, a.head_dim, count);
}

// Where the weights of that group will be left.
inline AheadRows weights_ahead(const AttentionArgs& a, int64_t row, int64_t begin, int64_t keys) {
  const int64_t left = a.num_rows - row, count = left < kAttentionRows ? left : kAttentionRows;
  if (count < 2 || keys == 0 || a.rows[row].weights == nullptr) return {};
  float* first = a.rows[row].weights;
  return float_rows(first + begin, a.rows[row + 1].weights - first, keys, count);
}

// What that group's rows of a mask say of these keys. Bits are few, and near each other.
inline AheadRows masks_ahead(const AttentionArgs& a, int64_t row, int64_t begin, int64_t keys) {
  const int64_t left = a.num_rows - row, count = left < kAttentionRows ? left : kAttentionRows;
  if (count < 2 || keys == 0) return {};
  const AttentionRow &first = a.rows[row], &second = a.rows[row + 1];
  if (first.bool_mask != nullptr && bool_step(first) == 1) {
    return {reinterpret_cast<const char*>(first.bool_mask + begin), second.bool_mask - first.bool_mask,
            divide_up(keys, kLine), count};
  }
  if (first.add_mask != nullptr && add_step(first) == 1)
    return float_rows(first.add_mask + begin, second.add_mask - first.add_mask, keys, count);
  return {};
}

// What lies first of tokens [begin, begin + count).
inline AheadRows tokens_ahead(const TokenRows& tokens, int64_t begin, int64_t count, int64_t width) {
  if (count <= 0) return {};
  const TokenRun run = run_at(tokens, 0, begin, count);
  return float_rows(run.row, run.stride, width, run.count);
}

inline void attention(const AttentionArgs* args) {
  const AttentionArgs& a = *args;
  const SeenChunks seen = seen_chunks(a);
  const bool keeps_outputs = seen.first < seen.last && a.value_head_dim <= kRunningWidth;
  const Scratch scratch = split_scratch(a.scratch, a.head_dim, a.value_head_dim, keeps_outputs);
  clear_maxima(a);
  if (seen.last < seen.first && !a.finish) return leave_unseen(a);
  const bool none = seen.last < seen.first;
  int64_t begin = none ? a.key_begin : seen.first, done = -1;
  do {  // once at least: a row without keys has a result too
    if (done >= 0 && !sees_chunk(a, begin)) {
      begin += kChunk;
      continue;
    }
    const int64_t keys = none ? 0 : keys_of_chunk(a, begin);
    pack_keys(a.key, begin, keys, a.head_dim, scratch.block, scratch.keys);
    const bool finite = pack_values(a.value, begin, keys, a.value_head_dim, scratch.values);
    const int64_t next = begin + kChunk;
    const bool more = !none && begin < seen.last;
    AheadRows ahead[kAheadStreams] = {};
    if (more) {
      const int64_t next_keys = keys_before(a.key_end, next, kChunk);
      ahead[3] = tokens_ahead(a.key, next, next_keys, a.head_dim);
      ahead[4] = tokens_ahead(a.value, next, next_keys, a.value_head_dim);
    } else {
      ahead[3] = tokens_ahead(a.next_key, a.next_begin, a.next_keys, a.head_dim);
      ahead[4] = tokens_ahead(a.next_value, a.next_begin, a.next_keys, a.value_head_dim);
    }
    const ChunkValues chunk = {begin, keys, done, !more, finite, ahead};
    for (int64_t r = 0; r < a.num_rows; r += kAttentionRows) {
      ahead[0] = group_ahead(a, r + kAttentionRows, !more);
      ahead[1] = weights_ahead(a, r + kAttentionRows, begin, keys);
      ahead[2] = masks_ahead(a, r + kAttentionRows, begin, keys);
      attention_group(a, r, a.num_rows - r < kAttentionRows ? a.num_rows - r : kAttentionRows, chunk, scratch);
    }
    done = begin += kChunk;
  } while (begin <= seen.last);
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
