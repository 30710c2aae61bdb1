// SPDX-License-Identifier: Apache-2.0
// How many threads a context takes by default: affinity, and cgroup quotas from the texts of the kernel's files.
#include <sched.h>

#include <map>

#include "core/run/cpu_count.h"
#include "tests/support/layers.h"

using namespace mha::test;

namespace {

using Files = std::map<std::string, std::string>;

bool read_text(void* user, const char* path, char* text, size_t capacity) {
  const Files& files = *static_cast<const Files*>(user);
  const auto found = files.find(path);
  if (found == files.end() || found->second.empty()) return false;
  const std::string start = found->second.substr(0, capacity - 1);
  std::copy(start.begin(), start.end(), text);
  text[start.size()] = 0;
  return true;
}

int64_t cpus_of(Files files) { return mha::cgroup_cpus({&files, read_text}); }

const std::string kList = "/proc/self/cgroup", kTop = "/sys/fs/cgroup";

/// Files of a v1 cgroup's quota.
void set_v1(Files& files, const std::string& folder, const char* quota, const char* period) {
  files[folder + "/cpu.cfs_quota_us"] = quota;
  files[folder + "/cpu.cfs_period_us"] = period;
}

}  // namespace

TEST_CASE("cpu: cgroup quotas round up to whole CPUs", "[cpu][threads]") {
  struct Quota {
    const char* text;
    int64_t cpus;
  };
  // cgroup v2's cpu.max, or v1's quota and period; 0: no limit.
  for (const Quota& q :
       {Quota{"max 100000\n", 0}, Quota{"100000 100000\n", 1}, Quota{"150000 100000\n", 2}, Quota{"200000 100000", 2},
        Quota{"1000 100000\n", 1}, Quota{"50000 50000\n", 1}, Quota{"-1 100000", 0}, Quota{"0 100000", 0},
        Quota{"100000 0", 0}, Quota{"100000", 0}, Quota{"", 0}, Quota{"garbage", 0}}) {
    INFO("\"" << q.text << "\"");
    CHECK(mha::quota_cpus(q.text) == q.cpus);
  }
}

TEST_CASE("cpu: cgroup v2 quotas, the least of the process's group and those above", "[cpu][threads]") {
  CHECK(cpus_of({}) == 0);
  CHECK(cpus_of({{kList, "0::/\n"}}) == 0);
  CHECK(cpus_of({{kList, "0::/\n"}, {kTop + "/cpu.max", "max 100000\n"}}) == 0);
  CHECK(cpus_of({{kList, "0::/\n"}, {kTop + "/cpu.max", "250000 100000\n"}}) == 3);
  CHECK(cpus_of({{kTop + "/cpu.max", "250000 100000\n"}}) == 3);  // no /proc

  const std::string slice = kTop + "/system.slice", service = slice + "/engine.service";
  Files files = {{kList, "0::/system.slice/engine.service\n"}};
  files[service + "/cpu.max"] = "200000 100000\n";
  CHECK(cpus_of(files) == 2);
  files[slice + "/cpu.max"] = "400000 100000\n";
  CHECK(cpus_of(files) == 2);
  files[slice + "/cpu.max"] = "50000 100000\n";
  CHECK(cpus_of(files) == 1);
  files[slice + "/cpu.max"] = "max 100000\n";
  CHECK(cpus_of(files) == 2);
  files[service + "/cpu.max"] = "max 100000\n";
  CHECK(cpus_of(files) == 0);
  files[kTop + "/cpu.max"] = "300000 100000\n";
  CHECK(cpus_of(files) == 3);
  // A sibling's quota, or one whose name only begins alike, is not ours.
  files[kTop + "/cpu.max"] = "max 100000\n";
  files[slice + "/engine/cpu.max"] = files[slice + "/other.service/cpu.max"] = "100000 100000\n";
  CHECK(cpus_of(files) == 0);
}

TEST_CASE("cpu: cgroup v1 quotas, alone and beside v2", "[cpu][threads]") {
  const std::string cpu = kTop + "/cpu";
  Files files = {{kList, "4:memory:/a\n3:cpuset:/b\n2:cpu,cpuacct:/docker/0123\n1:name=systemd:/c\n0::/d\n"}};
  CHECK(cpus_of(files) == 0);
  set_v1(files, cpu + "/docker/0123", "-1\n", "100000\n");
  CHECK(cpus_of(files) == 0);
  set_v1(files, cpu + "/docker/0123", "150000\n", "100000\n");
  CHECK(cpus_of(files) == 2);
  set_v1(files, cpu + "/docker", "100000\n", "100000\n");
  CHECK(cpus_of(files) == 1);
  set_v1(files, cpu + "/docker", "-1\n", "100000\n");
  // In a container only its own group is mounted, at the top, while the path is the host's.
  Files inside = {{kList, files[kList]}};
  set_v1(inside, cpu, "350000\n", "100000\n");
  CHECK(cpus_of(inside) == 4);
  // Hybrid: the other hierarchy may have the smaller one.
  files[kTop + "/d/cpu.max"] = "100000 100000\n";
  CHECK(cpus_of(files) == 1);
  // Other controllers with cpu in their name, or another group's path, do not count.
  for (const char* list :
       {"1:cpuset:/x\n", "1:cpuacct:/x\n", "1:cpuset,cpuacct:/x\n", "1:name=cpu:/x\n", "1:cpu:/y\n"}) {
    Files others = {{kList, list}};
    set_v1(others, cpu + "/x", "100000\n", "100000\n");
    INFO(list);
    CHECK(cpus_of(others) == 0);
  }
  for (const char* list : {"1:cpu:/x\n", "1:cpu:/x", "1:cpuacct,cpu:/x\n", "\n1:cpuset:/\n2:cpu:/x/y/z\n"}) {
    Files ours = {{kList, list}};
    set_v1(ours, cpu + "/x", "100000\n", "100000\n");
    INFO(list);
    CHECK(cpus_of(ours) == 1);
  }
}

TEST_CASE("cpu: strange cgroup files", "[cpu][threads]") {
  for (const std::string& list :
       std::vector<std::string>{"garbage", ":", "::", ":::", "\n\n\n", "0:", "0::", "0::/../../up\n",
                                "0::/gone (deleted)\n", "0::/" + std::string(5000, 'x') + "\n"}) {
    INFO(list.substr(0, 40));
    Files files = {{kList, list}};
    files[kTop + "/../../up/cpu.max"] = "100000 100000\n";
    CHECK(cpus_of(files) == 0);
    files[kTop + "/cpu.max"] = "200000 100000\n";
    const bool has_path = list.find("::") != std::string::npos;
    CHECK(cpus_of(files) == (has_path ? 2 : 0));
  }
  // Longer than what is read of it: the lines before the cut still count.
  std::string list = "0::/x\n";
  for (int n = 1; n < 3000; ++n) list += std::to_string(n) + ":memory:/y\n";
  CHECK(cpus_of({{kList, list}, {kTop + "/x/cpu.max", "100000 100000\n"}}) == 1);
  Files half = {{kList, "1:cpu:/x\n"}, {kTop + "/cpu/x/cpu.cfs_quota_us", "100000\n"}};
  CHECK(cpus_of(half) == 0);
  set_v1(half, kTop + "/cpu/x", "100000\n", "0\n");
  CHECK(cpus_of(half) == 0);
}

TEST_CASE("threads: the default count is the CPUs that affinity allows, at most", "[threads]") {
  cpu_set_t before;
  REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0);
  const ContextPtr all = make_context(mha_context_options{});
  CHECK(mha_context_num_threads(all.get()) >= 1);
  CHECK(mha_context_num_threads(all.get()) <= CPU_COUNT(&before));
  CHECK(mha_context_num_threads(all.get()) == mha::allowed_cpus(1024));

  int first = 0;
  while (!CPU_ISSET(first, &before)) ++first;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
  const ContextPtr pinned = make_context(mha_context_options{});
  sched_setaffinity(0, sizeof before, &before);
  CHECK(mha_context_num_threads(pinned.get()) == 1);
}
