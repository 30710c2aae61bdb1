// build-flags: -mavx512f -mavx512cd -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mpopcnt -mprefer-vector-width=512
// SPDX-License-Identifier: Apache-2.0
// AVX-512 F, CD, BW, DQ and VL: Intel Skylake-X (2017), AMD Zen 4 (2022) and later.
#define MHA_TARGET_NS avx512
#define MHA_TARGET_ARCH avx512bw
#define MHA_ISA_AVX512
#include "core/kernels/all-inl.h"
