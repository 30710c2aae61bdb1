// SPDX-License-Identifier: Apache-2.0
// Softmax of one row of scores over one chunk of keys: masks, exact maximum, exp2, sum. Included by all-inl.h, once per
// target. Scores are in units of log2 (the query carries scale * log2(e)).
namespace mha::MHA_TARGET_NS {
namespace {

constexpr float kLowest = -3.402823466e+38f;
constexpr float kInfinity = __builtin_inff();
constexpr float kLog2e = 1.44269504088896341f;

// Rows of scores lie a line more than a chunk apart: at 1024 bytes the rows of a group would fall into four sets of the
// nearest cache (the product of 24 rows and 256 keys then reached 0.81 of the peak instead of 0.92).
constexpr int64_t kScoreStride = kChunk + kLanes;

// Sets scores[j] to -inf where key `begin` + j is not visible to the row, j in [0, keys rounded up to 16), and adds the
// additive mask elsewhere. A select, not an addition: what is masked may be NaN.
inline void mask_scores(const AttentionRow& row, int64_t begin, int64_t keys, float* scores) {
  const Vec hidden = set1(-kInfinity);
  const bool gap = row.tail_begin > 0;
  const int64_t visible_keys = (gap ? row.gap_begin : row.key_end) - begin;
  const int64_t tail = row.tail_begin - begin;
  // Without masks the keys before the end stay as they are.
  const bool only_end = row.add_mask == nullptr && row.bool_mask == nullptr;
  for (int64_t j = only_end && visible_keys > 0 ? visible_keys / kLanes * kLanes : 0; j < keys; j += kLanes) {
    const int64_t left = (gap && tail < keys ? tail : keys) - j;
    const int count = static_cast<int>(left < 0 ? 0 : (left < kLanes ? left : kLanes));
    const Vec unmasked = load(scores + j);
    Vec s = unmasked;
    if (row.add_mask != nullptr) {
      const Vec mask = load_first(row.add_mask + begin + j, count);
      // -FLT_MAX * log2(e) must not become -inf, which would mask the key.
      s = add(s, max_or_second(set1(kLowest), mul(mask, set1(kLog2e))));
      s = select_greater(set1(kLowest), mask, hidden, s);
    }
    if (row.bool_mask != nullptr) {
      s = select_greater(load_bytes_first(row.bool_mask + begin + j, count), zero(), s, hidden);
    }
    const int64_t visible = visible_keys - j;
    if (visible < kLanes) s = select_greater(set1(static_cast<float>(visible)), lane_numbers(), s, hidden);
    if (gap && tail - j < kLanes) {
      s = select_greater(set1(static_cast<float>(tail - j)), lane_numbers(), s, unmasked);
      s = select_greater(set1(static_cast<float>(row.key_end - begin - j)), lane_numbers(), s, hidden);
    }
    store(scores + j, s);
  }
}

inline bool has_hidden_keys(const AttentionRow& row, int64_t key_end) {
  return row.add_mask != nullptr || row.bool_mask != nullptr || row.key_end < key_end || row.gap_begin < row.tail_begin;
}

// -inf stands for "no key yet": 2^(x - 0) is then 0 for every x that can be there.
MHA_INLINE float exponent_base(float max) { return max == -kInfinity ? 0.0f : max; }

// Per row of a group, 16 rows to a vector: the softmax of the chunk, the running state, and how the two merge:
// output = output * keep + chunk * take, in the end times inverse.
template <int kRows>
struct RowFactors {
  static constexpr int kPadded = (kRows + kLanes - 1) / kLanes * kLanes;
  alignas(64) float chunk_max[kPadded];
  alignas(64) float chunk_sum[kPadded];
  alignas(64) float running_max[kPadded];
  alignas(64) float running_sum[kPadded];
  alignas(64) float keep[kPadded];
  alignas(64) float take[kPadded];
  alignas(64) float inverse[kPadded];  // 1 / sum; 0 for a row without visible keys, NaN for NaN
};

template <int kRows>
inline void load_states(const RowState* states, int64_t rows, bool first, RowFactors<kRows>& f) {
  for (int r = 0; r < RowFactors<kRows>::kPadded; ++r) {
    const bool used = r < rows;
    f.running_max[r] = used && !first ? states[r].max : -kInfinity;
    f.running_sum[r] = used && !first ? states[r].sum : 0.0f;
    if (!used) f.chunk_max[r] = -kInfinity, f.chunk_sum[r] = 0.0f;
  }
}

// Merges chunk into running state, ascending order of chunks being the caller's business.
template <int kRows>
inline void merge_states(RowFactors<kRows>& f, int64_t rows) {
  const Vec none = set1(-kInfinity);
  for (int64_t r = 0; r < rows; r += kLanes) {
    const Vec chunk = load(f.chunk_max + r), running = load(f.running_max + r);
    const Vec most = max_or_second(running, chunk);
    const Vec base = select_greater(most, none, most, zero());
    const Vec keep = exp2(sub(running, base)), take = exp2(sub(chunk, base));
    const Vec total = fma(load(f.running_sum + r), keep, mul(load(f.chunk_sum + r), take));
    store(f.running_max + r, most);
    store(f.running_sum + r, total);
    store(f.keep + r, keep);
    store(f.take + r, take);
    store(f.inverse + r, inverse_or_zero(total));
  }
}

// Lane by lane, the exact maximum of a row's panels * 16 scores, NaN left out.
MHA_INLINE Vec max_of_row(const float* scores, int64_t panels) {
  Vec most = set1(-kInfinity);
  for (int64_t p = 0; p < panels; ++p) most = max_or_second(load(scores + p * kLanes), most);
  return most;
}

// Replaces a row's scores by 2^(score - max) and returns their sum, lane by lane, panel by panel. Hidden scores are
// -inf and become 0; a NaN stays NaN and makes the sum NaN.
MHA_INLINE Vec exp2_of_row(float* scores, int64_t panels, float row_max) {
  const Vec base = set1(exponent_base(row_max));
  Vec total = zero();
  for (int64_t p = 0; p < panels; ++p) {
    const Vec e = exp2(sub(load(scores + p * kLanes), base));
    store(scores + p * kLanes, e);
    total = add(total, e);
  }
  return total;
}

// Softmax of a group: `scores` holds rows kScoreStride apart. All maxima come first, so that no row waits for its own;
// the lanes of 16 rows are folded together.
template <int kRows>
MHA_NOINLINE void softmax_rows(float* scores, int64_t rows, int64_t panels, RowFactors<kRows>& f) {
  alignas(64) float lanes[RowFactors<kRows>::kPadded * kLanes];
  for (int64_t r = 0; r < rows; ++r) store(lanes + r * kLanes, max_of_row(scores + r * kScoreStride, panels));
  for (int64_t r = rows; r % kLanes != 0; ++r) store(lanes + r * kLanes, set1(-kInfinity));
  for (int64_t r = 0; r < rows; r += kLanes) store(f.chunk_max + r, max_rows(lanes + r * kLanes));
  for (int64_t r = 0; r < rows; ++r) {
    store(lanes + r * kLanes, exp2_of_row(scores + r * kScoreStride, panels, f.chunk_max[r]));
  }
  for (int64_t r = rows; r % kLanes != 0; ++r) store(lanes + r * kLanes, zero());
  for (int64_t r = 0; r < rows; r += kLanes) store(f.chunk_sum + r, sum_rows(lanes + r * kLanes));
}

inline void exp2_array(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int count = static_cast<int>(n - i < kLanes ? n - i : kLanes);
    store_first(y + i, exp2(load_first(x + i, count)), count);
  }
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
