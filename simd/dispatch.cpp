// SPDX-License-Identifier: Apache-2.0
// The list of targets.def as an array. Targets do not register themselves: a linker drops objects of a static library
// that nothing references.
#include "simd/dispatch.h"

namespace mha {

#define MHA_TARGET(name, predicate) \
  namespace name {                  \
  extern const KernelTable table;   \
  }
#include "simd/targets.def"
#undef MHA_TARGET

namespace {

struct Target {
  const KernelTable* table;
  bool (*supported)(const CpuFeatures& cpu);
};

const Target kTargets[] = {
#define MHA_TARGET(name, predicate) {&name::table, [](const CpuFeatures& cpu) -> bool { return predicate; }},
#include "simd/targets.def"
#undef MHA_TARGET
};

}  // namespace

int64_t target_count() { return static_cast<int64_t>(sizeof(kTargets) / sizeof(kTargets[0])); }

const KernelTable* target_table(int64_t index) { return kTargets[index].table; }

bool target_supported(int64_t index, const CpuFeatures& cpu) { return kTargets[index].supported(cpu); }

}  // namespace mha
