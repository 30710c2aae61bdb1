// SPDX-License-Identifier: Apache-2.0
// The floating-point mode of the kernels: denormal inputs and results count as zero, to nearest, no traps.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace mha {

// Sets the mode of this thread and restores the caller's at the end. Without it each product with a denormal costs an
// x86 core some hundred cycles, and results depend on the caller's rounding mode.
class FloatMode {
 public:
  FloatMode() { set(); }
  ~FloatMode() { restore(); }
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;

 private:
#if defined(__SSE2__)
  void set() {
    caller_ = _mm_getcsr();
    _mm_setcsr(0x9fc0);  // FTZ and DAZ; all exceptions masked; to nearest
  }
  void restore() { _mm_setcsr(caller_); }
  uint32_t caller_;
#elif defined(__aarch64__)
  void set() {
    asm volatile("mrs %0, fpcr" : "=r"(caller_));
    asm volatile("mrs %0, fpsr" : "=r"(flags_));
    asm volatile("msr fpcr, %0" : : "r"(uint64_t{1} << 24) : "memory");  // FZ
  }
  void restore() {
    asm volatile("msr fpcr, %0" : : "r"(caller_) : "memory");
    asm volatile("msr fpsr, %0" : : "r"(flags_));
  }
  uint64_t caller_, flags_;
#else
  void set() {}
  void restore() {}
#endif
};

}  // namespace mha
