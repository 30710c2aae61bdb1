// SPDX-License-Identifier: Apache-2.0
// What the metadata of a GGUF file says about attention.
#ifndef MHA_TOOLS_CLI_GGUF_METADATA_H
#define MHA_TOOLS_CLI_GGUF_METADATA_H

#include <cstdint>
#include <string>

#include "tools/io/gguf.h"

namespace mha::cli {

struct Heads {
  std::int64_t query = 0, key_value = 0;  // 0: not said
};

// `<architecture>.attention.head_count` and `head_count_kv`, one number or one for each block; the block is that of a prefix
// "blk.N.". Throws Failure for numbers that cannot be.
Heads gguf_heads(const io::Gguf& file, const std::string& prefix);

// `<architecture>.attention.scale`, 0 if there is none. Throws Failure where the model caps its scores, limits queries, keys
// and values, or has ALiBi.
float gguf_scale(const io::Gguf& file);

}  // namespace mha::cli

#endif  // MHA_TOOLS_CLI_GGUF_METADATA_H
