// SPDX-License-Identifier: Apache-2.0
// The kernel tables of a target that has every kernel. Included once, at the end of simd/targets/<family>/<target>.cpp. Its
// only external symbols are `table` and `linear_table`.
#include "core/kernels/algorithms-inl.h"

namespace mha::MHA_TARGET_NS {

namespace {

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

constexpr PackedKernels kPacked = make_packed<F32Products>();
constexpr InPlaceKernels kInPlace = {attention_in_place<F32Products>, in_place_scratch<1>, kInPlaceRows,
                                     kMaxInPlaceRows, F32Products::kName};
constexpr FewKeysKernels kFewKeysKernels = {attention_few_keys, few_keys_scratch};
constexpr ResultKernels kResults = {merge<Fused>, finish_weights<Fused>};
constexpr RowKernels kRows = make_rows();
// Without FMA there is no BF16: its results could not be the same bits.
constexpr PackedKernels kBf16Packed = make_packed<Bf16Products>();
constexpr InPlaceKernels kBf16InPlace = {attention_in_place<Bf16Products>, in_place_scratch<2>, kInPlaceRows,
                                         kMaxInPlaceRows, Bf16Products::kName};
// INT8's bits are those of all targets.
constexpr PackedKernels kInt8Packed = make_packed<Int8Products<IntPairs, IntPairs>>();
constexpr InPlaceKernels kInt8InPlace = make_int8_in_place<IntPairs, IntPairs>();
constexpr ResultKernels kInt8Results = {merge<Unfused>, finish_weights<Unfused>};
constexpr LinearKernels kLinear = make_linear();
constexpr LinearKernels kBf16Linear = make_bf16_linear<FmaOperands>();
constexpr LinearKernels kInt8Linear8 = make_int8_linear<IntPairs, 4>();
constexpr LinearKernels kInt8Linear4 = make_int8_linear<NibbleOperands, 8>();

// In F32 one kernel reads every element type.
constexpr KernelTable make_table() {
  KernelTable t = {};
  t.name = MHA_STRING(MHA_TARGET_NS), t.has_fma = kHasFma;
  t.own_rows = &kRows;
  for (AttentionKernels& k : t.attention[static_cast<int>(Arithmetic::kF32)]) {
    k = {&kPacked, &kInPlace, &kFewKeysKernels, &kResults};
  }
  if constexpr (kHasFma && kHasBf16) {
    for (AttentionKernels& k : t.attention[static_cast<int>(Arithmetic::kBf16)]) {
      k = {&kBf16Packed, &kBf16InPlace, nullptr, &kResults};
    }
  }
  if constexpr (kHasCodes) {
    t.attention[static_cast<int>(Arithmetic::kInt8)][static_cast<int>(Element::kI8)] = {&kInt8Packed, &kInt8InPlace,
                                                                                        nullptr, &kInt8Results};
  }
  return t;
}

constexpr LinearTable make_linear_table() {
  LinearTable t = {};
  for (const LinearKernels*& k : t.kernels[static_cast<int>(Arithmetic::kF32)]) k = &kLinear;
  if constexpr (kHasFma && kHasBf16)
    t.kernels[static_cast<int>(Arithmetic::kBf16)][static_cast<int>(Element::kBf16)] = &kBf16Linear;
  if (kHasCodes) put_int8_linears(&t, &kInt8Linear8, &kInt8Linear4);
  return t;
}

}  // namespace

extern const KernelTable table;
constexpr KernelTable table = make_table();

extern const LinearTable linear_table;
constexpr LinearTable linear_table = make_linear_table();

}  // namespace mha::MHA_TARGET_NS
