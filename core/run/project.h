// SPDX-License-Identifier: Apache-2.0
// The linear stage: packing weights, and one phase that multiplies several problems side by side.
#pragma once

#include "core/call/checks.h"
#include "core/plan/plan.h"
#include "core/run/parallel.h"

namespace mha {

// Floats of the packed weights [ceil(out / 16)][in][16], and of the bias padded to whole panels.
inline Size packed_weight_floats(int64_t in_features, int64_t out_features) {
  return Size(divide_up(out_features, kPanel)) * Size(in_features) * Size(kPanel);
}
inline Size packed_bias_floats(int64_t out_features) { return Size(divide_up(out_features, kPanel)) * Size(kPanel); }

// Copies the bias and fills the last panel with zeros.
void pack_bias(const float* bias, int64_t out_features, float* packed);

struct LinearJob {
  const KernelTable* table;
  LinearProblem problem;
  LinearPlan plan;
};

// Up to three products that do not depend on each other, as one phase.
struct LinearPhase {
  LinearJob jobs[3];
  int count;
};

// Weights [out, in] as a caller gives them: rows stride_t apart, in floats.
mha_status check_weight(const char* name, const mha_view& weight, int64_t out_features, int64_t in_features,
                        ConstTensor* out, mha_error* error);

// What storing costs where nothing is rounded.
inline void report_exact(int64_t elements, mha_storage_error* error) {
  *error = {};
  error->elements = elements;
}

// A public call's arguments, checked, with every default filled in.
mha_status linear_problem(const mha_linear& linear, const mha_linear_args& args, Check check, LinearProblem* problem,
                          mha_error* error);

LinearJob make_linear_job(const KernelTable& table, int64_t threads, const LinearProblem& problem);
Phase linear_phase(const LinearPhase& work);

}  // namespace mha

struct mha_linear {
  int64_t in_features, out_features;
  const float* panels;
  const float* bias;  // padded, or null
  const void* blob;   // header and packed weights
  size_t blob_bytes;
  mha_allocator allocator;
  size_t bytes;  // of the allocation that begins with this struct
};
