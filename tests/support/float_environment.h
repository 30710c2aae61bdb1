// SPDX-License-Identifier: Apache-2.0
// The floating-point modes that a caller of the library may have set.
#ifndef MHA_TESTS_SUPPORT_FLOAT_ENVIRONMENT_H
#define MHA_TESTS_SUPPORT_FLOAT_ENVIRONMENT_H

#include <cfenv>
#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace mha::test {

struct CallerMode {
  const char* name;
  int rounding;
  bool flush;  // denormal results and operands count as zero, where the machine has such a mode
};

inline constexpr CallerMode kCallerModes[] = {{"to nearest", FE_TONEAREST, false},
                                              {"to nearest, denormals flushed", FE_TONEAREST, true},
                                              {"upward", FE_UPWARD, false},
                                              {"downward, denormals flushed", FE_DOWNWARD, true},
                                              {"toward zero", FE_TOWARDZERO, false}};

/// Calls `run` in a mode of the caller's; the test itself then goes on in the default.
template <class Run>
void in_mode(const CallerMode& mode, Run&& run) {
  std::fesetround(mode.rounding);
#if defined(__x86_64__)
  if (mode.flush) _mm_setcsr(_mm_getcsr() | 0x8040u);
#elif defined(__aarch64__)
  uint64_t fpcr = 0;
  asm volatile("mrs %0, fpcr" : "=r"(fpcr));
  if (mode.flush) asm volatile("msr fpcr, %0" : : "r"(fpcr | uint64_t{1} << 24) : "memory");
#endif
  run();
#if defined(__x86_64__)
  _mm_setcsr(0x1f80);
#elif defined(__aarch64__)
  asm volatile("msr fpcr, %0" : : "r"(uint64_t{0}) : "memory");
#endif
  std::fesetround(FE_TONEAREST);
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_FLOAT_ENVIRONMENT_H
