// SPDX-License-Identifier: Apache-2.0
// What `mha_decoder time` measures.
#ifndef MHA_TOOLS_DEMO_DECODE_TIMING_H
#define MHA_TOOLS_DEMO_DECODE_TIMING_H

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "tools/demo_decode/checks.h"

namespace mha::demo {

/// {"target", "threads", "tokens": {name: n}, "seconds": {name: [one per run]}} with the names "prefill" (the long
/// prompt in one call), "decode_1" (the longest of the prompts continued) and "decode_8" (all of them, together).
nlohmann::json time(const std::string& model, const Expected& expected, const std::string& target, int64_t threads,
                    int64_t repeat);

}  // namespace mha::demo

#endif  // MHA_TOOLS_DEMO_DECODE_TIMING_H
