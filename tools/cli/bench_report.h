// SPDX-License-Identifier: Apache-2.0
// Results of `mha bench`: as a Markdown table, as JSON, and compared with those of an earlier run.
#ifndef MHA_TOOLS_CLI_BENCH_REPORT_H
#define MHA_TOOLS_CLI_BENCH_REPORT_H

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace mha::cli {

// Names the layout of the JSON. A file of another schema is refused.
inline constexpr const char* kBenchSchema = "mha-bench-1";

// A case that was timed. Times are medians over repetitions of the mean time of a call in one.
struct BenchResult {
  std::string name, kind, format, arithmetic;
  std::int64_t threads = 0, repetitions = 0, calls = 0;  // calls in a repetition
  double seconds = 0;
  double spread = 0;  // (greatest - smallest) / median of the repetitions
  double tokens_per_second = 0, gflops = 0;
  double gbytes_per_second = 0;  // 0: reading is not the limit

  // The cases of two runs that are compared are equal in these.
  std::string key() const;
};

// A combination that the library does not have, with its message.
struct BenchUnsupported {
  std::string name, format, arithmetic, message;
};

// The machine and the library.
struct BenchMachine {
  std::string version, target, cpu;
};

struct BenchReport {
  BenchMachine machine;
  std::vector<BenchResult> results;
  std::vector<BenchUnsupported> unsupported;
};

nlohmann::ordered_json to_json(const BenchReport& report);
// Throws Failure that names the file: not JSON, of another schema, a field that is missing or of another type.
BenchReport read_bench_json(const std::string& path);

// One case of both runs. It changed only if the ratio is beyond 1 by more than both spreads and 2 %.
struct BenchChange {
  BenchResult before, after;
  double ratio = 1;  // time after / time before
  const char* verdict = "";
};
struct BenchComparison {
  std::vector<BenchChange> changes;
  std::int64_t only_before = 0, only_after = 0;
  std::vector<std::string> warnings;  // what differs beside the cases
};
BenchComparison compare(const BenchReport& before, const BenchReport& after);
nlohmann::ordered_json to_json(const BenchComparison& comparison);

std::string markdown(const BenchReport& report);
std::string markdown(const BenchComparison& comparison);

}  // namespace mha::cli

#endif  // MHA_TOOLS_CLI_BENCH_REPORT_H
