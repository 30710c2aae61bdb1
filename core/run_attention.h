// SPDX-License-Identifier: Apache-2.0
// The attention stage: phases of work items over (item of the batch, key/value head) x query block x key chunk.
#pragma once

#include "core/parallel.h"
#include "core/plan.h"

namespace mha {

struct AttentionJob {
  const KernelTable* table;
  AttentionProblem problem;
  AttentionPlan plan;
  char* workspace;        // plan.bytes, aligned to 64
  float* given_partials;  // where every chunk's partial result is wanted, and nothing else; null: in the workspace

  const SequencePlan* sequences() const {
    return reinterpret_cast<const SequencePlan*>(workspace + plan.sequences_offset);
  }
  float* partials() const {
    return given_partials != nullptr ? given_partials : reinterpret_cast<float*>(workspace + plan.partials_offset);
  }
};

// The phases that compute all results, at most kAttentionPhases; `job` must stay until they have run.
constexpr int kAttentionPhases = 3;
int attention_phases(const AttentionJob& job, Phase* phases);

// Runs a planned call on its own, on the caller's workspace or one for the time of the call.
mha_status run_attention(const mha_context& context, const mha_attention_args& args, AttentionJob* job,
                         mha_error* error);

}  // namespace mha
