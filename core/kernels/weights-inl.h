// SPDX-License-Identifier: Apache-2.0
// Attention weights on request, from the final maxima and sums that the attention kernels left in the states: per head
// in place, from the scores they kept; for the mean over heads, sums over queries and single rows by a second pass that
// computes the scores again. Included by all-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

// Weights of 16 scores.
MHA_INLINE Vec weights_of(const Vec& scores, const Vec& base, const Vec& inverse) {
  const Vec w = mul(exp2(sub(scores, base)), inverse);
  return select_greater(set1(kLowest), scores, zero(), w);  // hidden: 0 also in a row that is NaN
}

inline void finish_run(float* scores, int64_t begin, int64_t end, const Vec& base, const Vec& inverse) {
  int64_t j = begin;
  for (; j + kLanes <= end; j += kLanes) store(scores + j, weights_of(load(scores + j), base, inverse));
  const int count = static_cast<int>(end - j);
  if (count > 0) store_first(scores + j, weights_of(load_first(scores + j, count), base, inverse), count);
}

inline void store_zeros(float* scores, int64_t begin, int64_t end) {
  if (begin < end) memset(scores + begin, 0, static_cast<size_t>(end - begin) * sizeof(float));
}

inline void finish_weights(const FinishWeightsArgs* args) {
  for (int64_t r = 0; r < args->num_rows; ++r) {
    const AttentionRow& row = args->rows[r];
    const Vec base = set1(exponent_base(args->states[r].max)), inverse = inverse_or_zero(set1(args->states[r].sum));
    const int64_t end = least(row.key_end, args->key_len);
    finish_run(row.scores, 0, pinned_end(row), base, inverse);
    store_zeros(row.scores, pinned_end(row), row.key_begin);
    finish_run(row.scores, row.key_begin, end, base, inverse);
    store_zeros(row.scores, end, args->key_len);
  }
}

// One row of weights over one chunk.
inline void store_weights(const float* scores, int64_t keys, const RowState& state, const WeightsArgs& args,
                          float* dst) {
  const Vec base = set1(exponent_base(state.max)), factor = set1(args.factor);
  const Vec inverse = inverse_or_zero(set1(state.sum));
  for (int64_t j = 0; j < keys; j += kLanes) {
    const int count = static_cast<int>(keys - j < kLanes ? keys - j : kLanes);
    Vec w = weights_of(load(scores + j), base, inverse);
    if (args.accumulate) w = add(load_first(dst + j, count), w);
    store_first(dst + j, mul(w, factor), count);
  }
}

// Keys that no row of the group sees.
inline void store_no_weights(const WeightsArgs& args, int64_t keys, float* dst) {
  if (!args.accumulate) {
    memset(dst, 0, static_cast<size_t>(keys) * sizeof(float));
    return;
  }
  const Vec factor = set1(args.factor);
  for (int64_t j = 0; j < keys; j += kLanes) {
    const int count = static_cast<int>(keys - j < kLanes ? keys - j : kLanes);
    store_first(dst + j, mul(load_first(dst + j, count), factor), count);
  }
}

inline void weights_group(const WeightsArgs& args, int64_t row, int64_t num_rows, int64_t begin, int64_t chunk_keys,
                          const Scratch& scratch) {
  const AttentionRow* rows = args.rows + row;
  const GroupSight sight = group_sight(rows, num_rows);
  int64_t keys = keys_before(sight.end, begin, chunk_keys);
  if (!any_may_see(rows, num_rows, begin, begin + keys)) keys = 0;
  if (keys > 0) {
    scale_queries(rows, num_rows, args.head_dim, args.query_scale, scratch.queries);
    group_scores(rows, num_rows, sight, scratch.queries, args.head_dim, args.mods, begin, keys, scratch);
  }
  for (int64_t r = 0; r < num_rows; ++r) {
    store_weights(scratch.scores + r * kScoreStride, keys, rows[r].state, args, rows[r].output + begin);
    if (keys < chunk_keys) store_no_weights(args, chunk_keys - keys, rows[r].output + begin + keys);
  }
}

inline void weights(const WeightsArgs* args) {
  const WeightsArgs& a = *args;
  const Scratch scratch = split_scratch(a.scratch, a.head_dim, 0, false);
  for (int64_t begin = 0; begin < a.key_len; begin += kChunk) {
    const int64_t keys = a.key_len - begin < kChunk ? a.key_len - begin : kChunk;
    if (any_may_see(a.rows, a.num_rows, begin, begin + keys)) {
      pack_keys(a.key, begin, keys, a.head_dim, scratch.block, scratch.keys);
    }
    for (int64_t r = 0; r < a.num_rows; r += kAttentionRows) {
      weights_group(a, r, a.num_rows - r < kAttentionRows ? a.num_rows - r : kAttentionRows, begin, keys, scratch);
    }
  }
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
