// SPDX-License-Identifier: Apache-2.0
// The list of targets.def as an array. Targets do not register themselves: a linker drops objects of a static library
// that nothing references.
#include "simd/dispatch.h"

namespace mha {

#define MHA_TARGET(name, predicate, chosen) \
  namespace name {                          \
  extern const KernelTable table;           \
  }
#include "simd/targets.def"
#undef MHA_TARGET

namespace {

struct Target {
  const KernelTable* table;
  bool (*supported)(const CpuFeatures& cpu);
  bool (*chosen)(const CpuFeatures& cpu);
};

const Target kTargets[] = {
#define MHA_TARGET(name, predicate, chosen)                                \
  {&name::table, [](const CpuFeatures& cpu) -> bool { return predicate; }, \
   []([[maybe_unused]] const CpuFeatures& cpu) -> bool { return chosen; }},
#include "simd/targets.def"
#undef MHA_TARGET
};

}  // namespace

int64_t target_count() { return static_cast<int64_t>(sizeof(kTargets) / sizeof(kTargets[0])); }

const KernelTable* target_table(int64_t index) { return kTargets[index].table; }

bool target_supported(int64_t index, const CpuFeatures& cpu) { return kTargets[index].supported(cpu); }

bool target_chosen(int64_t index, const CpuFeatures& cpu) {
  return target_supported(index, cpu) && kTargets[index].chosen(cpu);
}

}  // namespace mha
