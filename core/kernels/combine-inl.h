// SPDX-License-Identifier: Apache-2.0
// Combining a chunk's sums with the running output, and the kernel that combines chunks that ran apart. Included by
// all-inl.h, once per target.
//
// A row: output = output * keep + sums * take; with the last chunk the result is output * inverse + 0, where + 0 turns
// -0 into 0, so that it cannot show whether a masked key's 0 * value was added.
namespace mha::MHA_TARGET_NS {
namespace {

// How some columns of a row combine. kFirst: there is no output yet. kLast: the result is made.
template <bool kFirst, bool kLast>
struct RowCombination {
  Vec keep, take, inverse;

  MHA_INLINE Vec operator()(const Vec& sums, const Vec& running) const {
    Vec v = mul(sums, take);
    if (!kFirst) v = fma(running, keep, v);
    return kLast ? add(mul(v, inverse), zero()) : v;
  }
};

// One row; `before` may be the output.
template <bool kFirst, bool kLast>
MHA_INLINE void combine_row(const RowCombination<kFirst, kLast>& combined, const float* sums, const float* before,
                            int64_t width, float* output) {
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

// The sums of a chunk for some rows, and where they go.
struct ChunkSums {
  const AttentionRow* rows;
  int64_t num_rows, width;
  const float* sums;  // [num_rows][pitch]
  int64_t pitch;
  float* running;  // [num_rows][pitch], the outputs between chunks; null: those are in the output rows
  bool first;      // no chunk came before
  bool leaves;     // no chunk comes after in this call: the output rows are written
  bool last;       // nor in another: the result is made

  const float* before(int64_t r) const { return running == nullptr ? rows[r].output : running + r * pitch; }
  float* after(int64_t r) const { return running == nullptr || leaves ? rows[r].output : running + r * pitch; }
};

// Output rows of one head are far apart ([T, H, D]): each is prefetched this many rows ahead.
constexpr int64_t kRowsToWriteAhead = 4;

template <bool kFirst, bool kLast>
void combine_rows_as(const ChunkSums& c, const RowFactors& f) {
  for (int64_t r = 0; r < c.num_rows; ++r) {
    if (r + kRowsToWriteAhead < c.num_rows) {
      const float* ahead = c.after(r + kRowsToWriteAhead);
      for (int64_t d = 0; d < c.width; d += kLanes) prefetch_to_write(ahead + d);
    }
    const RowCombination<kFirst, kLast> combined = {set1(f.keep[r]), set1(f.take[r]), set1(f.inverse[r])};
    combine_row(combined, c.sums + r * c.pitch, c.before(r), c.width, c.after(r));
  }
}

MHA_NOINLINE void combine_rows(const ChunkSums& c, const RowFactors& f) {
  if (c.first) {
    (c.last ? combine_rows_as<true, true> : combine_rows_as<true, false>)(c, f);
  } else {
    (c.last ? combine_rows_as<false, true> : combine_rows_as<false, false>)(c, f);
  }
}

// A row without visible keys is zero whatever the values are (0 * Inf under a score of -inf).
inline void clear_empty_rows(const AttentionRow* rows, const RowState* states, int64_t num_rows, int64_t width) {
  for (int64_t r = 0; r < num_rows; ++r) {
    if (states[r].sum == 0.0f) memset(rows[r].output, 0, static_cast<size_t>(width) * sizeof(float));
  }
}

inline void merge(const MergeArgs* args) {
  const MergeArgs& m = *args;
  RowFactors f;
  RowState state = {-kInfinity, 0.0f};
  const auto state_of = [&m](int64_t c) {
    RowState chunk;
    memcpy(&chunk, reinterpret_cast<const float*>(m.partial_states) + c * m.step, sizeof(chunk));
    return chunk;
  };
  int64_t first = 0, end = m.num_chunks;
  while (first < end && state_of(first).sum == kUnseen) ++first;
  while (end > first && state_of(end - 1).sum == kUnseen) --end;
  AttentionRow row = {};
  row.output = m.output;
  for (int64_t c = first; c < end; ++c) {
    const RowState chunk = state_of(c);
    if (chunk.sum == kUnseen) continue;
    store(f.running_max, set1(state.max)), store(f.running_sum, set1(state.sum));
    store(f.chunk_max, set1(chunk.max)), store(f.chunk_sum, set1(chunk.sum));
    merge_states(f, 1);
    state = {f.running_max[0], f.running_sum[0]};
    const bool last = c + 1 == end;
    if (last && m.has_sink) merge_one_sink(m.sink, f);
    ChunkSums sums = {};
    sums.rows = &row, sums.num_rows = 1, sums.width = m.value_head_dim;
    sums.sums = m.partial_outputs + c * m.step;
    sums.first = c == first, sums.leaves = true, sums.last = last;
    combine_rows(sums, f);
  }
  clear_empty_rows(&row, &state, 1, m.value_head_dim);
  if (first == end && m.has_sink) {
    load_states(&state, 1, true, f);
    merge_one_sink(m.sink, f);
  }
  *m.state = m.has_sink ? RowState{f.running_max[0], f.running_sum[0]} : state;
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
