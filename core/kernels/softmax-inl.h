// SPDX-License-Identifier: Apache-2.0
// Softmax of one row of scores over one chunk of keys: masks, exact maximum, exp2, sum. Included by all-inl.h, once per
// target. Scores are in units of log2 (the query carries scale * log2(e)).
namespace mha::MHA_TARGET_NS {
namespace {

constexpr float kLowest = -3.402823466e+38f;
constexpr float kInfinity = __builtin_inff();
constexpr float kLog2e = 1.44269504088896341f;

// Sets scores[j] to -inf where key `begin` + j is not visible to the row, j in [0, keys rounded up to 16), and adds the
// additive mask elsewhere. A select, not an addition: what is masked may be NaN.
inline void mask_scores(const AttentionRow& row, int64_t begin, int64_t keys, float* scores) {
  const Vec hidden = set1(-kInfinity);
  for (int64_t j = 0; j < keys; j += kLanes) {
    const int count = static_cast<int>(keys - j < kLanes ? keys - j : kLanes);
    Vec s = load(scores + j);
    if (row.add_mask != nullptr) {
      const Vec mask = load_first(row.add_mask + begin + j, count);
      // -FLT_MAX * log2(e) must not become -inf, which would mask the key.
      s = add(s, max_or_second(set1(kLowest), mul(mask, set1(kLog2e))));
      s = select_greater(set1(kLowest), mask, hidden, s);
    }
    if (row.bool_mask != nullptr) {
      s = select_greater(load_bytes_first(row.bool_mask + begin + j, count), zero(), s, hidden);
    }
    const int64_t visible = row.key_end - begin - j;
    if (visible < kLanes) s = select_greater(set1(static_cast<float>(visible)), lane_numbers(), s, hidden);
    store(scores + j, s);
  }
}

inline bool has_hidden_keys(const AttentionRow& row, int64_t key_end) {
  return row.add_mask != nullptr || row.bool_mask != nullptr || row.key_end < key_end;
}

// -inf stands for "no key yet": 2^(x - 0) is then 0 for every x that can be there.
MHA_INLINE float exponent_base(float max) { return max == -kInfinity ? 0.0f : max; }

// Replaces the scores of a chunk by 2^(score - max). panels * 16 scores; those that are hidden are -inf. A NaN among
// them does not enter the maximum, but stays NaN and makes the sum NaN.
inline RowState softmax_chunk(float* scores, int64_t panels) {
  Vec most = set1(-kInfinity);
  for (int64_t p = 0; p < panels; ++p) most = max_or_second(load(scores + p * kLanes), most);
  const float chunk_max = max(most);
  const Vec base = set1(exponent_base(chunk_max));
  Vec total = zero();
  for (int64_t p = 0; p < panels; ++p) {
    const Vec e = exp2(sub(load(scores + p * kLanes), base));
    store(scores + p * kLanes, e);
    total = add(total, e);
  }
  return {chunk_max, sum(total)};
}

// How a chunk's partial result joins the running one: output = output * keep + chunk * take.
struct MergeFactors {
  float keep;
  float take;
};

MHA_INLINE float exp2_one(float x) {
  alignas(64) float y[kLanes];
  store(y, exp2(set1(x)));
  return y[0];
}

inline MergeFactors merge_state(RowState& running, const RowState& chunk) {
  const float most = running.max > chunk.max ? running.max : chunk.max;
  const float base = exponent_base(most);
  const MergeFactors factors = {exp2_one(running.max - base), exp2_one(chunk.max - base)};
  running.sum = fma_one(running.sum, factors.keep, chunk.sum * factors.take);
  running.max = most;
  return factors;
}

// 1 / sum; 0 for a row without visible keys, NaN for NaN.
MHA_INLINE float inverse_sum(const RowState& state) { return state.sum == 0.0f ? 0.0f : 1.0f / state.sum; }

}  // namespace
}  // namespace mha::MHA_TARGET_NS
