// SPDX-License-Identifier: Apache-2.0
// The projections' kernels of each target. They have a file of their own so that a program without linears and layers
// does not link them.
#include "simd/dispatch.h"

namespace mha {

#define MHA_TARGET(name, predicate, chosen) \
  namespace name {                          \
  extern const LinearTable linear_table;    \
  }
#include "simd/targets.def"
#undef MHA_TARGET

namespace {

// In the order of kTargets of dispatch.cpp.
const LinearTable* const kTables[] = {
#define MHA_TARGET(name, predicate, chosen) &name::linear_table,
#include "simd/targets.def"
#undef MHA_TARGET
};

}  // namespace

const LinearKernels& linear_kernels_of(const KernelTable& table, Arithmetic arithmetic, Element panels) {
  constexpr int64_t kCount = sizeof(kTables) / sizeof(kTables[0]);
  const LinearTable* t = kTables[kCount - 1];
  for (int64_t n = 0; n < kCount; ++n) {
    if (target_table(n) == &table) t = kTables[n];
  }
  while (t->kernels[static_cast<int>(arithmetic)][static_cast<int>(panels)] == nullptr) t = t->base;
  return *t->kernels[static_cast<int>(arithmetic)][static_cast<int>(panels)];
}

}  // namespace mha
