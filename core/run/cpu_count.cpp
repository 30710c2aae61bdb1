// SPDX-License-Identifier: Apache-2.0
// CPUs allowed by affinity and cgroup. std::thread::hardware_concurrency and omp_get_num_procs know nothing of quotas,
// and a container that is allowed one CPU of 64 must not start 64 threads.
#include "core/run/cpu_count.h"

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

bool read_file(void*, const char* path, char* text, size_t capacity) {
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

int64_t whole_cpus(long long quota, long long period) {
  return quota > 0 && period > 0 ? quota / period + (quota % period != 0 ? 1 : 0) : 0;
}

// The smaller of two limits; 0: no limit.
int64_t least_limit(int64_t a, int64_t b) { return a == 0 || (b != 0 && b < a) ? b : a; }

constexpr size_t kPathBytes = 4096, kNameBytes = 32;

// The quota of the cgroup at `folder`, whose buffer has kNameBytes to spare; 0: none.
int64_t folder_cpus(const FileReader& files, char* folder) {
  char* name = folder + strlen(folder);
  char text[96];
  int64_t cpus = 0;
  strcpy(name, "/cpu.max");
  if (files.read(files.user, folder, text, sizeof(text))) {
    cpus = quota_cpus(text);
  } else {
    strcpy(name, "/cpu.cfs_quota_us");  // -1: no limit
    const long long quota = files.read(files.user, folder, text, sizeof(text)) ? strtoll(text, nullptr, 10) : 0;
    strcpy(name, "/cpu.cfs_period_us");
    if (quota > 0 && files.read(files.user, folder, text, sizeof(text))) {
      cpus = whole_cpus(quota, strtoll(text, nullptr, 10));
    }
  }
  *name = 0;
  return cpus;
}

// The least quota of the cgroup at `path` below `mount` and of all above it. In a container `path` may be the host's,
// and only a part of it is mounted: folders that do not exist have no quota.
int64_t path_cpus(const FileReader& files, const char* mount, const char* path, size_t length) {
  char folder[kPathBytes + kNameBytes];
  const size_t top = strlen(mount);
  if (length == 1 || top + length >= kPathBytes || strncmp(path, "/..", 3) == 0) length = 0;  // ".." is not mounted
  memcpy(folder, mount, top);
  memcpy(folder + top, path, length);
  folder[top + length] = 0;
  for (int64_t least = 0;;) {
    least = least_limit(least, folder_cpus(files, folder));
    char* slash = strrchr(folder + top, '/');
    if (slash == nullptr) return least;
    *slash = 0;
  }
}

// Whether "cpu" is one of v1's controllers, as in "cpu,cpuacct:".
bool has_cpu_controller(const char* controllers) {
  for (;;) {
    const size_t length = strcspn(controllers, ",:");
    if (length == 3 && memcmp(controllers, "cpu", 3) == 0) return true;
    if (controllers[length] != ',') return false;
    controllers += length + 1;
  }
}

}  // namespace

int64_t cgroup_cpus(const FileReader& files) {
  char list[8192];
  if (!files.read(files.user, "/proc/self/cgroup", list, sizeof(list))) strcpy(list, "0::/\n1:cpu:/\n");
  int64_t least = 0;
  // Lines of "number:controllers:path"; v2's has no controllers.
  for (const char* line = list; *line != 0; line += line[0] == '\n' ? 1 : 0) {
    const char* end = line + strcspn(line, "\n");
    const char* controllers = line + strcspn(line, ":\n");
    const char* path = *controllers == ':' ? controllers + 1 + strcspn(controllers + 1, ":\n") : controllers;
    if (*path == ':') {
      ++controllers, ++path;
      const bool is_v2 = *controllers == ':';
      const char* mount = is_v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
      if (is_v2 || has_cpu_controller(controllers)) {
        least = least_limit(least, path_cpus(files, mount, path, static_cast<size_t>(end - path)));
      }
    }
    line = end;
  }
  return least;
}

int64_t quota_cpus(const char* cpu_max) {
  char* end = nullptr;
  const long long quota = strtoll(cpu_max, &end, 10);  // "max" gives 0
  return end == cpu_max ? 0 : whole_cpus(quota, strtoll(end, nullptr, 10));
}

int64_t affinity_cpus(int64_t most, int64_t unknown) {
#if defined(__linux__)
  unsigned long mask[1024 / sizeof(unsigned long)] = {};  // 8192 CPUs
  const int got = sched_getaffinity(0, sizeof(mask), reinterpret_cast<cpu_set_t*>(mask));
  if (got != 0) return unknown;
  int64_t count = 0;
  for (unsigned long word : mask) count += __builtin_popcountl(word);
  return count < 1 ? 1 : (count < most ? count : most);
#else
  return unknown < most ? unknown : most;
#endif
}

int64_t allowed_cpus(int64_t most) { return least_limit(affinity_cpus(most, 1), cgroup_cpus({nullptr, read_file})); }

}  // namespace mha
