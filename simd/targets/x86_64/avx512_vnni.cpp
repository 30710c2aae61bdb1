// build-flags: -mavx512f -mavx512cd -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx2 -mfma -mpopcnt -mprefer-vector-width=512
// base: avx512
// SPDX-License-Identifier: Apache-2.0
// option: MHA_CODES
// AVX512-VNNI over avx512: Intel Cascade Lake (2019), AMD Zen 4 (2022) and later.
#define MHA_TARGET_NS avx512_vnni
#define MHA_BASE_NS avx512
#define MHA_TARGET_ARCH avx512bw
#define MHA_ISA_AVX512
#define MHA_ISA_DOTS
#pragma GCC diagnostic ignored "-Wunused-function"  // most algorithms are the base's
#include "core/kernels/int8_table-inl.h"
