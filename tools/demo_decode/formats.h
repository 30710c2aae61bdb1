// SPDX-License-Identifier: Apache-2.0
// What `mha_decoder formats` finds out: how often a model with a cache of another format chooses the token that it chooses
// with floats, and that every schedule and target gives such a cache the same bits.
#ifndef MHA_TOOLS_DEMO_DECODE_FORMATS_H
#define MHA_TOOLS_DEMO_DECODE_FORMATS_H

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "tools/demo_decode/checks.h"

namespace mha::demo {

std::vector<std::string> format_names();

/// {"target", "formats": [{"name", "bytes" (of a token and key/value head), "same", "tokens", "rms", "same_bits"}]}: `same`
/// of `tokens` choices are those of floats, while the tokens that floats chose are fed; `rms` of the logits' difference.
nlohmann::json compare_formats(const std::string& model, const Expected& expected,
                               const std::vector<std::string>& names, const std::string& target, int64_t threads);

}  // namespace mha::demo

#endif  // MHA_TOOLS_DEMO_DECODE_FORMATS_H
