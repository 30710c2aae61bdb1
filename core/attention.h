// SPDX-License-Identifier: Apache-2.0
// The attention stage: phases over (batch, key/value head) x query block x key chunk.
#pragma once

#include "core/parallel.h"
#include "core/plan.h"

namespace mha {

struct AttentionJob {
  const KernelTable* table;
  AttentionProblem problem;
  AttentionPlan plan;
  char* workspace;  // plan.bytes, aligned to 64
};

int64_t threads_for(const mha_context& context, const AttentionProblem& problem);

// The phases that compute output, log-sum-exp and weights per head (returns how many, at most 2), and the one that
// computes the mean of the weights over heads from what those left in the workspace (count 0 if not wanted).
int attention_phases(const AttentionJob& job, Phase* phases);
Phase weights_phase(const AttentionJob& job);

}  // namespace mha
