// SPDX-License-Identifier: Apache-2.0
// The host's own threads, which the library's calls run on through mha_parallel_for.
#ifndef MHA_TOOLS_EXAMPLES_TOY_ENGINE_CPP_THREAD_POOL_H
#define MHA_TOOLS_EXAMPLES_TOY_ENGINE_CPP_THREAD_POOL_H

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace toy {

/// Threads that sleep between calls. The thread that calls run takes part.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// mha_parallel_for.run; `user` is the pool. A second caller waits until the first has ended.
  static void run(void* user, std::int64_t count, void (*task)(void*, std::int64_t), void* data);
  /// How many calls were shared among threads.
  std::int64_t shared_calls() const { return shared_calls_; }

 private:
  struct Work {
    void (*task)(void*, std::int64_t) = nullptr;
    void* data = nullptr;
    std::int64_t count = 0, next = 0, done = 0;
  };

  void serve();
  /// Runs tasks until none is left to begin; `lock` is held on entry and on return.
  void take_part(std::unique_lock<std::mutex>& lock);

  std::mutex calls_;  // held for a whole call
  std::mutex mutex_;  // of what follows
  std::condition_variable begins_, ends_;
  Work work_;
  bool stops_ = false;
  std::int64_t shared_calls_ = 0;
  std::vector<std::thread> threads_;
};

}  // namespace toy

#endif  // MHA_TOOLS_EXAMPLES_TOY_ENGINE_CPP_THREAD_POOL_H
