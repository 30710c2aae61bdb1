// SPDX-License-Identifier: Apache-2.0
// The projections' kernels of each target. They have a file of their own so that a program without linears and layers
// does not link them.
#include "simd/dispatch.h"

namespace mha {

#define MHA_TARGET(name, predicate)          \
  namespace name {                           \
  extern const LinearKernels linear_kernels; \
  }
#include "simd/targets.def"
#undef MHA_TARGET

namespace {

// In the order of kTargets of dispatch.cpp.
const LinearKernels* const kKernels[] = {
#define MHA_TARGET(name, predicate) &name::linear_kernels,
#include "simd/targets.def"
#undef MHA_TARGET
};

}  // namespace

const LinearKernels& linear_kernels_of(const KernelTable& table) {
  int64_t index = 0;
  while (target_table(index) != &table) ++index;
  return *kKernels[index];
}

}  // namespace mha
