// build-flags: -mavx512f -mavx512cd -mavx512bw -mavx512dq -mavx512vl -mavx512bf16 -mavx512vnni -mamx-tile -mamx-bf16 -mamx-int8 -mavx2 -mfma -mpopcnt -mprefer-vector-width=512
// base: avx512
// SPDX-License-Identifier: Apache-2.0
// option: MHA_BF16
// AMX-BF16 and AMX-INT8 over avx512: Intel Sapphire Rapids (2023) and later.
#define MHA_TARGET_NS amx
#if MHA_HAVE_AVX512_VNNI
#define MHA_BASE_NS avx512_vnni
#else
#define MHA_BASE_NS avx512
#endif
#define MHA_TARGET_ARCH avx512bw
#define MHA_ISA_AVX512
#define MHA_ISA_AVX512_BF16
#define MHA_ISA_AMX
#define MHA_ISA_DOTS
#pragma GCC diagnostic ignored "-Wunused-function"  // most algorithms are the base's
#include "core/kernels/bf16_table-inl.h"
