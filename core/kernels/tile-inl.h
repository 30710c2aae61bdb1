// SPDX-License-Identifier: Apache-2.0
// The register tile under every product in the library: projections, queries times keys, probabilities times values.
// Included by algorithms-inl.h, once per target.
//
// Panels: a matrix B [k x n] is stored as [ceil(n / 16)][k][16], so that step k of one panel is one 64-byte line.
// A tile is kRows rows of A times kPanels panels of B. Per step it loads kPanels vectors of B and broadcasts kRows
// floats of A for kRows * kPanels multiply-adds: 10 loads for 24 with the 6 x 4 tile of AVX-512; 8 loads for 12,
// counted in registers, with the 6 x 1 tile of AVX2. Every element is one chain of fused multiply-adds over k
// ascending, whatever the size of the tile: the canonical order.
namespace mha::MHA_TARGET_NS {
namespace {

// Registers for sums; the others hold B and the broadcasts. A tile has as many rows as then fit with one panel, at most
// 6. `chains`: sums that each element of the product has.
constexpr int kSumRegs = kVectorRegisters * 3 / 4;
constexpr int most_tile_rows(int chains, int limit) {
  const int fit = kSumRegs / (kRegs * chains);
  return fit < limit ? fit : limit;
}
constexpr int kTileRows = most_tile_rows(1, 6);
// Up to this many rows are one tile if there are no more, so that B is read once: with so few rows most of the time
// goes into reading B.
constexpr int kMostTileRows = most_tile_rows(1, 8);

// The most panels of a tile of `rows` rows: as many as have registers for their sums, at most four. Four are enough for
// one row too: their chains keep up with L2, and memory is read faster in four streams than in eight.
constexpr int panels_for(int rows, int chains = 1) {
  const int fit = kSumRegs / (rows * kRegs * chains);
  return fit < 4 ? fit : 4;
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

// Sums that are integers, times a power of two.
template <int kRows, int kPanels, int kLeft>
MHA_INLINE void shift_sums(Sums<kRows, kPanels>& sums) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) sums[r][p] = shift_left<kLeft>(sums[r][p]);
  }
}

// Loads sums from memory, rows `stride` apart.
template <int kRows, int kPanels>
MHA_INLINE void load_sums(Sums<kRows, kPanels>& sums, const float* at, int64_t stride) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) sums[r][p] = load(at + r * stride + p * kLanes);
  }
}

template <int kRows, int kPanels>
MHA_INLINE void store_sums(const Sums<kRows, kPanels>& sums, float* at, int64_t stride) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) store(at + r * stride + p * kLanes, sums[r][p]);
  }
}

// One step of a chain with one pair of operands, each a float.
struct FmaSteps {
  static constexpr int64_t kPerWord = 1;
  static MHA_INLINE Vec step(const Vec& a, const Vec& b, const Vec& sum) { return fma(a, b, sum); }
};

// One step of the chains, or as many as Steps has in a word: sums[r][p] += a[r * a_stride] * b[p * panel_stride + lane].
template <int kRows, int kPanels, class Steps = FmaSteps>
MHA_INLINE void multiply_add_step(Sums<kRows, kPanels>& sums, const float* a, int64_t a_stride, const float* b,
                                  int64_t panel_stride) {
  Vec column[kPanels];
#pragma GCC unroll 8
  for (int p = 0; p < kPanels; ++p) column[p] = load(b + p * panel_stride);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const Vec x = set1(a[r * a_stride]);
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) sums[r][p] = Steps::step(x, column[p], sums[r][p]);
  }
}

// sums[r][p] += sum over k of a[r * a_stride + k] * b[p * panel_stride + k * k_stride + lane].
template <int kRows, int kPanels>
MHA_INLINE void multiply_add(Sums<kRows, kPanels>& sums, const float* a, int64_t a_stride, const float* b,
                             int64_t panel_stride, int64_t k_stride, int64_t k) {
  for (int64_t i = 0; i < k; ++i, b += k_stride)
    multiply_add_step<kRows, kPanels>(sums, a + i, a_stride, b, panel_stride);
}

// The most rows of a tile: Tile::kMostRows where it says so.
template <class Tile>
constexpr auto row_limit(int) -> decltype(Tile::kMostRows + 0) {
  return Tile::kMostRows;
}
template <class Tile>
constexpr int row_limit(long) {
  return 8;
}

// The tiles of one kind by size: at(rows, panels)(tile, begin, end, column) runs tile.run<rows, panels>(row, column)
// for the rows from begin to end, `rows` apart. One call runs all tiles of one size, because a product of 64 steps is
// so short that a call for each tile shows. Tile::kChains: sums that each element has.
template <class Tile>
struct TileTable {
  using Run = void (*)(const Tile& tile, int64_t begin, int64_t end, int64_t column);
  static constexpr int kMostRows = most_tile_rows(Tile::kChains, row_limit<Tile>(0));
  static constexpr int kMaxPanels = panels_for(1, Tile::kChains);
  Run run[kMostRows][kMaxPanels] = {};

  constexpr TileTable() { fill<kMostRows, kMaxPanels>(); }
  Run at(int64_t rows, int64_t panels) const { return run[rows - 1][panels - 1]; }

 private:
  template <int kRows, int kPanels>
  constexpr void fill() {
    if constexpr (kPanels <= panels_for(kRows, Tile::kChains)) {
      run[kRows - 1][kPanels - 1] = [](const Tile& tile, int64_t begin, int64_t end, int64_t column) {
        for (int64_t row = begin; row < end; row += kRows) tile.template run<kRows, kPanels>(row, column);
      };
    }
    if constexpr (kPanels > 1) {
      fill<kRows, kPanels - 1>();
    } else if constexpr (kRows > 1) {
      fill<kRows - 1, kMaxPanels>();
    }
  }
};

// panels_for(rows) for every number of rows.
template <int kChains>
struct FittingPanels {
  static constexpr int kMostRows = most_tile_rows(kChains, 8);
  int64_t panels[kMostRows + 1] = {};
  constexpr FittingPanels() {
    for (int rows = 1; rows <= kMostRows; ++rows) panels[rows] = panels_for(rows, kChains);
  }
};

// Covers rows x columns with tiles. Rows and panels are cut evenly, larger parts first (9 rows are 5 + 4, 5 panels 3 +
// 2), so that no small rest is left. A tile has at most tile_rows rows, or all rows if they fit in one tile. The outer
// loop is over groups of panels: a group stays in L1 while all rows pass.
template <class Tile>
void cover(const Tile& tile, int64_t rows, int64_t columns, int64_t tile_rows = most_tile_rows(Tile::kChains, 6)) {
  static constexpr TileTable<Tile> kTable;
  static constexpr FittingPanels<Tile::kChains> kFit;
  static constexpr int kTall = TileTable<Tile>::kMostRows;
  static constexpr int kLow = most_tile_rows(Tile::kChains, kTall < 6 ? kTall : 6);
  if (rows <= 0 || columns <= 0) return;
  const int64_t panels = divide_up(columns, kLanes);
  // Taller tiles have more chains to interleave and read B less often. They are used if they need no more groups of
  // panels.
  const bool tall =
      divide_up(panels, panels_for(kTall, Tile::kChains)) == divide_up(panels, panels_for(kLow, Tile::kChains));
  const int64_t tiles = rows <= kTall ? 1 : divide_up(rows, tall ? kTall : tile_rows);
  // Divides only if there is something to divide: four integer divisions show in the time of a small call.
  const int64_t height = tiles == 1 ? rows : rows / tiles, taller = rows - height * tiles;
  const int64_t tall_end = taller * (height + 1), fit = kFit.panels[taller > 0 ? height + 1 : height];
  const int64_t groups = panels <= fit ? 1 : divide_up(panels, fit);
  const int64_t width = groups == 1 ? panels : panels / groups, wider = panels - width * groups;
  for (int64_t g = 0, column = 0; g < groups; ++g) {
    const int64_t count = g < wider ? width + 1 : width;
    if (taller > 0) kTable.at(height + 1, count)(tile, 0, tall_end, column);
    if (tall_end < rows) kTable.at(height, count)(tile, tall_end, rows, column);
    column += count * kLanes;
  }
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
