// build-flags: -msse2
// SPDX-License-Identifier: Apache-2.0
// SSE2: every x86-64 CPU. No fused multiply-add, so its results differ in the last bits from the other targets'.
#define MHA_TARGET_NS sse2
#define MHA_TARGET_ARCH sse2
#define MHA_ISA_SSE2
#include "core/kernels/all-inl.h"
