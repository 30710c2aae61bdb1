// SPDX-License-Identifier: Apache-2.0
// A context's own threads, made with it and joined with it. One call uses them at a time. No call depends on them: the
// caller opens the job, takes items itself, and waits only for items that a thread has taken. A thread that sleeps, has
// no CPU, or does not exist (in the child of a fork) takes none. Results do not depend on who runs an item.
#pragma once

#include "core/base/context.h"
#include "core/run/parallel.h"

namespace mha {

struct PoolOptions {
  int64_t threads;  // the caller included: one less is made
  int64_t cpus;     // for these threads and for other callers
  int64_t process;  // the id of the process that makes them
};

// Makes all threads or none. MHA_ERR_THREAD, MHA_ERR_OUT_OF_MEMORY.
mha_status pool_create(const mha_allocator& allocator, const PoolOptions& options, ThreadPool** pool, mha_error* error);
// Joins them, or in a child of fork only frees their memory. null is allowed.
void pool_destroy(const mha_allocator& allocator, ThreadPool* pool, const ProcessId& process);

// As run_phases. The caller works alone if another call has the threads or other callers have the CPUs, or if `pool` is
// null.
void pool_run(ThreadPool* pool, const ProcessId& process, int64_t threads, const Phase* phases, int count);

// Whether the threads are those of another process.
bool pool_lost(const ThreadPool* pool, const ProcessId& process);

}  // namespace mha
