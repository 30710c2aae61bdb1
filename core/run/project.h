// SPDX-License-Identifier: Apache-2.0
// The linear stage: one phase that multiplies several problems side by side.
#pragma once

#include "core/plan/plan.h"
#include "core/run/parallel.h"

namespace mha {

// Up to three products that do not depend on each other, as one phase.
struct LinearPhase {
  const LinearJob* jobs[3];
  int count;
};

Phase linear_phase(const LinearPhase& work);

}  // namespace mha
