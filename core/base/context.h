// SPDX-License-Identifier: Apache-2.0
// The context behind the public handle.
#pragma once

#include "core/base/process_id.h"
#include "core/mha.h"

namespace mha {
struct KernelTable;
struct ThreadPool;
}  // namespace mha

struct mha_context {
  const mha::KernelTable* table;
  int64_t num_threads;
  mha_threading threading;        // not DEFAULT, unless parallel_for is given
  mha_parallel_for parallel_for;  // if its run is null, `threading` decides
  mha::ThreadPool* pool;          // the only part that changes (thread_pool.h); null: one thread, or not POOL
  mha::ProcessId process;         // open if num_threads > 1
  mha_allocator allocator;        // both functions are set
};
