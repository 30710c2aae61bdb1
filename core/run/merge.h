// SPDX-License-Identifier: Apache-2.0
// Merging parts of attention: finished results by their log-sum-exp, and partial results of chunks.
#pragma once

#include "core/call/merge.h"
#include "core/run/parallel.h"

namespace mha {

struct MergeJob {
  mha_merge_args args;
  int64_t block_rows;  // of a work item
};
Phase merge_phase(const MergeJob& job);

struct MergePartialsJob {
  AttentionKernels kernels;
  const RowKernels* rows;
  PartialsProblem problem;
};
Phase merge_partials_phase(const MergePartialsJob& job);

}  // namespace mha
