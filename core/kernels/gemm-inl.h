// SPDX-License-Identifier: Apache-2.0
// The packed GEMM: C = A * panels + bias. Included by all-inl.h, once per target.
//
// Order of the loops: a group of columns (kPanels panels, k * 64 bytes each) stays in the cache nearest to it while all
// rows of A pass over it, kTileRows at a time; A is read in place. Per tile and step k: 4 lines of B from L1/L2 and 6
// broadcasts for 24 multiply-adds of 16 (AVX-512), so B needs 21 bytes a cycle at two multiply-adds a cycle, which L2
// delivers. k is not blocked: C would be read and written once a block, which costs more than B from L2 (1024^3: 0.89
// of the peak without, 0.76 with blocks of 256).
namespace mha::MHA_TARGET_NS {
namespace {

struct GemmTile {
  const GemmArgs& g;

  template <int kRows, int kPanels>
  MHA_INLINE void run(int64_t row, int64_t column) const {
    Sums<kRows, kPanels> sums;
    clear<kRows, kPanels>(sums);
    multiply_add<kRows, kPanels>(sums, g.a + row * g.a_stride, g.a_stride, g.panels + column * g.k, g.k * kLanes,
                                 kLanes, g.k);
    if (g.bias != nullptr) add_bias<kRows, kPanels>(sums, column);
    float* c = g.c + row * g.c_stride + column;
    const int64_t columns = g.n - column;
    if (columns >= kPanels * kLanes) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
        for (int p = 0; p < kPanels; ++p) store(c + r * g.c_stride + p * kLanes, sums[r][p]);
      }
      return;
    }
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {  // only the last panel is ragged
      const int64_t left = columns - p * kLanes;
      const int count = static_cast<int>(left < kLanes ? left : kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) store_first(c + r * g.c_stride + p * kLanes, sums[r][p], count);
    }
  }

  template <int kRows, int kPanels>
  MHA_INLINE void add_bias(Sums<kRows, kPanels>& sums, int64_t column) const {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      const Vec bias = load(g.bias + column + p * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sums[r][p] = add(sums[r][p], bias);
    }
  }
};

inline void gemm(const GemmArgs* args) { cover(GemmTile{*args}, args->m, args->n); }

}  // namespace
}  // namespace mha::MHA_TARGET_NS
