// SPDX-License-Identifier: Apache-2.0
// The second half of attention: weights times values of a chunk, merged into the running output, and the merge of
// chunks that ran apart. Included by all-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

// What is read or written next: queries of the next group, where its scores will be kept, its rows of a mask, keys and
// values of the next chunk.
constexpr int kAheadStreams = 5;
constexpr int64_t kLine = 64;  // bytes that are asked for at a time

// Rows far apart ([T, H, D]), which no hardware foresees. The tiles ask for them line by line, spread over all of a
// block's work: in one go they would wait for each other. Without it T 128 reaches 0.66 of the peak, with it 0.68; with
// weights kept 0.50 and 0.57.
struct AheadRows {
  const char* row;
  int64_t stride, lines, left;  // bytes; lines of a row; rows left

  // Takes as many whole rows as have about `wanted` lines; returns how many lines that is.
  int64_t take(int64_t wanted, const char** first) {
    const int64_t few = wanted / lines > 0 ? wanted / lines : 1;
    const int64_t rows = few < left ? few : left;
    *first = row;
    row += rows * stride, left -= rows;
    return rows * lines;
  }
};

inline AheadRows float_rows(const float* row, int64_t stride, int64_t width, int64_t count) {
  return {reinterpret_cast<const char*>(row), stride * static_cast<int64_t>(sizeof(float)), divide_up(width, kLanes),
          count};
}

// The product of weights and values of a group, merged into the output rows.
struct ValueTile {
  const AttentionRow* rows;
  const float* weights;  // [rows][kScoreStride]
  const float* values;   // panels [width / 16][keys of the chunk][16]
  int64_t keys;
  bool ends_differ;      // some rows see no key up to there
  int64_t panel_stride;  // from 16 columns to the next
  int64_t width, begin;
  const float* keep;  // RowFactors
  const float* take;
  const float* inverse;  // null: not the last chunk
  bool first;
  AheadRows* ahead;  // kAheadStreams of them; null: none
  // Between chunks the outputs are kept in [rows][padded(width)]; null: in the output rows. The last chunk of a call
  // leaves them in the output rows.
  float* running;
  bool leaves;

  const float* output_before(int64_t row) const { return running == nullptr ? rows[row].output : running_at(row); }
  float* output_after(int64_t row) const { return running == nullptr || leaves ? rows[row].output : running_at(row); }

  template <int kRows, int kPanels>
  MHA_INLINE void run(int64_t row, int64_t column) const {
    // Output rows lie far apart as keys do; by the end of the product they are here.
    for (int r = 0; r < kRows; ++r) {
      for (int p = 0; p < kPanels; ++p) prefetch_to_write(output_after(row + r) + column + p * kLanes);
    }
    const int64_t seen = keys_of<kRows>(row);
    Sums<kRows, kPanels> sums;
    clear<kRows, kPanels>(sums);
    const float* a = weights + row * kScoreStride;
    const float* b = values + column / kLanes * panel_stride;
    int64_t j = 0;
    int stream = kRows > kTileRows / 2 ? 0 : kAheadStreams;
    while (ahead != nullptr && stream < kAheadStreams && ahead[stream].left == 0) ++stream;
    if (ahead != nullptr && stream < kAheadStreams) {
      AheadRows& rows_ahead = ahead[stream];
      const char* line;
      const int64_t lines = rows_ahead.take(seen / 4, &line);
      const char* row_end = line + rows_ahead.lines * kLine;
      for (int64_t n = 0; n < lines && j + 4 <= seen; ++n) {
        prefetch_to_l2(line);
        line += kLine;
        if (line == row_end) line += rows_ahead.stride - rows_ahead.lines * kLine, row_end += rows_ahead.stride;
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i, ++j, b += kLanes) {
          multiply_add_step<kRows, kPanels>(sums, a + j, kScoreStride, b, panel_stride);
        }
      }
    }
    multiply_add<kRows, kPanels>(sums, a + j, kScoreStride, b, panel_stride, kLanes, seen - j);
    merge_tile<kRows, kPanels>(sums, row, column);
  }

  // The keys up to the last that any of these rows sees; the rest has no weight (causal, T 128: 0.475 of the peak with it,
  // 0.49 without; T 256: 0.606 and 0.617).
  template <int kRows>
  MHA_INLINE int64_t keys_of(int64_t row) const {
    if (!ends_differ) return keys;
    int64_t end = rows[row].key_end;
    for (int r = 1; r < kRows; ++r) end = most(end, rows[row + r].key_end);
    return most(0, least(end - begin, keys));
  }

  float* running_at(int64_t row) const { return running + row * padded(width); }

  template <int kRows, int kPanels>
  MHA_INLINE void merge_tile(Sums<kRows, kPanels>& sums, int64_t row, int64_t column) const {
    const int64_t columns = width - column;
    if (columns >= kPanels * kLanes) {
      merge_rows<kRows, kPanels>(
          sums, row, column, [](const float* p, int) MHA_ALWAYS_INLINE { return load(p); },
          [](float* p, const Vec& v, int) MHA_ALWAYS_INLINE { store(p, v); });
      return;
    }
    const auto count = [columns](int panel) MHA_ALWAYS_INLINE {  // only the last panel is ragged
      const int64_t left = columns - panel * kLanes;
      return static_cast<int>(left < kLanes ? left : kLanes);
    };
    merge_rows<kRows, kPanels>(
        sums, row, column, [&](const float* p, int panel) MHA_ALWAYS_INLINE { return load_first(p, count(panel)); },
        [&](float* p, const Vec& v, int panel) MHA_ALWAYS_INLINE { store_first(p, v, count(panel)); });
  }

  template <int kRows, int kPanels, class Load, class Store>
  MHA_INLINE void merge_rows(Sums<kRows, kPanels>& sums, int64_t row, int64_t column, Load load_output,
                             Store store_output) const {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec taken = set1(take[row + r]);
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) sums[r][p] = mul(sums[r][p], taken);
      if (!first) {
        const float* before = output_before(row + r) + column;
        const Vec kept = set1(keep[row + r]);
#pragma GCC unroll 8
        for (int p = 0; p < kPanels; ++p) sums[r][p] = fma(load_output(before + p * kLanes, p), kept, sums[r][p]);
      }
      if (inverse != nullptr) {
        const Vec factor = set1(inverse[row + r]);
        // + 0 turns -0 into 0: whether a masked key's 0 * value was added cannot show.
#pragma GCC unroll 8
        for (int p = 0; p < kPanels; ++p) sums[r][p] = add(mul(sums[r][p], factor), zero());
      }
      float* output = output_after(row + r) + column;
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) store_output(output + p * kLanes, sums[r][p], p);
    }
  }
};

// The same product where the values hold NaN or Inf and some keys are hidden: 0 * NaN would reach rows that do not see
// the key, so hidden keys are left out of the chain. Same bits as ValueTile for finite values. row_of(j, column) is
// where 16 columns of value j are.
template <class RowOf>
inline void value_rows_skipping(const ValueTile& tile, int64_t num_rows, RowOf row_of) {
  for (int64_t r = 0; r < num_rows; ++r) {
    for (int64_t column = 0; column < tile.width; column += kLanes) {
      const int count = static_cast<int>(tile.width - column < kLanes ? tile.width - column : kLanes);
      Sums<1, 1> sums = {{zero()}};
      for (int64_t j = 0; j < tile.keys; ++j) {
        if (!is_visible(tile.rows[r], tile.begin + j)) continue;
        sums[0][0] = fma(set1(tile.weights[r * kScoreStride + j]), load_first(row_of(j, column), count), sums[0][0]);
      }
      tile.merge_tile<1, 1>(sums, r, column);
    }
  }
}

// Merges a chunk's finished sums [rows][stride].
inline void merge_row_sums(const ValueTile& tile, int64_t rows, const float* sums, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t column = 0; column < tile.width; column += kLanes) {
      const int count = static_cast<int>(tile.width - column < kLanes ? tile.width - column : kLanes);
      Sums<1, 1> chunk = {{load_first(sums + r * stride + column, count)}};
      tile.merge_tile<1, 1>(chunk, r, column);
    }
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
  RowFactors<1> f;
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
    for (int i = 0; i < kLanes; ++i) {
      f.running_max[i] = state.max, f.running_sum[i] = state.sum;
      f.chunk_max[i] = chunk.max, f.chunk_sum[i] = chunk.sum;
    }
    merge_states(f, 1);
    state = {f.running_max[0], f.running_sum[0]};
    const bool last = c + 1 == end;
    if (last && m.has_sink) merge_one_sink(m.sink, f);
    const ValueTile tile = {
        &row,       nullptr, nullptr, 0,   false, 0, m.value_head_dim, 0, f.keep, f.take, last ? f.inverse : nullptr,
        c == first, nullptr, nullptr, true};
    merge_row_sums(tile, 1, m.partial_outputs + c * m.step, 0);
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
