// SPDX-License-Identifier: Apache-2.0
// Every algorithm, over the vectors of the target whose file includes this. Each function is in an anonymous namespace, so the
// linker cannot hand one target's code to another.
#include "core/kernels/kernel_table.h"

#define MHA_KERNELS  // from here on headers with two parts give their functions

#include "core/math/elementary_series.h"

#include "simd/vec-inl.h"

#include "simd/functions-inl.h"

#include "simd/element-inl.h"

#include "simd/bytes-inl.h"

#include "simd/ints-inl.h"

#include "simd/doubles-inl.h"

#include "core/kernels/tile-inl.h"

#include "core/kernels/pack-inl.h"

#include "core/kernels/rows-inl.h"

#include "core/kernels/runs-inl.h"

#include "core/kernels/codes-inl.h"

#include "core/kernels/tokens-inl.h"

#include "core/kernels/quantise-inl.h"

#include "core/kernels/gemm-inl.h"

#include "core/kernels/masks-inl.h"

#include "core/kernels/score_mods-inl.h"

#include "core/kernels/softmax-inl.h"

#include "core/kernels/combine-inl.h"

#include "core/kernels/row_weights-inl.h"

#include "core/kernels/prefetch-inl.h"

#include "core/kernels/gather_codes-inl.h"

#include "core/kernels/step-inl.h"

#include "core/kernels/packed-inl.h"

#include "core/kernels/bf16-inl.h"

#include "core/kernels/bf16_gemm-inl.h"

#include "core/kernels/int8_gemm-inl.h"

#include "core/kernels/int8-inl.h"

#include "core/kernels/key_scores-inl.h"

#include "core/kernels/value_sums-inl.h"

#include "core/kernels/in_place-inl.h"

#include "core/kernels/int8_blocks-inl.h"
#include "core/kernels/int8_in_place-inl.h"

#include "core/kernels/few_keys-inl.h"

#include "core/kernels/weights-inl.h"

#include "core/kernels/rope-inl.h"

#include "core/kernels/angles-inl.h"

#include "core/kernels/hadamard-inl.h"

#if defined(MHA_ISA_DOTS)
#include "simd/dots-inl.h"

#include "core/kernels/int8_dots-inl.h"
#endif

#if defined(MHA_ISA_AVX512_BF16)
#include "simd/pairs-inl.h"

#include "core/kernels/bf16_pairs-inl.h"
#endif

#if defined(MHA_ISA_AMX)
#include "simd/tiles-inl.h"

#include "core/kernels/tile_product-inl.h"

#include "core/kernels/int8_tiles-inl.h"

#include "core/kernels/bf16_tiles-inl.h"
#endif

namespace mha::MHA_TARGET_NS {
namespace {

// The packed driver's slots.
template <class Products>
constexpr PackedKernels make_packed() {
  constexpr int kChains = Products::kChains;
  constexpr int kLow = most_tile_rows(kChains, 6), kTall = most_tile_rows(kChains, 8);
  PackedKernels k = {};
  k.attention = attention<Products>, k.weights = weights<Products>, k.scratch = Products::scratch;
  k.group_rows = Products::kGroupRows;
  k.tile_rows = kLow, k.tile_columns = panels_for(kLow, kChains) * kLanes;
  k.tallest_rows = kTall, k.tallest_columns = panels_for(kTall, kChains) * kLanes;
  k.products = Products::kName;
  return k;
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS

#define MHA_STRING_(x) #x
#define MHA_STRING(x) MHA_STRING_(x)
