// build-flags: -mavx2 -mfma -mf16c -mpopcnt -mavxvnni
// base: avx2
// SPDX-License-Identifier: Apache-2.0
// option: MHA_CODES
// AVX-VNNI over avx2: Intel Alder Lake (2021), AMD Zen 5 (2024) and later.
#define MHA_TARGET_NS avx2_vnni
#define MHA_BASE_NS avx2
#define MHA_TARGET_ARCH fma3<xsimd::avx2>
#define MHA_ISA_AVX2
#define MHA_ISA_DOTS
#pragma GCC diagnostic ignored "-Wunused-function"  // most algorithms are the base's
#include "core/kernels/int8_table-inl.h"
