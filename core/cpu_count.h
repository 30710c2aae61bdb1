// SPDX-License-Identifier: Apache-2.0
// How many CPUs this process may use.
#pragma once

#include <cstdint>

namespace mha {

// CPUs of the affinity mask, cut to the cgroup's quota (v2 cpu.max, v1 cfs_quota_us; rounded up); 1 to most.
int64_t allowed_cpus(int64_t most);

// CPUs a quota of "max 100000" or "150000 100000" (cgroup v2's cpu.max) allows, rounded up; 0: no limit or not
// understood.
int64_t quota_cpus(const char* cpu_max);

}  // namespace mha
