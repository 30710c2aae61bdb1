// SPDX-License-Identifier: Apache-2.0
// The kernel tables of a target that multiplies bf16 by tiles (MHA_ISA_AMX) or by pairs, and is in all else its base
// (MHA_BASE_NS). Tiles multiply INT8's bytes, too. Included once, at the end of simd/targets/<family>/<target>.cpp.
#include "core/kernels/kernel_table.h"

namespace mha::MHA_BASE_NS {
extern const KernelTable table;
extern const LinearTable linear_table;
}  // namespace mha::MHA_BASE_NS

#include "core/kernels/algorithms-inl.h"

namespace mha::MHA_TARGET_NS {
namespace {

#if defined(MHA_ISA_AMX)
template <class Products>
constexpr PackedKernels make_tile_packed() {
  PackedKernels k = make_packed<Products>();
  k.tile_rows = k.tallest_rows = kTileGroupRows, k.tile_columns = k.tallest_columns = 2 * kTileSide;
  return k;
}
constexpr LinearKernels make_tile_linear() {
  LinearKernels k = {};
  k.pack_weights = pack_pairs, k.gemm = tile_gemm, k.gemm_scratch = tile_gemm_scratch;
  k.tile_rows = kTileGroupRows, k.tile_columns = 2 * kTileSide, k.depth = kMaxDepth;
  k.products = Bf16TileProducts::kName;
  return k;
}
constexpr LinearKernels make_int8_tile_linear() {
  LinearKernels k = {};
  k.gemm = int8_tile_gemm, k.gemm_scratch = int8_tile_scratch;
  k.tile_rows = kTileGroupRows, k.tile_columns = 2 * kTileSide, k.depth = kMaxDepth;
  k.products = IntTiles::kName;
  return k;
}
constexpr PackedKernels kPacked = make_tile_packed<Bf16TileProducts>();
constexpr PackedKernels kInt8Packed = make_tile_packed<Int8TileProducts>();
constexpr LinearKernels kInt8Linear = make_int8_tile_linear();
constexpr LinearKernels kLinear = make_tile_linear();
#else
constexpr PackedKernels kPacked = make_packed<Bf16PairProducts>();
constexpr LinearKernels kLinear = make_bf16_linear<PairOperands>();
#endif

constexpr KernelTable make_table() {
  KernelTable t = {};
  t.name = MHA_STRING(MHA_TARGET_NS), t.base = &MHA_BASE_NS::table, t.has_fma = kHasFma;
#if defined(MHA_ISA_AMX) && !defined(MHA_TILES_EMULATED)
  t.uses_tiles = true;
#endif
  for (AttentionKernels& k : t.attention[static_cast<int>(Arithmetic::kBf16)]) k.packed = &kPacked;
#if defined(MHA_ISA_AMX)
  if (kHasCodes) t.attention[static_cast<int>(Arithmetic::kInt8)][static_cast<int>(Element::kI8)].packed = &kInt8Packed;
#endif
  return t;
}

constexpr LinearTable make_linear_table() {
  LinearTable t = {};
  t.base = &MHA_BASE_NS::linear_table;
  t.kernels[static_cast<int>(Arithmetic::kBf16)][static_cast<int>(Element::kBf16)] = &kLinear;
#if defined(MHA_ISA_AMX)
  for (const Element element : {Element::kI8, Element::kU8, Element::kI4, Element::kU4}) {
    if (kHasCodes) t.kernels[static_cast<int>(Arithmetic::kInt8)][static_cast<int>(element)] = &kInt8Linear;
  }
#endif
  return t;
}

}  // namespace

extern const KernelTable table;
constexpr KernelTable table = make_table();

extern const LinearTable linear_table;
constexpr LinearTable linear_table = make_linear_table();

}  // namespace mha::MHA_TARGET_NS
