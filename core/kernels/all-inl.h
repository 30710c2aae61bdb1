// SPDX-License-Identifier: Apache-2.0
// Everything one target compiles, and its kernel table. Included once, at the end of
// simd/targets/<family>/<target>.cpp. Its only external symbols are `table` and `linear_table`: each function is in an anonymous namespace,
// so the linker cannot hand one target's code to another.
#include "core/kernels/kernel_table.h"

#define MHA_KERNELS  // from here on headers with two parts give their functions

#include "core/math/elementary_series.h"

#include "simd/vec-inl.h"

#include "simd/functions-inl.h"

#include "simd/element-inl.h"

#include "simd/bytes-inl.h"

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

#include "core/kernels/step-inl.h"

#include "core/kernels/packed-inl.h"

#include "core/kernels/key_scores-inl.h"

#include "core/kernels/in_place-inl.h"

#include "core/kernels/few_keys-inl.h"

#include "core/kernels/weights-inl.h"

#include "core/kernels/rope-inl.h"

#include "core/kernels/angles-inl.h"

#include "core/kernels/hadamard-inl.h"

namespace mha::MHA_TARGET_NS {

#define MHA_STRING_(x) #x
#define MHA_STRING(x) MHA_STRING_(x)

namespace {

constexpr PackedKernels make_packed() {
  PackedKernels k = {};
  k.attention = attention, k.weights = weights, k.scratch = attention_scratch;
  k.group_rows = kAttentionRows;
  k.tile_rows = kTileRows, k.tile_columns = panels_for(kTileRows) * kLanes;
  k.tallest_rows = kMostTileRows, k.tallest_columns = panels_for(kMostTileRows) * kLanes;
  return k;
}

constexpr RowKernels make_rows() {
  RowKernels k = {};
  k.convert = convert;
  if (kHasCodes) k.quantise = quantise, k.widen = widen, k.hadamard = hadamard_rows;
  k.norm_rope = norm_rope_rows, k.rope_frequencies = rope_frequencies, k.rope_angles = rope_angles;
  k.exp2 = exp2_array, k.tanh = tanh_array;
  return k;
}

constexpr LinearKernels make_linear() {
  LinearKernels k = {};
  k.pack_weights = pack_weights, k.gemm = gemm, k.gemm_scratch = gemm_scratch;
  k.tile_rows = kMostTileRows, k.tile_columns = panels_for(kMostTileRows) * kLanes, k.depth = kMaxDepth;
  return k;
}

constexpr PackedKernels kPacked = make_packed();
constexpr InPlaceKernels kInPlace = {attention_in_place, in_place_scratch, kInPlaceRows, kMaxInPlaceRows};
constexpr FewKeysKernels kFewKeysKernels = {attention_few_keys, few_keys_scratch};
constexpr ResultKernels kResults = {merge, finish_weights};
constexpr RowKernels kRows = make_rows();
constexpr LinearKernels kLinear = make_linear();

// In F32 one kernel reads every element type.
constexpr KernelTable make_table() {
  KernelTable t = {};
  t.name = MHA_STRING(MHA_TARGET_NS), t.has_fma = kHasFma;
  t.own_rows = &kRows;
  for (AttentionKernels& k : t.attention[static_cast<int>(Arithmetic::kF32)]) {
    k = {&kPacked, &kInPlace, &kFewKeysKernels, &kResults};
  }
  return t;
}

constexpr LinearTable make_linear_table() {
  LinearTable t = {};
  for (const LinearKernels*& k : t.kernels[static_cast<int>(Arithmetic::kF32)]) k = &kLinear;
  return t;
}

}  // namespace

extern const KernelTable table;
constexpr KernelTable table = make_table();

extern const LinearTable linear_table;
constexpr LinearTable linear_table = make_linear_table();

}  // namespace mha::MHA_TARGET_NS
