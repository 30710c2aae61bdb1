// SPDX-License-Identifier: Apache-2.0
// Threads that take the tasks of a call from one counter, under a mutex.
#include "tools/examples/toy_engine_cpp/thread_pool.h"

namespace toy {

ThreadPool::ThreadPool(int threads) {
  for (int n = 1; n < threads; ++n) threads_.emplace_back([this] { serve(); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stops_ = true;
  }
  begins_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::take_part(std::unique_lock<std::mutex>& lock) {
  while (work_.next < work_.count) {
    const Work work = work_;
    ++work_.next;
    lock.unlock();
    work.task(work.data, work.next);
    lock.lock();
    if (++work_.done == work_.count) ends_.notify_one();
  }
}

void ThreadPool::serve() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    begins_.wait(lock, [this] { return stops_ || work_.next < work_.count; });
    if (stops_) return;
    take_part(lock);
  }
}

void ThreadPool::run(void* user, std::int64_t count, void (*task)(void*, std::int64_t), void* data) {
  ThreadPool& pool = *static_cast<ThreadPool*>(user);
  const std::lock_guard<std::mutex> one_call(pool.calls_);
  std::unique_lock<std::mutex> lock(pool.mutex_);
  pool.work_ = {task, data, count, 0, 0};
  if (count > 1) {
    ++pool.shared_calls_;
    pool.begins_.notify_all();
  }
  pool.take_part(lock);
  pool.ends_.wait(lock, [&pool] { return pool.work_.done == pool.work_.count; });
}

}  // namespace toy
