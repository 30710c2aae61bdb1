// SPDX-License-Identifier: Apache-2.0
// The kinds of cache and page sizes that attention over caches is tested with.
#ifndef MHA_TESTS_SUPPORT_CACHE_LAYOUTS_H
#define MHA_TESTS_SUPPORT_CACHE_LAYOUTS_H

#include <string>

#include "tests/support/caches.h"
#include "tests/support/ragged.h"

namespace mha::test {

/// Kinds and page sizes that a test goes through. A ring's capacity holds everything.
struct CacheLayout {
  mha_cache_kind kind;
  int64_t page_size;

  std::string name() const {
    static const char* const kNames[] = {"contiguous", "ring", "paged "};
    return kNames[kind] + (kind == MHA_CACHE_PAGED ? std::to_string(page_size) : std::string());
  }
};
inline constexpr CacheLayout kCacheLayouts[] = {{MHA_CACHE_CONTIGUOUS, 0}, {MHA_CACHE_RING, 0},   {MHA_CACHE_PAGED, 1},
                                                {MHA_CACHE_PAGED, 16},     {MHA_CACHE_PAGED, 24}, {MHA_CACHE_PAGED, 64},
                                                {MHA_CACHE_PAGED, 300}};

inline mha_cache_config cache_config(const CacheLayout& layout, const AttentionShape& s, int64_t sequences,
                                     int64_t longest) {
  mha_cache_config config = {};
  config.kind = layout.kind;
  config.num_kv_heads = s.Hkv, config.head_dim = s.D, config.value_head_dim = s.Dv;
  config.max_sequences = sequences;
  config.page_size = layout.page_size;
  config.capacity = longest > 0 ? longest : 1;
  if (layout.kind == MHA_CACHE_PAGED) config.capacity = sequences * (config.capacity + layout.page_size);
  return config;
}

/// Appends rows [length, Hkv, D] and [length, Hkv, Dv] to one sequence.
inline void append(const mha_context* context, mha_cache* cache, int64_t sequence, int64_t length, const float* key,
                   const float* value) {
  mha_append_args args = {};
  args.batch = 1, args.sequences = &sequence, args.length = length;
  args.key = view(key), args.value = view(value);
  mha_error error = {};
  require_ok(mha_cache_append(context, cache, &args, &error), error);
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_CACHE_LAYOUTS_H
