// SPDX-License-Identifier: Apache-2.0
// Spinning and sleeping.
#include "core/run/sleep.h"

#include <sched.h>
#include <time.h>

#include "simd/spin_hint.h"

#if MHA_FUTEX
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace mha {

double clock_seconds() {
  timespec time = {};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void let_others_run() { sched_yield(); }

void spin_briefly() {
  for (int i = 0; i < 8; ++i) spin_hint();
}

#if MHA_FUTEX
void Sleep::open() {}
void Sleep::close() {}

void Sleep::wait(const uint32_t* word, uint32_t seen, uint32_t group) {
  syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, seen, nullptr, nullptr, group);
}

void Sleep::wake(const uint32_t* word, uint32_t groups) {
  syscall(SYS_futex, word, FUTEX_WAKE_BITSET_PRIVATE, INT_MAX, nullptr, nullptr, groups);
}
#else
void Sleep::open() {
  pthread_mutex_init(&mutex_, nullptr);
  pthread_cond_init(&changed_, nullptr);
}

void Sleep::close() {
  pthread_cond_destroy(&changed_);
  pthread_mutex_destroy(&mutex_);
}

void Sleep::wait(const uint32_t* word, uint32_t seen, uint32_t) {
  pthread_mutex_lock(&mutex_);
  while (__atomic_load_n(word, __ATOMIC_SEQ_CST) == seen) pthread_cond_wait(&changed_, &mutex_);
  pthread_mutex_unlock(&mutex_);
}

// The word changed before the mutex is taken, so a sleeper either sees the change or is asleep by now.
void Sleep::wake(const uint32_t*, uint32_t) {
  pthread_mutex_lock(&mutex_);
  pthread_mutex_unlock(&mutex_);
  pthread_cond_broadcast(&changed_);
}
#endif

}  // namespace mha
