// SPDX-License-Identifier: Apache-2.0
// The cases of `mha verify`: fixed sizes and seeded inputs for linear, attention and the layer, with their double
// reference.
#ifndef MHA_TOOLS_CLI_VERIFY_CASES_H
#define MHA_TOOLS_CLI_VERIFY_CASES_H

#include <mha/mha.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace mha::cli {

enum class VerifyKind { kLinear, kAttention, kLayer };
inline constexpr const char* kVerifyKindNames[] = {"linear", "attention", "layer"};

// One call with its inputs. Both functions give all results one after the other: the output, then weights and
// log-sum-exp where the case asks for them.
class VerifyCase {
 public:
  virtual ~VerifyCase() = default;
  VerifyCase(const VerifyCase&) = delete;
  VerifyCase& operator=(const VerifyCase&) = delete;

  virtual std::vector<double> reference() const = 0;
  virtual std::vector<float> run(const Context& context, mha_arithmetic arithmetic) const = 0;

  VerifyKind kind() const { return kind_; }
  // On the largest difference between the two.
  double bound(mha_arithmetic arithmetic) const;
  // Kind and sizes, to find it again.
  std::string name() const;

 protected:
  explicit VerifyCase(VerifyKind kind) : kind_(kind) {}
  virtual std::vector<std::pair<const char*, std::int64_t>> sizes() const = 0;

 private:
  VerifyKind kind_;
};

// Made one at a time, so that only one holds its inputs. quick: a quarter of them.
std::int64_t verify_case_count(bool quick);
std::unique_ptr<VerifyCase> make_verify_case(std::int64_t index, bool quick);

}  // namespace mha::cli

#endif  // MHA_TOOLS_CLI_VERIFY_CASES_H
