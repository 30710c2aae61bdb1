// SPDX-License-Identifier: Apache-2.0
// The cases of `mha verify`: fixed sizes and seeded inputs for linear, attention and the layer, with their double
// reference.
#ifndef MHA_TOOLS_CLI_VERIFY_CASES_H
#define MHA_TOOLS_CLI_VERIFY_CASES_H

#include <mha/mha.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace mha::cli {

// One case, with its inputs held inside the two functions.
struct VerifyCase {
  std::string name;  // the sizes, to find it again
  double bound;      // on the largest difference to `reference`; results are of magnitude 1
  std::function<std::vector<double>()> reference;
  // All results of the call one after the other: output, then weights and log-sum-exp where the case asks for them.
  std::function<std::vector<float>(const mha_context* context)> run;
};

// Makes the cases one at a time, so that only one holds its inputs. quick: about a quarter of them.
std::int64_t verify_case_count(bool quick);
VerifyCase make_verify_case(std::int64_t index, bool quick);

}  // namespace mha::cli

#endif  // MHA_TOOLS_CLI_VERIFY_CASES_H
