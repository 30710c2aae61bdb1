// SPDX-License-Identifier: Apache-2.0
// Attention weights that the attention kernels store beside the output. The weight of a key is its exponential in the
// softmax of its chunk, times the chunk's factor 2^(8 (max of the chunk - max of the row)) / sum. The last chunk's
// weights are finished at once. Earlier chunks store their exponentials and their maxima, so that one multiplication
// finishes them; stored scores would need a second exp2. Included by algorithms-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

// A chunk's factors from its maxima, for the rows of a group whose last chunk has been combined.
template <class Rounding>
MHA_NOINLINE void chunk_factors(const float* maxima, int64_t rows, const RowFactors& f, float* factors) {
  const Vec none = set1(-kInfinity);
  for (int64_t r = 0; r < rows; r += kLanes) {
    const Vec most = load(f.running_max + r), base = select_greater(most, none, most, zero());
    const Vec chunk = load_first(maxima + r, static_cast<int>(least(rows - r, kLanes)));
    store(factors + r, mul(exp2_of_difference<Rounding>(chunk, base), inverse_or_zero(load(f.running_sum + r))));
  }
}

// to[j] = from[j] * factor, j in [begin, end).
inline void scale_weights(const float* from, int64_t begin, int64_t end, float factor, float* to) {
  const Vec by = set1(factor);
  int64_t j = begin;
  for (; j + kLanes <= end; j += kLanes) store(to + j, mul(load(from + j), by));
  const int count = static_cast<int>(end - j);
  if (count > 0) store_first(to + j, mul(load_first(from + j, count), by), count);
}

inline void clear_weights(float* weights, int64_t begin, int64_t end) {
  if (begin < end) memset(weights + begin, 0, static_cast<size_t>(end - begin) * sizeof(float));
}

// Finishes the weights of keys [begin, end), which are in one chunk. A maximum of -inf: the row skipped this chunk or
// sees none of its keys, so no exponentials were stored and all weights become 0.
MHA_NOINLINE void finish_chunk(const AttentionRow& row, int64_t begin, int64_t end, float maximum, float factor) {
  const int64_t visible_end = maximum == -kInfinity ? begin : most(begin, least(row.key_end, end));
  const int64_t pinned = most(begin, least(pinned_end(row), visible_end));
  const int64_t visible = most(pinned, least(row.key_begin, visible_end));
  scale_weights(row.weights, begin, pinned, factor, row.weights);
  clear_weights(row.weights, pinned, visible);
  scale_weights(row.weights, visible, visible_end, factor, row.weights);
  clear_weights(row.weights, visible_end, end);
}

// A row whose sum is NaN: visible keys get NaN, hidden keys 0.
MHA_COLD void leave_nan(const AttentionRow& row, int64_t begin, int64_t end, float* weights) {
  for (int64_t j = begin; j < end; ++j) weights[j - begin] = is_visible(row, j) ? __builtin_nanf("") : 0.0f;
}

// Whether the softmax stores a chunk's exponentials in the rows of weights itself: only whole vectors, and not of the
// last chunk. Otherwise keep_weights does.
inline bool copies_whole(const AttentionRow* rows, int64_t keys, bool last) {
  return rows[0].weights != nullptr && !last && keys % kLanes == 0;
}

// Stores a chunk's exponentials `weights` [num_rows][kScoreStride], of rows from `row` on, in the rows of attention
// weights. `last`: also finishes these rows, up to their end.
template <class Rounding>
MHA_NOINLINE void keep_weights(const AttentionArgs& a, int64_t row, int64_t num_rows, int64_t begin, int64_t keys,
                               bool last, const RowFactors& f, const float* weights) {
  const AttentionRow* rows = a.rows + row;
  if (rows[0].weights == nullptr) return;  // either all rows want weights or none
  float* maxima = a.maxima != nullptr ? a.maxima + begin / kChunk * a.num_rows + row : nullptr;
  if (!last) {
    const size_t bytes = copies_whole(rows, keys, last) ? 0 : static_cast<size_t>(keys) * sizeof(float);
    for (int64_t r = 0; r < num_rows; ++r) {
      if (bytes > 0) memcpy(rows[r].weights + begin, weights + r * kScoreStride, bytes);
      if (maxima != nullptr) maxima[r] = f.chunk_max[r];
    }
    return;
  }
  alignas(64) float factors[kMaxGroupRows];
  for (int64_t c = 0; c < begin / kChunk; ++c) {
    const float* before = a.maxima + c * a.num_rows + row;
    chunk_factors<Rounding>(before, num_rows, f, factors);
    for (int64_t r = 0; r < num_rows; ++r) finish_chunk(rows[r], c * kChunk, (c + 1) * kChunk, before[r], factors[r]);
  }
  chunk_factors<Rounding>(f.chunk_max, num_rows, f, factors);
  for (int64_t r = 0; r < num_rows; ++r) {
    scale_weights(weights + r * kScoreStride, 0, keys, factors[r], rows[r].weights + begin);
    clear_weights(rows[r].weights, begin + keys, a.weights_len);
    if (f.running_sum[r] != f.running_sum[r]) leave_nan(rows[r], 0, a.weights_len, rows[r].weights);
  }
}

// Marks all chunks as skipped.
inline void clear_maxima(const AttentionArgs& a) {
  if (a.maxima == nullptr) return;
  const int64_t count = divide_up(a.key_end, kChunk) * a.num_rows;
  for (int64_t n = 0; n < count; ++n) a.maxima[n] = -kInfinity;
}

template <class Rounding>
inline void finish_weights(const FinishWeightsArgs* args) {
  const AttentionRow& row = *args->row;
  RowFactors f;
  load_states(&args->state, 1, false, f);
  for (int64_t c = 0; c < args->num_chunks; ++c) {
    const float maximum = args->maxima[c * args->step];
    alignas(64) float maxima[kLanes], factors[kLanes];
    store(maxima, set1(maximum));
    chunk_factors<Rounding>(maxima, 1, f, factors);
    finish_chunk(row, c * kChunk, least((c + 1) * kChunk, args->weights_len), maximum, factors[0]);
  }
  clear_weights(row.weights, args->num_chunks * kChunk, args->weights_len);
  if (args->state.sum != args->state.sum) leave_nan(row, 0, args->weights_len, row.weights);
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
