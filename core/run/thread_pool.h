// SPDX-License-Identifier: Apache-2.0
// Threads of a context's own, made with it and joined with it. One call has them at a time. No call depends on them:
// its caller opens the job, takes items itself, and waits only for items that a thread has taken; a thread that sleeps,
// was kept off its CPU, or does not exist (in the child of a fork) takes none. Results do not depend on who runs an
// item.
#pragma once

#include "core/base/context.h"
#include "core/run/parallel.h"

namespace mha {

struct PoolOptions {
  int64_t threads;  // with the caller: one less is made
  int64_t cpus;     // that there are for them and for other callers
  int64_t process;  // this one
};

// Makes all threads or none. MHA_ERR_THREAD, MHA_ERR_OUT_OF_MEMORY.
mha_status pool_create(const mha_allocator& allocator, const PoolOptions& options, ThreadPool** pool, mha_error* error);
// Joins them, or in a child of fork only frees their memory. null is allowed.
void pool_destroy(const mha_allocator& allocator, ThreadPool* pool, const ProcessId& process);

// As run_phases; alone if another call has the threads, or keeps the CPUs busy. null: alone.
void pool_run(ThreadPool* pool, const ProcessId& process, int64_t threads, const Phase* phases, int count);

// Whether the threads are those of another process.
bool pool_lost(const ThreadPool* pool, const ProcessId& process);

}  // namespace mha
