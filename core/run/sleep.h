// SPDX-License-Identifier: Apache-2.0
// Waiting for a word in memory to change: awake for a while, then asleep until the thread that changed it wakes it up.
#pragma once

#include <cstdint>

#if defined(__linux__) && !defined(MHA_NO_FUTEX)
#define MHA_FUTEX 1
#else
#define MHA_FUTEX 0
#include <pthread.h>
#endif

namespace mha {

// Seconds on a clock that only goes forward.
double clock_seconds();

void spin_briefly();    // 0.3 us
void let_others_run();  // gives the CPU to whoever else wants it

// Spins until ready() or until the clock shows `end`, and lets others run every 10 us. Returns whether it is ready.
template <typename Ready>
bool spin_until(double end, Ready ready) {
  for (;;) {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      spin_briefly();
    }
    if (clock_seconds() >= end) return ready();
    let_others_run();
  }
}

// Puts threads to sleep. A futex on Linux; a mutex and a condition elsewhere.
class Sleep {
 public:
  static constexpr uint32_t kAnyone = ~uint32_t{0};

  void open();
  void close();
  // Returns when *word is no longer `seen`, or sooner. wake() wakes sleepers whose `group` has a bit of its `groups`.
  void wait(const uint32_t* word, uint32_t seen, uint32_t group = kAnyone);
  // To be called after *word was changed.
  void wake(const uint32_t* word, uint32_t groups = kAnyone);

 private:
#if !MHA_FUTEX
  pthread_mutex_t mutex_;
  pthread_cond_t changed_;
#endif
};

}  // namespace mha
