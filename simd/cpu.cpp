// SPDX-License-Identifier: Apache-2.0
// CPU detection. The one of xsimd 8.1 does not check whether the operating system saves the wide registers.
#include "simd/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace mha {
namespace {

bool has(uint64_t value, int bit) { return (value >> bit & 1) != 0; }

bool has_all(uint64_t value, uint64_t mask) { return (value & mask) == mask; }

}  // namespace

CpuFeatures x86_features(const CpuRegisters& r) {
  constexpr uint64_t kYmmState = 0x6, kZmmState = 0xe6, kTileState = 0x60000;
  CpuFeatures f = {};
  f.sse2 = r.max_leaf >= 1 && has(r.leaf1_edx, 26);
  const bool os_xsave = has(r.leaf1_ecx, 27);
  const bool leaf7 = r.max_leaf >= 7;
  f.avx2 = f.sse2 && leaf7 && os_xsave && has_all(r.xcr0, kYmmState) && has(r.leaf1_ecx, 28) && has(r.leaf1_ecx, 12) &&
           has(r.leaf1_ecx, 23) && has(r.leaf1_ecx, 29) && has(r.leaf7_ebx, 5);
  f.avx512 = f.avx2 && has_all(r.xcr0, kZmmState) && has(r.leaf7_ebx, 16) && has(r.leaf7_ebx, 17) &&
             has(r.leaf7_ebx, 28) && has(r.leaf7_ebx, 30) && has(r.leaf7_ebx, 31);
  constexpr uint32_t kAuthenticAmd = 0x68747541;  // "Auth"
  f.avx512_vnni = f.avx512 && has(r.leaf7_ecx, 11);
  f.avx2_vnni = f.avx2 && has(r.leaf7_1_eax, 4);
  f.avx512_bf16 = f.avx512_vnni && has(r.leaf7_1_eax, 5);
  f.amx = f.avx512_bf16 && has_all(r.xcr0, kTileState) && has(r.leaf7_edx, 22) && has(r.leaf7_edx, 24) &&
          has(r.leaf7_edx, 25);
  f.fast_bf16 = f.avx512_bf16 && r.vendor == kAuthenticAmd;
  return f;
}

CpuRegisters read_x86_registers() {
  CpuRegisters r = {};
#if defined(__x86_64__)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  r.max_leaf = __get_cpuid_max(0, &r.vendor);
  if (r.max_leaf >= 1) {
    __cpuid(1, eax, ebx, ecx, edx);
    r.leaf1_ecx = ecx;
    r.leaf1_edx = edx;
  }
  if (r.max_leaf >= 7) {
    __cpuid_count(7, 0, eax, ebx, ecx, edx);
    r.leaf7_ebx = ebx;
    r.leaf7_ecx = ecx;
    r.leaf7_edx = edx;
    const unsigned subleaves = eax;
    if (subleaves >= 1) {
      __cpuid_count(7, 1, eax, ebx, ecx, edx);
      r.leaf7_1_eax = eax;
    }
  }
  if (has(r.leaf1_ecx, 27)) {
    __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    r.xcr0 = static_cast<uint64_t>(edx) << 32 | eax;
  }
#endif
  return r;
}

CpuFeatures cpu_features() {
#if defined(__aarch64__)
  CpuFeatures f = {};
  f.neon = true;  // part of the base architecture
#if defined(__linux__)
  constexpr int kDotprod = 20;  // of AT_HWCAP: HWCAP_ASIMDDP
  f.neon_dotprod = has(getauxval(AT_HWCAP), kDotprod);
#elif defined(__APPLE__)
  f.neon_dotprod = true;  // every Mac
#endif
  return f;
#else
  return x86_features(read_x86_registers());
#endif
}

}  // namespace mha
