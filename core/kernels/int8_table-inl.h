// SPDX-License-Identifier: Apache-2.0
// The kernel tables of a target that multiplies four bytes at once (MHA_ISA_DOTS), and is in all else its base (MHA_BASE_NS).
// Included once, at the end of simd/targets/<family>/<target>.cpp.
#include "core/kernels/algorithms-inl.h"

namespace mha::MHA_BASE_NS {
extern const KernelTable table;
extern const LinearTable linear_table;
}  // namespace mha::MHA_BASE_NS

namespace mha::MHA_TARGET_NS {
namespace {

#if defined(MHA_ISA_X86)
using ValueDots = IntDots;
#else
using ValueDots = IntPairs;  // a part of a probability is unsigned, which dotprod does not multiply with signed codes
#endif

constexpr PackedKernels kPacked = make_packed<Int8Products<IntDots, ValueDots>>();
constexpr InPlaceKernels kInPlace = make_int8_in_place<IntDots, ValueDots>();
constexpr LinearKernels kLinear8 = make_int8_linear<IntDots, 4>(), kLinear4 = make_int8_linear<IntDots, 8>();

constexpr KernelTable make_table() {
  KernelTable t = {};
  t.name = MHA_STRING(MHA_TARGET_NS), t.base = &MHA_BASE_NS::table, t.has_fma = kHasFma;
  AttentionKernels& k = t.attention[static_cast<int>(Arithmetic::kInt8)][static_cast<int>(Element::kI8)];
  k.packed = &kPacked, k.in_place = &kInPlace;
  return t;
}

constexpr LinearTable make_linear_table() {
  LinearTable t = {};
  t.base = &MHA_BASE_NS::linear_table;
  put_int8_linears(&t, &kLinear8, &kLinear4);
  return t;
}

}  // namespace

extern const KernelTable table;
constexpr KernelTable table = make_table();

extern const LinearTable linear_table;
constexpr LinearTable linear_table = make_linear_table();

}  // namespace mha::MHA_TARGET_NS
