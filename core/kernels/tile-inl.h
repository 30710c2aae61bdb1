// SPDX-License-Identifier: Apache-2.0
// The register tile under every product in the library: projections, query times key, weights times value.
// Included by all-inl.h, once per target.
//
// Panels: a matrix B [k x n] is stored as [ceil(n / 16)][k][16], so that step k of one panel is one 64-byte line.
// A tile is kRows rows of A times kPanels panels of B. Per step it loads kPanels vectors of B and broadcasts kRows
// floats of A for kRows * kPanels multiply-adds: 10 loads for 24 with the 6 x 4 tile of AVX-512, 8 (registers) for 12
// with 6 x 1 of AVX2. Every element is one chain of fused multiply-adds over k ascending, whatever the tile: the
// canonical order.
namespace mha::MHA_TARGET_NS {
namespace {

// Registers kept for sums; what is left holds B and the broadcasts. As many rows, up to 6, as then fit at one panel.
constexpr int kSumRegs = kVectorRegisters * 3 / 4;
constexpr int kTileRows = kSumRegs / kRegs < 6 ? kSumRegs / kRegs : 6;

// The most panels (a power of two, at most 8) that `rows` rows can sum at once.
constexpr int panels_for(int rows) {
  int panels = 1;
  while (panels < 8 && 2 * panels * rows * kRegs <= kSumRegs) panels *= 2;
  return panels;
}

template <int kRows, int kPanels>
using Sums = Vec[kRows][kPanels];

template <int kRows, int kPanels>
MHA_INLINE void clear(Sums<kRows, kPanels>& sums) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) sums[r][p] = zero();
  }
}

// sums[r][p] += sum over k of a[r * a_stride + k] * b[p * panel_stride + k * k_stride + lane].
template <int kRows, int kPanels>
MHA_INLINE void multiply_add(Sums<kRows, kPanels>& sums, const float* a, int64_t a_stride, const float* b,
                             int64_t panel_stride, int64_t k_stride, int64_t k) {
  for (int64_t i = 0; i < k; ++i, b += k_stride) {
    Vec column[kPanels];
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) column[p] = load(b + p * panel_stride);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec x = set1(a[r * a_stride + i]);
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) sums[r][p] = fma(x, column[p], sums[r][p]);
    }
  }
}

// Covers rows x columns with tiles: tile.run<kRows, kPanels>(row, column). Groups of columns outermost, so that their
// panels stay in the nearest cache while all rows pass; what is left of the columns goes in groups of half as many
// panels.
template <int kRows, int kPanels, class Tile>
void cover_columns(const Tile& tile, int64_t row, int64_t row_end, int64_t column, int64_t columns) {
  for (; column + (kPanels - 1) * kLanes < columns; column += kPanels * kLanes) {
    for (int64_t r = row; r < row_end; r += kRows) tile.template run<kRows, kPanels>(r, column);
  }
  if constexpr (kPanels > 1) {
    if (column < columns) cover_columns<kRows, kPanels / 2>(tile, row, row_end, column, columns);
  }
}

// The last rows, fewer than kTileRows.
template <int kRows, class Tile>
void cover_last_rows(const Tile& tile, int64_t row, int64_t rows, int64_t columns) {
  if (rows - row == kRows) return cover_columns<kRows, panels_for(kRows)>(tile, row, rows, 0, columns);
  if constexpr (kRows > 1) cover_last_rows<kRows - 1>(tile, row, rows, columns);
}

template <class Tile>
void cover(const Tile& tile, int64_t rows, int64_t columns) {
  const int64_t whole = rows / kTileRows * kTileRows;
  if (whole > 0) cover_columns<kTileRows, panels_for(kTileRows)>(tile, 0, whole, 0, columns);
  if (whole < rows) cover_last_rows<kTileRows - 1>(tile, whole, rows, columns);
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
