// SPDX-License-Identifier: Apache-2.0
// Softmax of one row of scores over one chunk of keys: exact maximum, exp2, sum. Included by algorithms-inl.h, once per
// target. A score x stands for 2^(8 x) (kScoreUnit): the query carries scale * log2(e) / 8.
namespace mha::MHA_TARGET_NS {
namespace {

// Rows of scores are a chunk and one line apart. At a chunk alone, 1024 bytes, the rows of a group would fall into four
// sets of L1 and evict each other.
constexpr int64_t kScoreStride = kChunk + kLanes;

// 2^(8 (x - base)). The difference is taken first, so that large x and base lose no precision.
template <class Rounding = Fused>
MHA_INLINE Vec exp2_of_difference(const Vec& x, const Vec& base) {
  return exp2<Rounding>(mul(sub(x, base), set1(kScoreUnit)));
}

// A maximum of -inf means that there is no key yet. Base 0 then avoids -inf minus -inf, and 2^(-inf - 0) is 0.
MHA_INLINE float exponent_base(float max) { return max == -kInfinity ? 0.0f : max; }

// The most query rows that take a step of the online softmax together.
constexpr int64_t kMaxGroupRows = 64;

// For each row of a group, 16 rows to a vector: max and sum of the chunk, running max and running sum, and the factors
// that combine them: output = output * keep + chunk * take, and at the end output * inverse.
struct RowFactors {
  alignas(64) float chunk_max[kMaxGroupRows];
  alignas(64) float chunk_sum[kMaxGroupRows];
  alignas(64) float running_max[kMaxGroupRows];
  alignas(64) float running_sum[kMaxGroupRows];
  alignas(64) float keep[kMaxGroupRows];
  alignas(64) float take[kMaxGroupRows];
  alignas(64) float inverse[kMaxGroupRows];  // 1 / sum; 0 for a row without visible keys, NaN for NaN
};

inline void load_states(const RowState* states, int64_t rows, bool first, RowFactors& f) {
  for (int64_t r = 0; r < rows; r += kLanes) {
    store(f.running_max + r, set1(-kInfinity));
    store(f.running_sum + r, zero());
  }
  for (int64_t r = 0; r < rows && !first; ++r) f.running_max[r] = states[r].max, f.running_sum[r] = states[r].sum;
}

// Merges the chunk's max and sum into the running ones. The caller passes chunks in ascending order.
template <class Rounding = Fused>
inline void merge_states(RowFactors& f, int64_t rows) {
  const Vec none = set1(-kInfinity);
  for (int64_t r = 0; r < rows; r += kLanes) {
    const Vec chunk = load(f.chunk_max + r), running = load(f.running_max + r);
    const Vec most = max_or_second(running, chunk);
    const Vec base = select_greater(most, none, most, zero());
    const Vec keep = exp2_of_difference<Rounding>(running, base), take = exp2_of_difference<Rounding>(chunk, base);
    const Vec total = Rounding::multiply_add(load(f.running_sum + r), keep, mul(load(f.chunk_sum + r), take));
    store(f.running_max + r, most);
    store(f.running_sum + r, total);
    store(f.keep + r, keep);
    store(f.take + r, take);
    store(f.inverse + r, inverse_or_zero(total));
  }
}

// Merges sinks [rows padded to 16] into the states of rows after their last chunk. A sink acts as one more chunk, with
// one key and no value. `inverse` then turns the output into the result.
template <class Rounding>
inline void merge_sinks(const float* sinks, RowFactors& f, int64_t rows) {
  const Vec none = set1(-kInfinity);
  for (int64_t r = 0; r < rows; r += kLanes) {
    const Vec sink = load(sinks + r), running = load(f.running_max + r);
    const Vec most = max_or_second(running, sink);
    const Vec base = select_greater(most, none, most, zero());
    const Vec keep = exp2_of_difference<Rounding>(running, base);
    const Vec total = Rounding::multiply_add(load(f.running_sum + r), keep, exp2_of_difference<Rounding>(sink, base));
    store(f.running_max + r, most);
    store(f.running_sum + r, total);
    store(f.inverse + r, mul(keep, inverse_or_zero(total)));
  }
}

template <class Rounding>
inline void merge_row_sinks(const AttentionRow* rows, int64_t num_rows, RowFactors& f) {
  alignas(64) float sinks[kMaxGroupRows];
  for (int64_t r = 0; r < round_up(num_rows, kLanes); ++r)
    sinks[r] = r < num_rows ? rows[r].extras->mods.sink : -kInfinity;
  merge_sinks<Rounding>(sinks, f, num_rows);
}

template <class Rounding>
inline void merge_one_sink(float sink, RowFactors& f) {
  alignas(64) float sinks[kLanes];
  store(sinks, set1(sink));
  merge_sinks<Rounding>(sinks, f, 1);
}

inline void store_states(const RowFactors& f, int64_t rows, RowState* states) {
  for (int64_t r = 0; r < rows; ++r) states[r] = {f.running_max[r], f.running_sum[r]};
}

// Lane by lane, the exact maximum of a row's panels * 16 scores, ignoring NaN.
MHA_INLINE Vec max_of_row(const float* scores, int64_t panels) {
  Vec most = set1(-kInfinity);
  for (int64_t p = 0; p < panels; ++p) most = max_or_second(load(scores + p * kLanes), most);
  return most;
}

// Replaces a row's scores by 2^(8 (score - max)) and returns their sum, lane by lane, panel by panel. Hidden scores are
// -inf and become 0; a NaN stays NaN and makes the sum NaN. kCopies: also stores the exponentials at `copy`. One fma
// makes the exponent. It has the bits of 8 * (rounded difference), because a power of two does not change rounding.
template <bool kCopies>
MHA_INLINE Vec exp2_of_row(float* scores, int64_t panels, float row_max, float* copy) {
  const Vec unit = set1(kScoreUnit), base = set1(-kScoreUnit * exponent_base(row_max));
  Vec total = zero();
  for (int64_t p = 0; p < panels; ++p) {
    const Vec e = exp2(fma(load(scores + p * kLanes), unit, base));
    store(scores + p * kLanes, e);
    if (kCopies) store(copy + p * kLanes, e);
    total = add(total, e);
  }
  return total;
}

// The input of a group's softmax: keys [begin, begin + keys) of some rows.
struct ChunkRows {
  const AttentionRow* rows;
  int64_t num_rows, begin, keys;

  int64_t panels() const { return divide_up(keys, kLanes); }
};

constexpr float kToHugeUnit = 1 / (kHugeUnit * kToScoreUnit);

// -inf, a row that sees no key, is not huge. If a maximum is not huge, 8 times it does not overflow.
MHA_INLINE bool is_huge_max(float max) { return max >= kHugeScore || (max <= -kHugeScore && max != -kInfinity); }

// The sum of the additive masks of `count` keys from `key` on, times `unit`; zeros beyond.
inline Vec masks_of_keys(const AttentionRow& row, int64_t key, int count, const Vec& unit) {
  Vec sum = zero();
  if (count > 0 && row.add_mask != nullptr) sum = mul(mask_entries(first_add_mask(row), key, count), unit);
  if (count > 0 && add_mask2(row) != nullptr) {
    sum = add(sum, mul(mask_entries(second_add_mask(row), key, count), unit));
  }
  return sum;
}

// Converts the scores of a row with a huge maximum to the unit described at kHugeScore. Returns their maximum, lane by
// lane. If masks are so large that adding them absorbed the score, the new score is made from the masks alone, which is
// exact.
MHA_COLD Vec keep_huge_scores(const AttentionRow& row, int64_t begin, int64_t keys, float* scores) {
  const Vec least_normal = set1(1.17549435e-38f), unit = set1(kToScoreUnit), quarter = set1(1 / kHugeUnit);
  const Vec factor = set1(kToHugeUnit);
  const bool has_masks = row.add_mask != nullptr || add_mask2(row) != nullptr;
  const int64_t masked = has_masks ? least(keys, masked_end(row) - begin) : 0;
  Vec most = set1(-kInfinity);
  for (int64_t j = 0; j < keys; j += kLanes) {
    const int count = static_cast<int>(least(mha::most(masked - j, 0), kLanes));
    const Vec s = load(scores + j), added = absolute(sub(s, masks_of_keys(row, begin + j, count, unit)));
    const Vec masks = masks_of_keys(row, begin + j, count, quarter);
    const Vec kept = select_greater(least_normal, added, masks, mul(s, factor));
    store(scores + j, kept);
    most = max_or_second(kept, most);
  }
  return most;
}

// exp2_of_row for such a row: the exponential is 1 for scores equal to the maximum, 0 for others. *row_max becomes the
// maximum in the new unit. `has_greater`: the row has greater scores in other chunks, so these get probability 0 in the end
// (masks of -FLT_MAX instead of -inf), and their exact conversion is skipped.
template <bool kCopies>
MHA_COLD Vec exp2_of_huge_row(const ChunkRows& chunk, int64_t r, bool has_greater, float* scores, float* row_max,
                              float* copy) {
  float most = *row_max;
  if (has_greater) {
    *row_max = most * kToHugeUnit;
  } else {
    *row_max = most = max(keep_huge_scores(chunk.rows[r], chunk.begin, chunk.keys, scores));
  }
  const Vec base = set1(exponent_base(most)), one = set1(1.0f);
  Vec total = zero();
  for (int64_t p = 0; p < chunk.panels(); ++p) {
    const Vec below = sub(load(scores + p * kLanes), base);
    const Vec e = select_greater(zero(), below, zero(), add(one, below));  // NaN stays
    store(scores + p * kLanes, e);
    if (kCopies) store(copy + p * kLanes, e);
    total = add(total, e);
  }
  return total;
}

// Up to this many rows are folded one by one: folding 16 at once costs more than so few.
constexpr int64_t kFewRows = 4;

// folded[r] = the fold of lanes[r][16]. Rows added up to a multiple of 16 hold `none`.
template <class FoldRow, class FoldRows>
MHA_INLINE void fold_lanes(float* lanes, int64_t rows, float none, FoldRow fold_row, FoldRows fold_rows,
                           float* folded) {
  if (rows <= kFewRows) {
    store(folded, set1(none));
    for (int64_t r = 0; r < rows; ++r) folded[r] = fold_row(load(lanes + r * kLanes));
    return;
  }
  for (int64_t r = rows; r % kLanes != 0; ++r) store(lanes + r * kLanes, set1(none));
  for (int64_t r = 0; r < rows; r += kLanes) store(folded + r, fold_rows(lanes + r * kLanes));
}

// What the softmax of F32 does with a row's maximum and scores; Bf16Softmax (bf16-inl.h) is its like.
struct F32Softmax {
  using Rounding = Fused;
  static MHA_INLINE float base(float max) { return max; }
  template <bool kCopies>
  MHA_INLINE Vec exp2_row(int64_t, float* scores, int64_t panels, float base, float* copy) const {
    return exp2_of_row<kCopies>(scores, panels, base, copy);
  }
  // Takes row r's weights, where exp2_row did not make them.
  MHA_INLINE void keep_row(int64_t, const float*, int64_t) const {}
};

// Softmax of a group: `scores` holds rows kScoreStride apart, f the running states. All maxima come first, so that no
// row waits for its own; the lanes of 16 rows are folded together. kCopies: also stores the exponentials in the rows of
// weights, while they are in registers. Each case is a function of its own: on avx2, both in one function slow the case
// without copies.
template <class Softmax, bool kCopies>
MHA_NOINLINE void softmax_leaving(const Softmax& softmax, const ChunkRows& chunk, float* scores, RowFactors& f) {
  alignas(64) float lanes[kMaxGroupRows * kLanes];
  const int64_t rows = chunk.num_rows, panels = chunk.panels();
  for (int64_t r = 0; r < rows; ++r) store(lanes + r * kLanes, max_of_row(scores + r * kScoreStride, panels));
  fold_lanes(
      lanes, rows, -kInfinity, [](const Vec& v) MHA_ALWAYS_INLINE { return max(v); },
      [](const float* p) MHA_ALWAYS_INLINE { return max_rows(p); }, f.chunk_max);
  for (int64_t r = 0; r < rows; ++r) {
    float* copy = kCopies ? chunk.rows[r].weights + chunk.begin : nullptr;
    float* row = scores + r * kScoreStride;
    float* most = f.chunk_max + r;
    if (!is_huge_max(*most)) {
      *most = Softmax::base(*most);
      store(lanes + r * kLanes, softmax.template exp2_row<kCopies>(r, row, panels, *most, copy));
    } else {
      const bool has_greater = *most < 0.0f && f.running_max[r] > -kHugeScore;
      store(lanes + r * kLanes, exp2_of_huge_row<kCopies>(chunk, r, has_greater, row, most, copy));
      softmax.keep_row(r, row, panels);
    }
  }
  fold_lanes(
      lanes, rows, 0.0f, [](const Vec& v) MHA_ALWAYS_INLINE { return sum(v); },
      [](const float* p) MHA_ALWAYS_INLINE { return sum_rows(p); }, f.chunk_sum);
}

template <class Softmax>
inline void softmax_rows(const Softmax& softmax, const ChunkRows& chunk, bool copies, float* scores, RowFactors& f) {
  (copies ? softmax_leaving<Softmax, true> : softmax_leaving<Softmax, false>)(softmax, chunk, scores, f);
}

inline void tanh_array(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int count = static_cast<int>(n - i < kLanes ? n - i : kLanes);
    store_first(y + i, tanh(load_first(x + i, count)), count);
  }
}

inline void exp2_array(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int count = static_cast<int>(n - i < kLanes ? n - i : kLanes);
    store_first(y + i, exp2(load_first(x + i, count)), count);
  }
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
