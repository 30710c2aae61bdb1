// SPDX-License-Identifier: Apache-2.0
// How many CPUs this process may use.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mha {

// CPUs of the affinity mask, cut to the cgroup's quota (rounded up); 1 to most.
int64_t allowed_cpus(int64_t most);

// CPUs of the affinity mask alone, 1 to most; `unknown` if the system does not tell.
int64_t affinity_cpus(int64_t most, int64_t unknown);

// Reads the start of a file as zero-terminated text; false if there is no such file. The tests read from a table.
struct FileReader {
  void* user;
  bool (*read)(void* user, const char* path, char* text, size_t capacity);
};

// CPUs that the quotas of this process's cgroup and of all above it allow (v2 cpu.max, v1 cpu.cfs_quota_us over
// cpu.cfs_period_us); 0: no limit.
int64_t cgroup_cpus(const FileReader& files);

// CPUs that a text of cgroup v2's cpu.max, "max 100000" or "150000 100000", allows, rounded up; 0: no limit, or not
// understood.
int64_t quota_cpus(const char* cpu_max);

}  // namespace mha
