// SPDX-License-Identifier: Apache-2.0
// Running the phases of a call: serially, in one OpenMP region, or by the host's parallel-for.
#pragma once

#include "core/context.h"

namespace mha {

// Work items 0 .. count-1, independent of each other. `slot` in [0, threads) says whose scratch to use.
struct Phase {
  void (*run)(const void* job, int64_t item, int64_t slot);
  const void* job;
  int64_t count;
};

constexpr int kMaxPhases = 7;

// Whether a context without a host's parallel-for can have more than the calling thread.
bool has_openmp();

// Runs the phases one after the other, the items of each on up to `threads` threads in any order. The caller has set
// the floating-point mode (float_mode.h): it is set once a call, as it waits for whatever is under way.
void run_phases(const mha_context& context, int64_t threads, const Phase* phases, int count);

}  // namespace mha
