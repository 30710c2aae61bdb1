// SPDX-License-Identifier: Apache-2.0
// Who runs a phase. Beside thread_pool.cpp and sleep.cpp the only file that knows a thread runtime. The items of a phase
// are cut into as many ranges as there are slots. A thread takes those of its own range first, so that from call to
// call it meets the same weights and keys, which its caches may still hold. Then it helps the others, so any team size
// works: OpenMP may give fewer threads than asked for (OMP_THREAD_LIMIT, nested regions), a thread of the pool may come
// late or not at all, a host may run its tasks one after the other. Results do not depend on who runs an item.
#include "core/run/parallel.h"

#include <sched.h>
#include <time.h>

#include "core/run/sleep.h"
#include "core/run/team.h"
#include "core/run/thread_pool.h"
#include "simd/float_mode.h"

#if defined(MHA_OPENMP) && MHA_OPENMP
#include <omp.h>

#include "core/run/team_patience.h"
#endif

namespace mha {

void start_ranges(int64_t threads, int count, Counter* counters, Ranges* ranges) {
  const int64_t num_ranges = threads < kMaxRanges ? threads : kMaxRanges;
  for (int p = 0; p < count; ++p) ranges[p] = {counters + p * num_ranges, num_ranges};
  for (int64_t i = 0; i < count * num_ranges; ++i) counters[i].next = 0;
}

namespace {

// Returns how many items it ran.
int64_t drain_range(const Phase& phase, const Ranges& ranges, int64_t range, int64_t slot) {
  const int64_t begin = phase.count * range / ranges.count, end = phase.count * (range + 1) / ranges.count;
  for (int64_t done = 0;; ++done) {
    const int64_t item = begin + __atomic_fetch_add(&ranges.counters[range].next, 1, __ATOMIC_RELAXED);
    if (item >= end) return done;
    phase.run(phase.job, item, slot);
  }
}

}  // namespace

int64_t drain(const Phase& phase, const Ranges& ranges, int64_t slot) {
  const FloatMode mode;
  int64_t done = 0;
  for (int64_t i = 0; i < ranges.count; ++i) done += drain_range(phase, ranges, (slot + i) % ranges.count, slot);
  return done;
}

namespace {

// Seconds that the calling thread has had a CPU.
double cpu_time() {
  timespec time;
  return clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time) == 0
             ? static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec)
             : 0;
}

}  // namespace

int64_t drain_timed(const Phase& phase, const Ranges& ranges, CallerTimes* times) {
  const double begin = clock_seconds(), cpu_begin = times->suspects ? cpu_time() : 0;
  const int64_t done = drain(phase, ranges, 0);
  const double worked = clock_seconds() - begin;
  times->worked += worked;
  // If other threads ran every item, the elapsed time is the estimate.
  if (times->suspects) {
    times->alone +=
        done > 0 ? (cpu_time() - cpu_begin) * static_cast<double>(phase.count) / static_cast<double>(done) : worked;
  }
  return done;
}

#if defined(__linux__)
int current_cpu() { return sched_getcpu(); }

void move_from(int cpu) {
  cpu_set_t allowed, others;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  others = allowed;
  CPU_CLR(cpu, &others);
  if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof(others), &others) != 0) return;
  sched_setaffinity(0, sizeof(allowed), &allowed);
}
#else
int current_cpu() { return -1; }
void move_from(int) {}
#endif

namespace {

struct HostTask {
  const Phase* phase;
  Ranges ranges;
};

void run_host_task(void* data, int64_t index) {
  const HostTask& task = *static_cast<const HostTask*>(data);
  drain(*task.phase, task.ranges, index);
}

void run_by_host(const mha_parallel_for& host, int64_t threads, const Phase* phases, int count) {
  Counter counters[kMaxPhases * kMaxRanges];
  Ranges ranges[kMaxPhases];
  start_ranges(threads, count, counters, ranges);
  for (int p = 0; p < count; ++p) {
    if (phases[p].count == 0) continue;
    HostTask task = {&phases[p], ranges[p]};
    const int64_t tasks = phases[p].count < threads ? phases[p].count : threads;
    host.run(host.user, tasks, run_host_task, &task);
  }
}

#if defined(MHA_OPENMP) && MHA_OPENMP
// OpenMP has a team for each calling thread, so each calling thread has its own of these.
thread_local TeamPatience patience;
thread_local int64_t cpus = 0;          // 0: not known yet
thread_local int64_t team_process = 0;  // the process in which this thread first called a team; 0: none yet

// After a fork libgomp would wait for ever for the threads that its parent had.
bool lost_team(const ProcessId& process) { return team_process != 0 && team_process != process.get(); }

// How many threads a call gets now, at most `threads`.
int64_t team_size(const mha_context& context, int64_t threads) {
  if (lost_team(context.process)) return 1;
  // More threads than CPUs only take turns, and the end of each phase waits for threads that have no CPU.
  if (cpus == 0) cpus = omp_get_num_procs();
  if (threads > cpus) threads = cpus;
  // In a region of the host its threads have the CPUs already: a team for each of them would only take turns, too.
  return omp_in_parallel() || patience.alone(clock_seconds) ? 1 : threads;
}

// A thread that slept is often woken on the caller's CPU although others are idle. The caller would keep it from
// running until the scheduler's next tick, some milliseconds later, and then share the CPU with it. So a caller without
// items left yields its CPU, for so long at most, and the thread, once it runs, moves to another CPU.
constexpr double kMakingWay = 0.3e-3;

void make_way(const int64_t* came, int64_t others) {
  if (__atomic_load_n(came, __ATOMIC_RELAXED) >= others) return;
  const double end = clock_seconds() + kMakingWay;
  while (__atomic_load_n(came, __ATOMIC_RELAXED) < others && clock_seconds() < end) sched_yield();
}

// A function of its own: clang calls the OpenMP runtime on entry to any function that has a parallel region, and calls
// on one thread must not do that.
__attribute__((noinline)) void run_team(int threads, const Phase* phases, int count) {
  Counter counters[kMaxPhases * kMaxRanges];
  Ranges ranges[kMaxPhases];
  start_ranges(threads, count, counters, ranges);
  CallerTimes times = {patience.suspects(), 0, 0};
  const double begin = clock_seconds();
  const int callers_cpu = current_cpu();
  alignas(64) int64_t came = 0;
#pragma omp parallel num_threads(threads)
  {
    const int64_t slot = omp_get_thread_num();
    if (slot > 0) {
      __atomic_add_fetch(&came, 1, __ATOMIC_RELAXED);
      if (callers_cpu >= 0 && current_cpu() == callers_cpu) move_from(callers_cpu);
    }
    for (int p = 0; p < count; ++p) {
      if (slot == 0) {
        drain_timed(phases[p], ranges[p], &times);
        make_way(&came, omp_get_num_threads() - 1);
      } else {
        drain(phases[p], ranges[p], slot);
      }
      if (p + 1 < count) {
#pragma omp barrier
      }
    }
  }
  const double end = clock_seconds();
  patience.report(end, {end - begin, end - begin - times.worked, times.alone});
}

void run_by_openmp(const mha_context& context, int64_t threads, const Phase* phases, int count) {
  threads = team_size(context, threads);
  if (threads <= 1) return run_serially(phases, count);
  if (team_process == 0) team_process = context.process.get();
  run_team(static_cast<int>(threads), phases, count);
}
#else
bool lost_team(const ProcessId&) { return false; }
void run_by_openmp(const mha_context&, int64_t, const Phase* phases, int count) { run_serially(phases, count); }
#endif

}  // namespace

bool has_openmp() {
#if defined(MHA_OPENMP) && MHA_OPENMP
  return true;
#else
  return false;
#endif
}

bool lost_threads(const mha_context& context) {
  if (context.parallel_for.run != nullptr || context.num_threads <= 1) return false;
  return context.threading == MHA_THREADING_POOL ? pool_lost(context.pool, context.process)
                                                 : lost_team(context.process);
}

void run_serially(const Phase* phases, int count) {
  for (int p = 0; p < count; ++p) {
    for (int64_t item = 0; item < phases[p].count; ++item) phases[p].run(phases[p].job, item, 0);
  }
}

void run_phases(const mha_context& context, int64_t threads, const Phase* phases, int count) {
  if (threads <= 1) return run_serially(phases, count);
  if (context.parallel_for.run != nullptr) return run_by_host(context.parallel_for, threads, phases, count);
  if (context.threading == MHA_THREADING_POOL) return pool_run(context.pool, context.process, threads, phases, count);
  run_by_openmp(context, threads, phases, count);
}

}  // namespace mha
