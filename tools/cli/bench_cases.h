// SPDX-License-Identifier: Apache-2.0
// The cases of `mha bench`: what is timed, with how many operations and bytes it counts.
#ifndef MHA_TOOLS_CLI_BENCH_CASES_H
#define MHA_TOOLS_CLI_BENCH_CASES_H

#include <mha/mha.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tools/cli/formats.h"

namespace mha::cli {

enum class BenchKind { kPrefill, kDecode, kLinear, kLayer };
inline constexpr const char* kBenchKindNames[] = {"prefill", "decode", "linear", "layer"};

// One line of the table. `length` is T of prefill and layer, the number of keys of decode, M of linear.
struct BenchSpec {
  BenchKind kind = BenchKind::kPrefill;
  std::int64_t batch = 1, num_heads = 1, num_kv_heads = 1, head_dim = 1, length = 1;
  std::int64_t in_features = 1, out_features = 1;  // linear
  Format format;                                   // of keys and values, or of weights
  mha_arithmetic arithmetic = MHA_ARITHMETIC_F32;
  std::int64_t threads = 1;

  // "decode B 1 H 32/8 D 64 Tk 4096": kind and sizes, the same in every version.
  std::string name() const;
};

class BenchCase {
 public:
  virtual ~BenchCase() = default;
  BenchCase(const BenchCase&) = delete;
  BenchCase& operator=(const BenchCase&) = delete;

  virtual void run() = 0;  // one call

  // Of one call. Operations: 2 for each multiply-add of visible pairs. Bytes: what is read once where reading is the limit (keys
  // and values of one query, weights at up to 8 rows); 0 elsewhere.
  double tokens = 0, operations = 0, bytes = 0;

 protected:
  BenchCase() = default;
};

// With inputs and a workspace made. Throws Unsupported (stored_rows.h) with the library's message for a combination that it
// does not have.
std::unique_ptr<BenchCase> make_bench_case(const BenchSpec& spec, const Context& context);

}  // namespace mha::cli

#endif  // MHA_TOOLS_CLI_BENCH_CASES_H
