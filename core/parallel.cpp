// SPDX-License-Identifier: Apache-2.0
// The only file that knows a thread runtime. Items are handed out by a counter, so any team size works: OpenMP may give
// fewer threads than asked for (OMP_THREAD_LIMIT, nested regions), a host may run its tasks one after the other.
// Results do not depend on who runs an item.
#include "core/parallel.h"

#if defined(MHA_OPENMP) && MHA_OPENMP
#include <omp.h>
#endif

namespace mha {
namespace {

// One counter per phase, each on a line of its own.
struct Counter {
  alignas(64) int64_t next;
};

void drain(const Phase& phase, Counter& counter, int64_t slot) {
  for (;;) {
    const int64_t item = __atomic_fetch_add(&counter.next, 1, __ATOMIC_RELAXED);
    if (item >= phase.count) return;
    phase.run(phase.job, item, slot);
  }
}

struct HostTask {
  const Phase* phase;
  Counter* counter;
};

void run_host_task(void* data, int64_t index) {
  const HostTask& task = *static_cast<const HostTask*>(data);
  drain(*task.phase, *task.counter, index);
}

#if defined(MHA_OPENMP) && MHA_OPENMP
// A function of its own: clang calls the runtime on entry of whatever function holds a region, and one thread must not.
__attribute__((noinline)) void run_openmp(int threads, const Phase* phases, int count, Counter* counters) {
#pragma omp parallel num_threads(threads)
  {
    const int64_t slot = omp_get_thread_num();
    for (int p = 0; p < count; ++p) {
      drain(phases[p], counters[p], slot);
      if (p + 1 < count) {
#pragma omp barrier
      }
    }
  }
}
#endif

}  // namespace

bool has_openmp() {
#if defined(MHA_OPENMP) && MHA_OPENMP
  return true;
#else
  return false;
#endif
}

void run_phases(const mha_context& context, int64_t threads, const Phase* phases, int count) {
  if (threads <= 1) {
    for (int p = 0; p < count; ++p) {
      for (int64_t item = 0; item < phases[p].count; ++item) phases[p].run(phases[p].job, item, 0);
    }
    return;
  }
  Counter counters[kMaxPhases] = {};
  if (context.parallel_for.run != nullptr) {
    for (int p = 0; p < count; ++p) {
      if (phases[p].count == 0) continue;
      HostTask task = {&phases[p], &counters[p]};
      const int64_t tasks = phases[p].count < threads ? phases[p].count : threads;
      context.parallel_for.run(context.parallel_for.user, tasks, run_host_task, &task);
    }
    return;
  }
#if defined(MHA_OPENMP) && MHA_OPENMP
  run_openmp(static_cast<int>(threads), phases, count, counters);
#else
  run_phases(context, 1, phases, count);
#endif
}

}  // namespace mha
