// SPDX-License-Identifier: Apache-2.0
// The pool. A thread that has nothing to do waits for `generation` to change, awake for a while, then asleep. `gate`
// says whether a job is open, and how many threads are inside it: they may read the job, which does not change before
// all have left. The thread that finishes the last item of a phase sets `finished`, and all go on to the next phase.
#include "core/run/thread_pool.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include "core/base/memory.h"
#include "core/base/status.h"
#include "core/run/sleep.h"
#include "core/run/team.h"
#include "core/run/team_patience.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define MHA_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MHA_SANITIZED 1
#endif

namespace mha {
namespace {

// Calls need less than 128 KiB (tests/system/test_memory.cpp); sanitizers' frames are larger.
#if defined(MHA_SANITIZED)
constexpr size_t kStack = size_t{1} << 20;
#else
constexpr size_t kStack = size_t{256} << 10;
#endif

// How long a thread stays awake after its last work: kLongAwake if its last pause was shorter than that. To wake a
// thread takes a system call and a wait for the scheduler. Where calls come often, that costs more than the thread
// gains. A thread that is awake lets others run.
constexpr double kAwake = 50e-6, kLongAwake = 5e-3;
// How long a thread stays awake while it waits for the items of others.
constexpr double kAwakeInJob = 50e-6;
// How long a caller yields its CPU at most to threads that it woke.
constexpr double kMakingWay = 0.3e-3;

constexpr uint32_t kOpen = 1, kInside = 2;  // of the gate

// How far a phase is, on a cache line of its own.
struct alignas(64) Progress {
  int64_t left;       // items that are not finished
  uint32_t finished;  // whether all are
};

struct Job {
  int64_t threads;
  int count;
  int callers_cpu;
  Phase phases[kMaxPhases];
  Ranges ranges[kMaxPhases];
};

struct Worker {
  ThreadPool* pool;
  int64_t slot;
  pthread_t thread;
};

}  // namespace

struct ThreadPool {
  PoolOptions options;
  size_t bytes;
  Worker* workers;  // options.threads - 1
  int64_t made;
  Sleep sleep;
  TeamPatience patience;  // of the caller that holds the pool
  Job job;
  alignas(64) Counter counters[kMaxPhases * kMaxRanges];
  Progress progress[kMaxPhases];
  alignas(64) uint32_t generation;  // of jobs
  uint32_t stop;
  alignas(64) uint32_t gate;
  alignas(64) int64_t sleepers;  // threads that sleep for a job
  int64_t waiting;               // threads that sleep for a phase to finish
  alignas(64) int64_t callers;   // calls under way
  uint32_t held;                 // 1: one of them has the threads
  alignas(64) int64_t came;      // threads that have joined the job
};

namespace {

// Threads of the same slot modulo 32 share a bit.
uint32_t group_of(int64_t slot) { return uint32_t{1} << (slot % 32); }
uint32_t groups_below(int64_t threads) { return threads >= 32 ? Sleep::kAnyone : (uint32_t{1} << threads) - 1; }

void wait_until_finished(ThreadPool* pool, Progress* progress) {
  const auto finished = [progress] { return __atomic_load_n(&progress->finished, __ATOMIC_ACQUIRE) != 0; };
  if (finished() || spin_until(clock_seconds() + kAwakeInJob, finished)) return;
  // Asleep, it leaves its CPU to the thread that it waits for, which may have none.
  __atomic_fetch_add(&pool->waiting, 1, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(&progress->finished, __ATOMIC_SEQ_CST) == 0) pool->sleep.wait(&progress->finished, 0);
  __atomic_fetch_sub(&pool->waiting, 1, __ATOMIC_RELAXED);
}

// To be called after `done` items of a phase.
void count_finished(ThreadPool* pool, Progress* progress, int64_t done) {
  if (done == 0 || __atomic_sub_fetch(&progress->left, done, __ATOMIC_ACQ_REL) > 0) return;
  __atomic_store_n(&progress->finished, 1, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&pool->waiting, __ATOMIC_SEQ_CST) > 0) pool->sleep.wake(&progress->finished);
}

void help(ThreadPool* pool, int64_t slot) {
  const Job& job = pool->job;
  __atomic_fetch_add(&pool->came, 1, __ATOMIC_RELAXED);
  if (job.callers_cpu >= 0 && current_cpu() == job.callers_cpu) move_from(job.callers_cpu);
  for (int p = 0; p < job.count; ++p) {
    count_finished(pool, &pool->progress[p], drain(job.phases[p], job.ranges[p], slot));
    if (p + 1 < job.count) wait_until_finished(pool, &pool->progress[p]);
  }
}

// Returns when there may be a job that this thread has not seen.
void wait_for_job(ThreadPool* pool, int64_t slot, double awake_until, uint32_t* seen) {
  const auto changed = [pool, seen] { return __atomic_load_n(&pool->generation, __ATOMIC_ACQUIRE) != *seen; };
  if (!changed() && !spin_until(awake_until, changed)) {
    __atomic_fetch_add(&pool->sleepers, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&pool->generation, __ATOMIC_SEQ_CST) == *seen) {
      pool->sleep.wait(&pool->generation, *seen, group_of(slot));
    }
    __atomic_fetch_sub(&pool->sleepers, 1, __ATOMIC_RELAXED);
  }
  *seen = __atomic_load_n(&pool->generation, __ATOMIC_ACQUIRE);
}

void* work(void* data) {
  const Worker& self = *static_cast<Worker*>(data);
  ThreadPool* pool = self.pool;
  uint32_t seen = 0;
  double awake = kAwake, idle_since = clock_seconds();
  for (;;) {
    wait_for_job(pool, self.slot, idle_since + awake, &seen);
    if (__atomic_load_n(&pool->stop, __ATOMIC_ACQUIRE) != 0) return nullptr;
    const uint32_t gate = __atomic_fetch_add(&pool->gate, kInside, __ATOMIC_ACQUIRE);
    const bool mine = (gate & kOpen) != 0 && self.slot < pool->job.threads;
    if (mine) {
      awake = clock_seconds() - idle_since < kLongAwake ? kLongAwake : kAwake;
      help(pool, self.slot);
    }
    __atomic_fetch_sub(&pool->gate, kInside, __ATOMIC_RELEASE);
    if (mine) idle_since = clock_seconds();
  }
}

// Tells all threads that there is a new job. Returns whether some of those below `threads` may have slept.
bool call_threads(ThreadPool* pool, int64_t threads) {
  __atomic_fetch_add(&pool->generation, 1, __ATOMIC_SEQ_CST);
  const int64_t asleep = __atomic_load_n(&pool->sleepers, __ATOMIC_SEQ_CST);
  // Threads for which the job has no slot may sleep on.
  if (asleep <= pool->options.threads - threads) return false;
  pool->sleep.wake(&pool->generation, groups_below(threads));
  return true;
}

// A thread that was woken on the caller's CPU runs, and moves, when the caller lets it; see make_way in parallel.cpp.
void make_way(ThreadPool* pool, int64_t others) {
  const auto all_came = [pool, others] { return __atomic_load_n(&pool->came, __ATOMIC_RELAXED) >= others; };
  if (all_came()) return;
  const double end = clock_seconds() + kMakingWay;
  while (!all_came() && clock_seconds() < end) let_others_run();
}

void set_job(ThreadPool* pool, int64_t threads, const Phase* phases, int count) {
  Job& job = pool->job;
  job.threads = threads, job.count = count, job.callers_cpu = current_cpu();
  start_ranges(threads, count, pool->counters, job.ranges);
  for (int p = 0; p < count; ++p) {
    job.phases[p] = phases[p];
    pool->progress[p].left = phases[p].count;
    pool->progress[p].finished = phases[p].count == 0 ? 1 : 0;
  }
  pool->came = 0;
}

// Returns whether it ran the job. It does not while the caller is to work alone, or while a thread that has no CPU is
// still inside the job before, whose items are all finished.
bool run_held(ThreadPool* pool, int64_t threads, const Phase* phases, int count) {
  if (pool->patience.alone(clock_seconds)) return false;
  const auto empty = [pool] { return __atomic_load_n(&pool->gate, __ATOMIC_ACQUIRE) == 0; };
  if (!empty() && !spin_until(clock_seconds() + 1e-6, empty)) return false;
  const double begin = clock_seconds();
  CallerTimes times = {pool->patience.suspects(), 0, 0};
  set_job(pool, threads, phases, count);
  __atomic_fetch_add(&pool->gate, kOpen, __ATOMIC_RELEASE);
  const bool woke = call_threads(pool, threads);
  for (int p = 0; p < count; ++p) {
    count_finished(pool, &pool->progress[p], drain_timed(phases[p], pool->job.ranges[p], &times));
    if (woke) make_way(pool, threads - 1);
    wait_until_finished(pool, &pool->progress[p]);
  }
  __atomic_fetch_sub(&pool->gate, kOpen, __ATOMIC_RELEASE);
  const double end = clock_seconds();
  pool->patience.report(end, {end - begin, end - begin - times.worked, times.alone});
  return true;
}

// Returns pthread_create's answer. Signals are for the host's threads, so the pool's threads start with all blocked.
int start(Worker* worker) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStack);
  int failed = pthread_create(&worker->thread, &attributes, work, worker);
  // The host's thread-local variables take their place from the stack. If they are too large for ours, the system's
  // usual stack is used.
  if (failed == EINVAL) failed = pthread_create(&worker->thread, nullptr, work, worker);
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return failed;
}

void join_all_and_close(ThreadPool* pool) {
  __atomic_store_n(&pool->stop, 1, __ATOMIC_RELEASE);
  __atomic_fetch_add(&pool->generation, 1, __ATOMIC_SEQ_CST);
  pool->sleep.wake(&pool->generation);
  for (int64_t n = 0; n < pool->made; ++n) pthread_join(pool->workers[n].thread, nullptr);
  pool->sleep.close();
}

}  // namespace

mha_status pool_create(const mha_allocator& allocator, const PoolOptions& options, ThreadPool** pool,
                       mha_error* error) {
  const size_t bytes = sizeof(ThreadPool) + static_cast<size_t>(options.threads - 1) * sizeof(Worker);
  ThreadPool* made = static_cast<ThreadPool*>(allocate(allocator, bytes));
  if (made == nullptr) return fail(error, MHA_ERR_OUT_OF_MEMORY, "no memory for %zu bytes of a thread pool", bytes);
  *made = {};
  made->options = options;
  made->bytes = bytes;
  made->workers = reinterpret_cast<Worker*>(made + 1);
  made->sleep.open();
  for (; made->made < options.threads - 1; ++made->made) {
    Worker* worker = made->workers + made->made;
    *worker = {made, made->made + 1, {}};
    const int failed = start(worker);
    if (failed == 0) continue;
    const int64_t number = made->made + 1;
    join_all_and_close(made);
    release(allocator, made, bytes);
    return fail(error, MHA_ERR_THREAD, "thread %lld of %lld beside the caller cannot be made: pthread_create says %d",
                static_cast<long long>(number), static_cast<long long>(options.threads - 1), failed);
  }
  *pool = made;
  return MHA_OK;
}

void pool_destroy(const mha_allocator& allocator, ThreadPool* pool, const ProcessId& process) {
  if (pool == nullptr) return;
  // In a forked child there are no threads to join, and closing a condition would wait for the parent's sleepers.
  if (!pool_lost(pool, process)) join_all_and_close(pool);
  release(allocator, pool, pool->bytes);
}

bool pool_lost(const ThreadPool* pool, const ProcessId& process) {
  return pool != nullptr && pool->options.process != process.get();
}

void pool_run(ThreadPool* pool, const ProcessId& process, int64_t threads, const Phase* phases, int count) {
  if (pool == nullptr || pool_lost(pool, process)) return run_serially(phases, count);
  // Each of the other callers has at least one CPU.
  const int64_t others = __atomic_fetch_add(&pool->callers, 1, __ATOMIC_RELAXED);
  if (threads > pool->options.threads) threads = pool->options.threads;
  if (threads > pool->options.cpus - others) threads = pool->options.cpus - others;
  bool ran = false;
  if (threads > 1 && __atomic_exchange_n(&pool->held, 1, __ATOMIC_ACQUIRE) == 0) {
    ran = run_held(pool, threads, phases, count);
    __atomic_store_n(&pool->held, 0, __ATOMIC_RELEASE);
  }
  if (!ran) run_serially(phases, count);
  __atomic_fetch_sub(&pool->callers, 1, __ATOMIC_RELAXED);
}

}  // namespace mha
