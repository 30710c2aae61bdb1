// SPDX-License-Identifier: Apache-2.0
// The target amx with its tiles in memory (simd/tiles-inl.h): what is built on tiles, for machines that have none. Needs
// AVX512-BF16. tests/CMakeLists.txt compiles it; tests/numerics/test_tiles.cpp runs it.
#define MHA_TARGET_NS amx_emulated
#define MHA_BASE_NS avx512
#define MHA_TARGET_ARCH avx512bw
#define MHA_ISA_AVX512
#define MHA_ISA_AVX512_BF16
#define MHA_ISA_DOTS
#define MHA_ISA_AMX
#define MHA_TILES_EMULATED
#pragma GCC diagnostic ignored "-Wunused-function"
#include "core/kernels/bf16_table-inl.h"
