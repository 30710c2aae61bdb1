// build-flags: -mavx512f -mavx512cd -mavx512bw -mavx512dq -mavx512vl -mavx512bf16 -mavx2 -mfma -mpopcnt -mprefer-vector-width=512
// base: avx512
// SPDX-License-Identifier: Apache-2.0
// option: MHA_BF16
// AVX512-BF16 over avx512: chosen where products of pairs of bf16 are faster than those of floats (AMD Zen 4, 2022, and
// later; on Intel they are slower).
#define MHA_TARGET_NS avx512_bf16
#if MHA_HAVE_AVX512_VNNI
#define MHA_BASE_NS avx512_vnni
#else
#define MHA_BASE_NS avx512
#endif
#define MHA_TARGET_ARCH avx512bw
#define MHA_ISA_AVX512
#define MHA_ISA_AVX512_BF16
#pragma GCC diagnostic ignored "-Wunused-function"  // most algorithms are the base's
#include "core/kernels/bf16_table-inl.h"
