// SPDX-License-Identifier: Apache-2.0
// The projections' kernels of each target. They have a file of their own so that a program without linears and layers
// does not link them.
#include "simd/dispatch.h"

namespace mha {

#define MHA_TARGET(name, predicate)      \
  namespace name {                       \
  extern const LinearTable linear_table; \
  }
#include "simd/targets.def"
#undef MHA_TARGET

namespace {

// In the order of kTargets of dispatch.cpp.
const LinearTable* const kTables[] = {
#define MHA_TARGET(name, predicate) &name::linear_table,
#include "simd/targets.def"
#undef MHA_TARGET
};

}  // namespace

const LinearKernels& linear_kernels_of(const KernelTable& table, Arithmetic arithmetic, Element panels) {
  const LinearTable* t = kTables[0];
  for (size_t n = 1; n < sizeof(kTables) / sizeof(kTables[0]); ++n) {
    if (target_table(static_cast<int64_t>(n)) == &table) t = kTables[n];
  }
  while (t->kernels[static_cast<int>(arithmetic)][static_cast<int>(panels)] == nullptr) t = t->base;
  return *t->kernels[static_cast<int>(arithmetic)][static_cast<int>(panels)];
}

}  // namespace mha
