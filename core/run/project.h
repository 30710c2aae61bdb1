// SPDX-License-Identifier: Apache-2.0
// The linear stage: packing biases, and one phase that multiplies several problems side by side.
#pragma once

#include "core/plan/plan.h"
#include "core/run/parallel.h"

namespace mha {

// Copies the bias and fills the last panel with zeros.
void pack_bias(const float* bias, int64_t out_features, float* packed);

// Up to three products that do not depend on each other, as one phase.
struct LinearPhase {
  LinearJob jobs[3];
  int count;
};

// What storing costs where nothing is rounded.
inline void report_exact(int64_t elements, mha_storage_error* error) {
  *error = {};
  error->elements = elements;
}

Phase linear_phase(const LinearPhase& work);

}  // namespace mha
