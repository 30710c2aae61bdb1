// SPDX-License-Identifier: Apache-2.0
// Products of AMX's tiles (simd/tiles-inl.h) for INT8 and BF16. Two tiles of rows and two of columns make four products of four
// loads. Included by algorithms-inl.h, once per such target.
namespace mha::MHA_TARGET_NS {
namespace {

// Rows of a group are two tiles. Rows of the second that are not there are multiplied, and nobody reads what comes of it.
constexpr int64_t kTileGroupRows = 2 * kTileSide;

struct Bf16Tiles {
  template <int kC, int kA, int kB>
  static MHA_INLINE void multiply() {
    tile_multiply<kC, kA, kB>();
  }
};
template <TileBytes kBytes>
struct ByteTiles {
  template <int kC, int kA, int kB>
  static MHA_INLINE void multiply() {
    tile_multiply_bytes<kBytes, kC, kA, kB>();
  }
};

// A block of products: rows [0, 16 kRowTiles) and columns [0, 16 kColumnTiles). Tiles 0 to 3 hold sums, 4 and 5 rows, 6 and 7
// columns.
struct TileProduct {
  const float* a;  // words, rows a_stride apart
  int64_t a_stride;
  const float* b;  // [blocks][16][16], b_stride from 16 columns to the next
  int64_t b_stride;
  const float* last;  // the last block of b of each 16 columns, where it is another; null: it is not. 256 words apart
  int64_t blocks;     // of 16 words
  float* c;
  int64_t c_stride;

  const float* block_of(int64_t column, int64_t block) const {
    if (last != nullptr && block + 1 == blocks) return last + column * kTileSide * kTileSide;
    return b + column * b_stride + block * kTileSide * kTileSide;
  }

  template <class Tiles, int kRowTiles, int kColumnTiles>
  MHA_INLINE void run() const {
    tile_clear<0>();
    if constexpr (kColumnTiles > 1) tile_clear<1>();
    if constexpr (kRowTiles > 1) tile_clear<2>();
    if constexpr (kRowTiles > 1 && kColumnTiles > 1) tile_clear<3>();
    for (int64_t k = 0; k < blocks; ++k) {
      tile_load<4>(a + k * kTileSide, a_stride);
      tile_load<6>(block_of(0, k), kTileSide);
      Tiles::template multiply<0, 4, 6>();
      if constexpr (kColumnTiles > 1) tile_load<7>(block_of(1, k), kTileSide), Tiles::template multiply<1, 4, 7>();
      if constexpr (kRowTiles > 1) tile_load<5>(a + kTileSide * a_stride + k * kTileSide, a_stride);
      if constexpr (kRowTiles > 1) Tiles::template multiply<2, 5, 6>();
      if constexpr (kRowTiles > 1 && kColumnTiles > 1) Tiles::template multiply<3, 5, 7>();
    }
    tile_store<0>(c, c_stride);
    if constexpr (kColumnTiles > 1) tile_store<1>(c + kTileSide, c_stride);
    if constexpr (kRowTiles > 1) tile_store<2>(c + kTileSide * c_stride, c_stride);
    if constexpr (kRowTiles > 1 && kColumnTiles > 1) tile_store<3>(c + kTileSide * c_stride + kTileSide, c_stride);
  }

  template <class Tiles>
  MHA_NOINLINE void run(int64_t rows, int64_t columns) const {
    const bool tall = rows > kTileSide, wide = columns > kTileSide;
    if (tall && wide) return run<Tiles, 2, 2>();
    if (tall) return run<Tiles, 2, 1>();
    if (wide) return run<Tiles, 1, 2>();
    run<Tiles, 1, 1>();
  }
};

}  // namespace
}  // namespace mha::MHA_TARGET_NS
