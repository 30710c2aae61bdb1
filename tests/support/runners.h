// SPDX-License-Identifier: Apache-2.0
// Everything that can run a call's items: OpenMP, the context's own threads, a host; and which threads did.
#ifndef MHA_TESTS_SUPPORT_RUNNERS_H
#define MHA_TESTS_SUPPORT_RUNNERS_H

#include <atomic>
#include <cfenv>
#include <chrono>
#include <filesystem>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "core/run/parallel.h"
#include "tests/support/targets.h"

namespace mha::test {

/// Threads of this process.
inline int64_t num_tasks() {
  const std::filesystem::directory_iterator all("/proc/self/task");
  return std::distance(begin(all), end(all));
}

/// The same, once it is `expected`, or after two seconds of naps: a thread that was joined is listed a little longer.
inline int64_t num_tasks_soon(int64_t expected) {
  for (int n = 0; num_tasks() != expected && n < 2000; ++n) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return num_tasks();
}

/// CPUs that this process may use.
inline int64_t num_cpus() { return static_cast<int64_t>(std::thread::hardware_concurrency()); }

/// A host's parallel-for with a new thread for every task but the first. The new thread gets the usual floating-point
/// mode instead of its maker's.
inline void run_on_new_threads(void*, int64_t count, void (*task)(void*, int64_t), void* data) {
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(count));
  for (int64_t i = 1; i < count; ++i) {
    threads.emplace_back([task, data, i] {
      std::fesetenv(FE_DFL_ENV);
      task(data, i);
    });
  }
  task(data, 0);
  for (std::thread& thread : threads) thread.join();
}

struct Runner {
  std::string name;
  mha_threading threading;
  bool by_host;

  ContextPtr make(const std::string& target, int64_t num_threads) const {
    mha_context_options options = {};
    options.num_threads = num_threads;
    options.target = target.c_str();
    options.threading = threading;
    if (by_host) options.parallel_for.run = run_on_new_threads;
    return make_context(options);
  }
  /// How many threads a call on two has.
  int64_t two() const { return by_host || num_cpus() > 1 ? 2 : 1; }
};

/// Those built in.
inline std::vector<Runner> runners() {
  std::vector<Runner> all = {{"pool", MHA_THREADING_POOL, false}, {"host", MHA_THREADING_DEFAULT, true}};
  if (has_openmp()) all.push_back({"OpenMP", MHA_THREADING_OPENMP, false});
  return all;
}

/// A phase whose first items wait, each on its thread, until `threads` threads are in it (ten seconds at most), so that
/// all of them run some of its items.
class Meeting {
 public:
  Meeting(const Phase& inner, int64_t threads) : inner_(inner), threads_(threads) {}

  Phase phase() const { return {run, this, inner_.count}; }
  int64_t came() const { return came_; }

 private:
  static void run(const void* job, int64_t item, int64_t slot) {
    const Meeting& self = *static_cast<const Meeting*>(job);
    thread_local const Meeting* here = nullptr;
    thread_local int64_t number = -1;
    if (here != &self || number != self.number_) {
      here = &self, number = self.number_;
      ++self.came_;
      // Counted, not timed: a process that is stopped for a while goes on where it was.
      for (int n = 0; self.came_ < self.threads_ && n < 10000; ++n)
        std::this_thread::sleep_for(std::chrono::microseconds(n < 1000 ? 0 : 1000));
    }
    self.inner_.run(self.inner_.job, item, slot);
  }
  static int64_t next_number() {
    static std::atomic<int64_t> last{0};
    return ++last;
  }

  Phase inner_;
  int64_t threads_;
  int64_t number_ = next_number();
  mutable std::atomic<int64_t> came_{0};
};

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_RUNNERS_H
