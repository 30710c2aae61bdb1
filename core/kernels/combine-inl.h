// SPDX-License-Identifier: Apache-2.0
// Combines a chunk's sums with the running output, and the kernel that combines partial results of chunks that separate
// calls computed (split-K). Included by algorithms-inl.h, once per target.
//
// For each row: output = output * keep + sums * take. After the last chunk the result is output * inverse + 0. Adding 0
// turns -0 into 0, so the sign does not depend on whether a masked key's 0 * value was added.
namespace mha::MHA_TARGET_NS {
namespace {

// Combines 16 columns of a row. kFirst: there is no running output yet. kLast: also makes the result.
template <class Rounding, bool kFirst, bool kLast>
struct RowCombination {
  Vec keep, take, inverse;

  MHA_INLINE Vec operator()(const Vec& sums, const Vec& running) const {
    Vec v = mul(sums, take);
    if (!kFirst) v = Rounding::multiply_add(running, keep, v);
    return kLast ? add(mul(v, inverse), zero()) : v;
  }
};

// Combines one row. `before` may be `output`.
template <class Rounding, bool kFirst, bool kLast>
MHA_INLINE void combine_row(const RowCombination<Rounding, kFirst, kLast>& combined, const float* sums,
                            const float* before, int64_t width, float* output) {
  int64_t d = 0;
  for (; d + 4 * kLanes <= width; d += 4 * kLanes) {
    Vec v[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const int64_t at = d + i * kLanes;
      v[i] = combined(load(sums + at), kFirst ? zero() : load(before + at));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) store(output + d + i * kLanes, v[i]);
  }
  for (; d + kLanes <= width; d += kLanes) {
    store(output + d, combined(load(sums + d), kFirst ? zero() : load(before + d)));
  }
  const int count = static_cast<int>(width - d);
  if (count > 0) {
    const Vec running = kFirst ? zero() : load_first(before + d, count);
    store_first(output + d, combined(load_first(sums + d, count), running), count);
  }
}

// A chunk's sums for some rows, and where the combined output is stored.
struct ChunkSums {
  const AttentionRow* rows;
  int64_t num_rows, width;
  float* sums;  // [num_rows][pitch]; overwritten if outputs are rounded
  int64_t pitch;
  float* running;   // [num_rows][pitch], output between chunks; null: it is kept in the output rows
  Element element;  // of the output rows; F32 if `running` is null and there are chunks before or after
  bool first;       // there is no earlier chunk
  bool leaves;      // this call has no later chunk: writes the output rows
  bool last;        // no call has a later chunk: makes the result

  float* output(int64_t r) const { return reinterpret_cast<float*>(rows[r].output); }
  bool rounds() const { return leaves && element != Element::kF32; }
  const float* before(int64_t r) const { return running == nullptr ? output(r) : running + r * pitch; }
  float* after(int64_t r) const {
    if (rounds()) return sums + r * pitch;
    return running == nullptr || leaves ? output(r) : running + r * pitch;
  }
};

// Output rows of one head are far apart ([T, H, D]), too far for the hardware prefetcher: each is prefetched this many
// rows ahead.
constexpr int64_t kRowsToWriteAhead = 4;

template <class Rounding, bool kFirst, bool kLast>
void combine_rows_as(const ChunkSums& c, const RowFactors& f) {
  for (int64_t r = 0; r < c.num_rows; ++r) {
    if (r + kRowsToWriteAhead < c.num_rows) {
      const float* ahead = c.after(r + kRowsToWriteAhead);
      for (int64_t d = 0; d < c.width; d += kLanes) prefetch_to_write(ahead + d);
    }
    const RowCombination<Rounding, kFirst, kLast> combined = {set1(f.keep[r]), set1(f.take[r]), set1(f.inverse[r])};
    combine_row(combined, c.sums + r * c.pitch, c.before(r), c.width, c.after(r));
    if (c.rounds()) round_row(c.element, c.sums + r * c.pitch, c.width, c.rows[r].output);
  }
}

template <class Rounding>
MHA_NOINLINE void combine_rows(const ChunkSums& c, const RowFactors& f) {
  if (c.first) {
    (c.last ? combine_rows_as<Rounding, true, true> : combine_rows_as<Rounding, true, false>)(c, f);
  } else {
    (c.last ? combine_rows_as<Rounding, false, true> : combine_rows_as<Rounding, false, false>)(c, f);
  }
}

// Rows without visible keys become zero, whatever the sums are: a probability of 0 times a value of Inf is NaN.
inline void clear_empty_rows(const AttentionRow* rows, const RowState* states, int64_t num_rows, int64_t width,
                             Element element) {
  for (int64_t r = 0; r < num_rows; ++r) {
    if (states[r].sum == 0.0f) memset(rows[r].output, 0, static_cast<size_t>(width * bytes_of(element)));
  }
}

// If the output is rounded, this many columns of a row are combined at a time.
constexpr int64_t kMergeColumns = 16 * kLanes;

// Combines the chunks of one row and their states. Only columns [column, column + width) are computed, into `output`.
template <class Rounding>
inline void merge_columns(const MergeArgs& m, int64_t column, int64_t width, float* output, RowFactors& f,
                          RowState* state) {
  const auto state_of = [&m](int64_t c) {
    RowState chunk;
    memcpy(&chunk, reinterpret_cast<const float*>(m.partial_states) + c * m.step, sizeof(chunk));
    return chunk;
  };
  *state = {-kInfinity, 0.0f};
  int64_t first = 0, end = m.num_chunks;
  while (first < end && state_of(first).sum == kUnseen) ++first;
  while (end > first && state_of(end - 1).sum == kUnseen) --end;
  AttentionRow row = {};
  row.output = reinterpret_cast<char*>(output);
  for (int64_t c = first; c < end; ++c) {
    const RowState chunk = state_of(c);
    if (chunk.sum == kUnseen) continue;
    store(f.running_max, set1(state->max)), store(f.running_sum, set1(state->sum));
    store(f.chunk_max, set1(chunk.max)), store(f.chunk_sum, set1(chunk.sum));
    merge_states<Rounding>(f, 1);
    *state = {f.running_max[0], f.running_sum[0]};
    const bool last = c + 1 == end;
    if (last && m.has_sink) merge_one_sink<Rounding>(m.sink, f);
    ChunkSums sums = {};
    sums.rows = &row, sums.num_rows = 1, sums.width = width;
    sums.sums = const_cast<float*>(m.partial_outputs) + c * m.step + column;  // only read, as nothing is rounded here
    sums.first = c == first, sums.leaves = true, sums.last = last;
    combine_rows<Rounding>(sums, f);
  }
  clear_empty_rows(&row, state, 1, width, Element::kF32);
  if (first == end && m.has_sink) {
    load_states(state, 1, true, f);
    merge_one_sink<Rounding>(m.sink, f);
  }
  if (m.has_sink) *state = {f.running_max[0], f.running_sum[0]};
}

template <class Rounding>
inline void merge(const MergeArgs* args) {
  const MergeArgs& m = *args;
  RowFactors f;
  if (m.output_element == Element::kF32) {
    return merge_columns<Rounding>(m, 0, m.value_head_dim, reinterpret_cast<float*>(m.output), f, m.state);
  }
  alignas(64) float output[kMergeColumns];
  for (int64_t column = 0; column < m.value_head_dim; column += kMergeColumns) {
    const int64_t width = least(m.value_head_dim - column, kMergeColumns);
    merge_columns<Rounding>(m, column, width, output, f, m.state);
    round_row(m.output_element, output, width, m.output + column * bytes_of(m.output_element));
  }
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
