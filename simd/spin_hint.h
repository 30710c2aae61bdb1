// SPDX-License-Identifier: Apache-2.0
// What a thread does that waits for a word in memory to change.
#pragma once

namespace mha {

// Tells the core that the thread only waits: some tens of cycles with less power, and more for a second thread of the
// core.
inline void spin_hint() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" : : : "memory");  // "yield" does nothing on most cores
#endif
}

}  // namespace mha
