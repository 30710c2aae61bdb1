// SPDX-License-Identifier: Apache-2.0
// A hint for the loop of a thread that waits for a word in memory to change.
#pragma once

namespace mha {

// Tells the core that this thread only waits. The core pauses it for some tens of cycles, which saves power and leaves
// more of the core to its other thread.
inline void spin_hint() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" : : : "memory");  // "yield" does nothing on most cores
#endif
}

}  // namespace mha
