// SPDX-License-Identifier: Apache-2.0
// Packing weights and biases, and what it costs.
#pragma once

#include "core/call/weight_source.h"

namespace mha {

// Copies the bias and fills the last panel with zeros.
void pack_bias(const float* bias, int64_t out_features, float* packed);

// Weights on their way into panels.
struct Packing {
  const KernelTable* table;
  const LinearKernels* kernels;  // of the arithmetic and of form.element
  Arithmetic arithmetic;
  WeightSource source;
  int64_t in_features, out_features;
  WeightForm form;
  bool rounds;  // to codes, as this says
  RowStorage rounding;
};

// Bytes of scratch for the calls below; 0: none.
Size packing_bytes(const Packing& packing);

struct PackedParts {
  char *panels, *scales, *zeros;
};
void pack_weight(const Packing& packing, const PackedParts& to, char* scratch);

// The error of storing the weights so.
mha_storage_error measure_weight(const Packing& packing, char* scratch);

}  // namespace mha
