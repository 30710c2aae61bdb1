// SPDX-License-Identifier: Apache-2.0
// The plan of the layer's forward: its projections, the workspace that they share with attention, and both in words.
#pragma once

#include "core/base/context.h"
#include "core/call/layer.h"
#include "core/call/validate.h"
#include "core/plan/explain.h"
#include "core/plan/plan.h"

namespace mha {

struct ForwardPlan {
  int64_t threads;
  // Workspace, in bytes from its start: projected q, k, v, the heads' outputs side by side, and attention's own.
  int64_t projected_offset[kProjections];
  int64_t attention_offset;
  LinearJob linears[kProjections];        // of those that are projected
  int64_t linear_offset, linear_scratch;  // unless all is F32: scratch, and its floats for each thread
  int64_t bytes;
};

struct Forward {
  const mha_layer* layer;
  ForwardViews views;
  AttentionJob attention;
  mha_cache* cache;  // the cache that grows, or null
  ForwardPlan plan;

  // The plans are not cleared: plan_forward writes them, and clearing them first costs too much in a small call.
  Forward() : layer(nullptr), views{}, cache(nullptr) {
    attention.problem = {};
    attention.given_partials = nullptr;
    plan.threads = 0;
  }

  // Keys and values are projected unless they are in a cache already.
  bool projects(int projection) const {
    const AttentionProblem& p = attention.problem;
    return projection == kQuery || projection == kOutput || p.cache == nullptr || p.appends;
  }
};

// Whether a plan is for a call, or for all calls of at most its sizes.
enum class PlanFor { kCall, kBound };

mha_status plan_forward(const mha_context& context, PlanFor what, Forward* f, mha_error* error);

// The cost of the call in multiply-adds: the sum over its stages, each bound by computing or by reading.
double work_of(const Forward& f);

// What a projection writes, or the output projection reads: [B, T, heads * dim] dense in the workspace.
Tensor projected(const Forward& f, int projection, char* workspace);

void explain_projections(const Forward& f, Text* out);

}  // namespace mha
