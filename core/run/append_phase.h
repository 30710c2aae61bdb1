// SPDX-License-Identifier: Apache-2.0
// Storing the reserved tokens of a batch in a cache as one phase. A work item is a range of the tokens of all
// sequences.
#pragma once

#include "core/call/cache_calls.h"
#include "core/kernels/kernel_table.h"
#include "core/run/parallel.h"

namespace mha {

struct AppendJob {
  const KernelTable* table;
  AppendProblem problem;
  int64_t item_tokens;  // of a work item: plan_append
  // Where rows are changed, then rounded to codes: floats [Hkv, D or Dv] of each thread, so many apart.
  float* floats;
  int64_t floats_step;
};
// Runs a work item; `job` is an AppendJob.
void run_append(const void* job, int64_t item, int64_t slot);
Phase append_phase(const AppendJob& job);

}  // namespace mha
