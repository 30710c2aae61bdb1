// SPDX-License-Identifier: Apache-2.0
// Values that are read where they are stored: those of up to 16 keys of one head extend the sums of all query rows of the
// head. Included by algorithms-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

// Continues the chains of sums[r][column] over some keys, whose values are elements of type E.
template <class E>
struct InPlaceValueTile {
  const float* probabilities;  // [rows][kScoreStride]
  const char* values;
  int64_t value_stride, keys;  // the stride in bytes
  float* sums;
  int64_t sums_stride;
  bool first;  // the chains start from zero
  // Bytes from a row to the ones to prefetch into L1 and into L2: rows of later tokens, or of later heads. 0: repeats the
  // line that is read anyway.
  int64_t near, far;
  // Where the values are codes: scales and zeros [keys][groups]; the group of element d is d / 16 >> shift; flip: of each
  // word.
  const float *scales, *zeros;
  int64_t groups;
  int shift;
  uint32_t flip;

  // `at`: of the key's first scale.
  MHA_INLINE Vec load(const char* p, int64_t at, int64_t column) const {
    if constexpr (E::kIsCode) {
      at += (column / kLanes) >> shift;
      Vec codes = E::load(p, flip);
      if constexpr (E::kHasZeros) codes = sub(codes, set1(zeros[at]));
      return mul(codes, set1(scales[at]));
    } else {
      return E::load(p);
    }
  }

  template <int kRows, int kPanels>
  MHA_INLINE void run(int64_t row, int64_t column) const {
    Sums<kRows, kPanels> s;
    float* at = sums + row * sums_stride + column;
    if (first) {
      clear<kRows, kPanels>(s);
    } else {
      load_sums<kRows, kPanels>(s, at, sums_stride);
    }
    const float* a = probabilities + row * kScoreStride;
    const char* b = values + bytes_in<E>(column);
    int64_t at_scales = 0;
    constexpr int kLines = static_cast<int>((bytes_in<E>(kPanels * kLanes) + kLine - 1) / kLine);
    for (int64_t j = 0; j < keys; ++j, b += value_stride) {
#pragma GCC unroll 8
      for (int line = 0; line < kLines; ++line) prefetch(b + line * kLine + near);
#pragma GCC unroll 8
      for (int line = 0; line < kLines; ++line) prefetch_to_l2(b + line * kLine + far);
      Vec column_values[kPanels];
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) {
        column_values[p] = load(b + bytes_in<E>(p * kLanes), at_scales, column + p * kLanes);
      }
      if constexpr (E::kIsCode) at_scales += groups;
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Vec x = set1(a[r * kScoreStride + j]);
#pragma GCC unroll 8
        for (int p = 0; p < kPanels; ++p) s[r][p] = fma(x, column_values[p], s[r][p]);
      }
    }
    store_sums<kRows, kPanels>(s, at, sums_stride);
  }
};

// Tiles of values are 4, 2 or 1 rows high, also 8, 7 or 3 where registers allow 8, and as wide as there are registers for,
// up to 8 panels: 1 to 3 rows take whole rows of 128 values at once, so that memory is read in one long run.
constexpr bool kHasHighTiles = kSumRegs / kRegs >= 8;

constexpr int value_panels(int rows) {
  int panels = 8;
  while (panels > 1 && panels * rows * kRegs > kSumRegs) panels /= 2;
  return panels;
}

template <int kRows, class Tile, int kPanels = value_panels(kRows)>
MHA_INLINE void cover_values(const Tile& tile, int64_t row, int64_t column, int64_t columns) {
  for (; column + kPanels * kLanes <= columns; column += kPanels * kLanes)
    tile.template run<kRows, kPanels>(row, column);
  if constexpr (kPanels > 1) {
    if (column < columns) cover_values<kRows, Tile, kPanels / 2>(tile, row, column, columns);
  }
}

// Tile: InPlaceValueTile or Int8ValueBlock.
template <class Tile>
MHA_NOINLINE void add_values_of(const Tile& tile, int64_t rows, int64_t columns) {
  int64_t row = 0;
  if constexpr (kHasHighTiles) {
    for (; row + 8 <= rows; row += 8) cover_values<8>(tile, row, 0, columns);
    if (row + 7 == rows) return cover_values<7>(tile, row, 0, columns);
    if (row + 3 == rows) return cover_values<3>(tile, row, 0, columns);
  }
  for (; row + 4 <= rows; row += 4) cover_values<4>(tile, row, 0, columns);
  if (row + 2 <= rows) cover_values<2>(tile, row, 0, columns), row += 2;
  if (row < rows) cover_values<1>(tile, row, 0, columns);
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
