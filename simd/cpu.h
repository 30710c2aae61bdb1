// SPDX-License-Identifier: Apache-2.0
// What this CPU and operating system can run. Detection is a pure function of register values, so that tests can pass
// the values of any CPU.
#pragma once

#include <cstdint>

namespace mha {

// The registers that decide, as CPUID and XGETBV give them; all zero on other families.
struct CpuRegisters {
  uint32_t max_leaf;     // CPUID.0:EAX
  uint32_t leaf1_ecx;    // FMA 12, POPCNT 23, OSXSAVE 27, AVX 28, F16C 29
  uint32_t leaf1_edx;    // SSE2 26
  uint32_t leaf7_ebx;    // AVX2 5, AVX512 F 16, DQ 17, CD 28, BW 30, VL 31
  uint64_t xcr0;         // XGETBV(0); read only if OSXSAVE. SSE 1, AVX 2, opmask 5, ZMM 6 and 7, tiles 17, 18
  uint32_t vendor;       // CPUID.0:EBX, the first four letters of the maker's name
  uint32_t leaf7_edx;    // AMX-BF16 22, AMX-TILE 24, AMX-INT8 25
  uint32_t leaf7_1_eax;  // CPUID.7.1:EAX: AVX-VNNI 4, AVX512-BF16 5
  uint32_t leaf7_ecx;    // AVX512-VNNI 11
};

// One flag per bundle that a target needs.
struct CpuFeatures {
  bool sse2;
  bool avx2;         // AVX2, FMA, F16C and POPCNT, with the ymm state saved by the operating system
  bool avx512;       // F, CD, BW, DQ, VL and everything of avx2, with the zmm and mask state saved
  bool avx512_vnni;  // VNNI and everything of avx512
  bool avx2_vnni;    // AVX-VNNI and everything of avx2
  bool avx512_bf16;  // BF16 and everything of avx512_vnni
  bool amx;          // AMX TILE, BF16 and INT8, with the tile state saved, and everything of avx512_bf16
  bool fast_bf16;    // products of pairs of bf16 are faster than those of floats: AMD's, with avx512_bf16
  bool neon;
  bool neon_dotprod;
};

CpuFeatures x86_features(const CpuRegisters& registers);
CpuRegisters read_x86_registers();  // zero on other families
CpuFeatures cpu_features();         // of this machine

}  // namespace mha
