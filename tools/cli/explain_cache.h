// SPDX-License-Identifier: Apache-2.0
// The caches and pages that `mha explain` makes: explain looks at the lengths of sequences and at what they share.
#ifndef MHA_TOOLS_CLI_EXPLAIN_CACHE_H
#define MHA_TOOLS_CLI_EXPLAIN_CACHE_H

#include <mha/mha.hpp>

#include <cstdint>
#include <vector>

#include "tools/cli/explain_options.h"

namespace mha::cli {

// The sizes that a cache takes from the call or the layer.
struct CacheSizes {
  std::int64_t num_kv_heads, head_dim, value_head_dim;
  std::int64_t held;      // tokens that each sequence has before the call, unless --cache-lengths says so
  std::int64_t appended;  // the most that the call appends to one
};

// A cache whose sequences have as many tokens of zeros as `sizes` or --cache-lengths say.
Cache make_cache(const Context& context, const CallOptions& options, const CallData& data, std::int64_t batch,
                 const CacheSizes& sizes);

mha_cache_use parse_cache_use(const CacheOptions& options);

// A table in which each item has pages of its own, except for those that hold --shared-tokens.
struct Pages {
  std::vector<std::int32_t> table;
  mha_pages pages{};
};
Pages make_pages(const CacheOptions& options, std::int64_t batch, std::int64_t key_len);

// The quant of a view of `format` [.., tokens, heads, width], where its codes have scales.
mha_quant quant_of(const Format& format, std::int64_t tokens, std::int64_t heads, std::int64_t width);

}  // namespace mha::cli

#endif  // MHA_TOOLS_CLI_EXPLAIN_CACHE_H
