// SPDX-License-Identifier: Apache-2.0
// ggml's threads as mha's parallel_for. ggml calls a node's function on nth threads at once. Thread 0 calls mha; the
// others come to the team and compute the tasks of mha's parallel regions, as many as thread 0 leaves them. No thread
// waits for another to begin a task, so a thread that is late delays nothing but the end of the node.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mha_ggml_detail {

// Waits a little: first in the CPU, then by letting other threads run.
class Pause {
 public:
  void operator()() {
    if (++count_ > 2000) return std::this_thread::yield();
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#endif
  }

 private:
  int count_ = 0;
};

class Team {
 public:
  using Task = void (*)(void* data, int64_t index);

  // Thread 0: from open to close, the team is that of `node`. Another graph's node waits until it is closed.
  void open(const void* node) {
    Pause pause;
    while (busy_.exchange(true, std::memory_order_acquire)) pause();
    arrived_.store(0, std::memory_order_relaxed);
    node_.store(node, std::memory_order_release);
  }

  // Returns when all helpers have come: one that came after the end would wait for ever.
  void close(int64_t helpers) {
    Pause pause;
    while (arrived_.load(std::memory_order_acquire) != helpers) pause();
    node_.store(nullptr, std::memory_order_release);
    busy_.store(false, std::memory_order_release);
  }

  // The other threads: computes tasks until the team of `node` is closed.
  void help(const void* node) {
    Pause pause;
    while (node_.load(std::memory_order_acquire) != node) pause();
    arrived_.fetch_add(1, std::memory_order_acq_rel);
    for (Pause idle; node_.load(std::memory_order_acquire) == node;) {
      if (take_one()) {
        idle = Pause();
      } else {
        idle();
      }
    }
  }

  // Thread 0: mha_parallel_for.run.
  static void run(void* user, int64_t count, Task task, void* data) {
    static_cast<Team*>(user)->run(count, task, data);
  }

 private:
  static constexpr int kIndexBits = 32;
  static constexpr uint64_t kIndexMask = (uint64_t{1} << kIndexBits) - 1;

  void run(int64_t count, Task task, void* data) {
    done_.store(0, std::memory_order_relaxed);
    task_.store(task, std::memory_order_relaxed);
    data_.store(data, std::memory_order_relaxed);
    count_.store(count, std::memory_order_relaxed);
    const uint64_t region = (ticket_.load(std::memory_order_relaxed) >> kIndexBits) + 1;
    ticket_.store(region << kIndexBits, std::memory_order_release);
    while (take_one()) continue;
    Pause pause;
    while (done_.load(std::memory_order_acquire) != count) pause();
    ticket_.store(region << kIndexBits | kIndexMask, std::memory_order_release);  // no task, whatever the next count is
  }

  // Computes one task of the present region; false if none is left. A ticket is the region's number and the next index:
  // exchanging it for the next one proves that the task read before is that of this region, which ends only when all of
  // its tasks are done.
  bool take_one() {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    for (;;) {
      const Task task = task_.load(std::memory_order_relaxed);
      void* data = data_.load(std::memory_order_relaxed);
      const auto index = static_cast<int64_t>(ticket & kIndexMask);
      if (index >= count_.load(std::memory_order_relaxed)) return false;
      if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel, std::memory_order_acquire))
        continue;
      task(data, index);
      done_.fetch_add(1, std::memory_order_acq_rel);
      return true;
    }
  }

  std::atomic<bool> busy_{false};
  std::atomic<const void*> node_{nullptr};
  std::atomic<int64_t> arrived_{0};
  alignas(64) std::atomic<uint64_t> ticket_{0};
  std::atomic<Task> task_{nullptr};
  std::atomic<void*> data_{nullptr};
  std::atomic<int64_t> count_{0};
  alignas(64) std::atomic<int64_t> done_{0};
};

}  // namespace mha_ggml_detail
