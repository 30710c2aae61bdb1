// SPDX-License-Identifier: Apache-2.0
// Running the phases of a call: serially, in one OpenMP region, on the context's own threads, or by the host's
// parallel-for.
#pragma once

#include "core/base/context.h"

namespace mha {

// Work items 0 .. count-1, independent of each other. `slot` in [0, threads) says whose scratch to use.
struct Phase {
  void (*run)(const void* job, int64_t item, int64_t slot);
  const void* job;
  int64_t count;
};

constexpr int kMaxPhases = 8;

// Whether this library was built with OpenMP.
bool has_openmp();

// Whether the threads that a call of this thread would use were made before this process was forked: a child has none
// of its parent's threads, so the call works alone.
bool lost_threads(const mha_context& context);

// Runs the phases one after the other, the items of each on up to `threads` threads in any order. The caller has set
// the floating-point mode (float_mode.h), once for the call: setting it waits for all instructions under way.
void run_phases(const mha_context& context, int64_t threads, const Phase* phases, int count);

// The same in the calling thread.
void run_serially(const Phase* phases, int count);

}  // namespace mha
