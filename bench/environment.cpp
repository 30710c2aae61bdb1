// SPDX-License-Identifier: Apache-2.0
// See bench/environment.h. What Linux does not tell is left out.
#include "bench/environment.h"

#include <benchmark/benchmark.h>

#include <cstdlib>
#include <fstream>

#include "bench_flags.h"
#include "bench_revision.h"
#include "core/mha.h"

namespace mha::bench {
namespace {

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("model name", 0) == 0 && line.find(": ") != std::string::npos)
      return line.substr(line.find(": ") + 2);
  return "";
}

/// "L1d 48K, L2 2048K, ...": the caches of the first CPU that hold data.
std::string caches() {
  std::string text;
  for (int n = 0;; ++n) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(n) + "/";
    const std::string level = first_line(folder + "level"), type = first_line(folder + "type");
    if (level.empty()) return text;
    if (type == "Instruction") continue;
    text += (text.empty() ? "L" : ", L") + level + (type == "Data" ? "d " : " ") + first_line(folder + "size");
  }
}

void add(const char* key, const std::string& value) {
  if (!value.empty()) benchmark::AddCustomContext(key, value);
}

}  // namespace

void describe_environment(const std::string& target, int threads) {
  add("mha_version", mha_version());
  add("git_hash", MHA_BENCH_REVISION);
  add("compiler", MHA_BENCH_COMPILER);
  add("build_type", MHA_BENCH_BUILD_TYPE);
  add("flags", MHA_BENCH_FLAGS);
  add("target", target);
  add("threads", std::to_string(threads));
  add("cpu_model", cpu_model());
  add("cache_sizes", caches());
  add("huge_pages", first_line("/sys/kernel/mm/transparent_hugepage/enabled"));
  for (const char* name : {"MHA_TARGET", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_PROC_BIND", "GOMP_SPINCOUNT"})
    if (const char* value = std::getenv(name)) add(name, value);
}

}  // namespace mha::bench
