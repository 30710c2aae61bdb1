// SPDX-License-Identifier: Apache-2.0
// Attention weights by a second pass, which computes the scores again and takes the final max and sum of each row from
// the states: for the mean over heads, sums over queries and single rows. Scores go through the same operations as in
// row_weights-inl.h, so the bits are the same. Included by algorithms-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

// Stores the weights of one row and one chunk.
inline void store_weights(const float* weights, int64_t keys, float chunk_factor, const WeightsArgs& args, float* dst) {
  const Vec by = set1(chunk_factor), factor = set1(args.factor);
  for (int64_t j = 0; j < keys; j += kLanes) {
    const int count = static_cast<int>(keys - j < kLanes ? keys - j : kLanes);
    Vec w = mul(load(weights + j), by);
    if (args.accumulate) w = add(load_first(dst + j, count), w);
    store_first(dst + j, mul(w, factor), count);
  }
}

// The same for keys that no row of the group sees: their weight is 0.
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

template <class Products>
inline void weights_group(const WeightsArgs& args, int64_t row, int64_t num_rows, int64_t begin, int64_t chunk_keys,
                          const PackedScratch& scratch) {
  const AttentionRow* rows = args.rows + row;
  Group g = group_at(args.rows, row, num_rows, begin);
  g.keys = keys_before(g.sight.end, begin, chunk_keys);
  if (!any_may_see(rows, num_rows, begin, begin + g.keys)) g.keys = 0;
  if (g.keys > 0) {
    Products::ready_queries(rows, num_rows, args.query_element, args.head_dim, args.query_scale, scratch.queries);
    Products::multiply_keys(scratch.queries, scratch.keys, args.head_dim, args.query_scale, num_rows,
                            round_up(g.keys, kLanes), scratch.scores);
    mask_group<typename Products::FloatSoftmax::Rounding>(rows, args.mods, g, scratch.scores);
  }
  RowFactors f;
  for (int64_t r = 0; r < num_rows; ++r) f.running_max[r] = rows[r].state.max, f.running_sum[r] = rows[r].state.sum;
  for (int64_t r = num_rows; r < round_up(num_rows, kLanes); ++r) f.running_max[r] = f.running_sum[r] = 0.0f;
  softmax_rows(typename Products::FloatSoftmax(), {rows, num_rows, begin, g.keys}, false, scratch.scores, f);
  alignas(64) float factors[kMaxGroupRows];
  chunk_factors<typename Products::FloatSoftmax::Rounding>(f.chunk_max, num_rows, f, factors);
  for (int64_t r = 0; r < num_rows; ++r) {
    float* weights = scratch.scores + r * kScoreStride;
    float* output = reinterpret_cast<float*>(rows[r].output) + begin;
    if (f.running_sum[r] != f.running_sum[r]) {
      leave_nan(rows[r], begin, begin + g.keys, weights);
      factors[r] = 1.0f;
    }
    store_weights(weights, g.keys, factors[r], args, output);
    if (g.keys < chunk_keys) store_no_weights(args, chunk_keys - g.keys, output + g.keys);
  }
}

template <class Products>
inline void weights(const WeightsArgs* args) {
  const WeightsArgs& a = *args;
  [[maybe_unused]] const typename Products::Session session;
  const PackedScratch scratch = Products::split(a.scratch, a.head_dim, 0, false);
  for (int64_t begin = 0; begin < a.key_len; begin += kChunk) {
    const int64_t keys = a.key_len - begin < kChunk ? a.key_len - begin : kChunk;
    if (any_may_see(a.rows, a.num_rows, begin, begin + keys)) {
      Products::pack_keys(a.key, begin, keys, a.head_dim, scratch.block, scratch.keys);
    }
    for (int64_t r = 0; r < a.num_rows; r += Products::kGroupRows) {
      weights_group<Products>(a, r, a.num_rows - r < Products::kGroupRows ? a.num_rows - r : Products::kGroupRows,
                              begin, keys, scratch);
    }
  }
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
