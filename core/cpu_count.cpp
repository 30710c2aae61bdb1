// SPDX-License-Identifier: Apache-2.0
// CPUs allowed by affinity and cgroup. std::thread::hardware_concurrency and omp_get_num_procs know nothing of quotas,
// and a container that is allowed one CPU of 64 must not start 64 threads.
#include "core/cpu_count.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#if defined(__linux__)
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>
#endif

namespace mha {
namespace {

// Reads the start of a small file; false where there is none.
bool read_text(const char* path, char* text, size_t capacity) {
#if defined(__linux__)
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  const ssize_t got = read(file, text, capacity - 1);
  close(file);
  if (got <= 0) return false;
  text[got] = 0;
  return true;
#else
  (void)path, (void)text, (void)capacity;
  return false;
#endif
}

int64_t affinity_cpus(int64_t most) {
#if defined(__linux__)
  unsigned long mask[1024 / sizeof(unsigned long)] = {};  // 8192 CPUs
  const int got = sched_getaffinity(0, sizeof(mask), reinterpret_cast<cpu_set_t*>(mask));
  if (got != 0) return 1;
  int64_t count = 0;
  for (unsigned long word : mask) count += __builtin_popcountl(word);
  return count < 1 ? 1 : (count < most ? count : most);
#else
  (void)most;
  return 1;
#endif
}

int64_t cgroup_cpus() {
  char text[96];
  if (read_text("/sys/fs/cgroup/cpu.max", text, sizeof(text))) return quota_cpus(text);
  char period[32];
  if (!read_text("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", text, 32)) return 0;  // leaves room for the period
  if (!read_text("/sys/fs/cgroup/cpu/cpu.cfs_period_us", period, sizeof(period))) return 0;
  char* end = text + strcspn(text, "\n");
  *end = ' ';
  strcpy(end + 1, period);
  return quota_cpus(text);
}

}  // namespace

int64_t quota_cpus(const char* cpu_max) {
  char* end = nullptr;
  const long long quota = strtoll(cpu_max, &end, 10);  // "max" gives 0, cgroup v1's -1 means no limit
  if (end == cpu_max || quota <= 0) return 0;
  const long long period = strtoll(end, nullptr, 10);
  return period > 0 ? quota / period + (quota % period != 0 ? 1 : 0) : 0;
}

int64_t allowed_cpus(int64_t most) {
  const int64_t affinity = affinity_cpus(most);
  const int64_t quota = cgroup_cpus();
  return quota > 0 && quota < affinity ? quota : affinity;
}

}  // namespace mha
