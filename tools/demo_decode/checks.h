// SPDX-License-Identifier: Apache-2.0
// What `mha_decoder check` finds out: tokens and logits against torch's, and the bits of every cache, schedule, thread
// count and target against each other.
#ifndef MHA_TOOLS_DEMO_DECODE_CHECKS_H
#define MHA_TOOLS_DEMO_DECODE_CHECKS_H

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "tools/demo_decode/generate.h"

namespace mha::demo {

/// Prompts and what torch makes of them.
struct Expected {
  std::vector<Tokens> prompts;
  std::vector<Generated> generated;
  Tokens long_prompt;

  static Expected read(const std::string& path);
  int64_t count() const { return static_cast<int64_t>(generated.front().tokens.size()); }
  /// Tokens of the longest sequence and of all together, when everything is generated.
  int64_t longest() const;
  int64_t total() const;
};

Context make_context(const std::string& target, int64_t threads);

/// {"target", "threads", "checks": [{"what", "ok", "detail"}]}
nlohmann::json check(const std::string& model, const Expected& expected, const std::string& target, int64_t threads);

}  // namespace mha::demo

#endif  // MHA_TOOLS_DEMO_DECODE_CHECKS_H
