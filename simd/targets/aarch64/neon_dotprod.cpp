// build-flags: -march=armv8.2-a+dotprod
// base: neon
// SPDX-License-Identifier: Apache-2.0
// option: MHA_CODES
// Armv8.2's dotprod over neon: Arm Cortex-A55, A75 and A76 (2018), Neoverse N1, Apple A13 and later.
#define MHA_TARGET_NS neon_dotprod
#define MHA_BASE_NS neon
#define MHA_TARGET_ARCH neon64
#define MHA_ISA_NEON
#define MHA_ISA_DOTS
#pragma GCC diagnostic ignored "-Wunused-function"  // most algorithms are the base's
#include "core/kernels/int8_table-inl.h"
