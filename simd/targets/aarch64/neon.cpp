// build-flags: -march=armv8-a
// SPDX-License-Identifier: Apache-2.0
// NEON (Advanced SIMD): every 64-bit Arm CPU.
#define MHA_TARGET_NS neon
#define MHA_TARGET_ARCH neon64
#define MHA_ISA_NEON
#include "core/kernels/all-inl.h"
