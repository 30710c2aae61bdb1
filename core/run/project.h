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
  const LinearJob* jobs[3];
  int count;
};

// Packs weights [rows, columns] to panels of this element type.
void pack_weight(const LinearKernels& kernels, const ConstTensor& weight, int64_t rows, int64_t columns, int64_t depth,
                 Element element, char* panels);

// The error of storing [rows, columns], rows stride_t apart, as elements of type `kept`.
mha_storage_error measure_storage(const KernelTable& table, const ConstTensor& given, int64_t rows, int64_t columns,
                                  Element kept);

Phase linear_phase(const LinearPhase& work);

}  // namespace mha
