// build-flags: -mavx2 -mfma -mf16c -mpopcnt
// SPDX-License-Identifier: Apache-2.0
// AVX2, FMA, F16C and POPCNT: Intel Haswell (2013), AMD Zen (2017) and later.
#define MHA_TARGET_NS avx2
#define MHA_TARGET_ARCH fma3<xsimd::avx2>
#define MHA_ISA_AVX2
#include "core/kernels/all-inl.h"
