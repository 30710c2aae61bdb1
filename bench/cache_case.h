// SPDX-License-Identifier: Apache-2.0
// A cache in memory of the bench's own, so that it is known where keys and values are stored. The memory has the pages
// that the library would take.
#ifndef MHA_BENCH_CACHE_CASE_H
#define MHA_BENCH_CACHE_CASE_H

#include "bench/case.h"
#include "bench/elements.h"
#include "bench/support.h"

namespace mha::bench {

inline const char* name_of(mha_cache_kind kind) {
  return kind == MHA_CACHE_CONTIGUOUS ? "contiguous" : kind == MHA_CACHE_RING ? "ring" : "paged";
}

class CacheInMemory {
 public:
  CacheInMemory(const Context& context, mha_cache_config config) {
    config.memory_bytes = require(Cache::memory_bytes(config));
    memory_ =
        Floats::as_library(context, static_cast<int64_t>((config.memory_bytes + sizeof(float) - 1) / sizeof(float)));
    memory_.fill(0);  // so that the kernel provides its pages now
    config.memory = memory_.data();
    cache_ = require(Cache::create(context, config));
  }
  Cache* operator->() { return &cache_; }
  /// The first bytes of the memory: where tokens are, when all of it is in use.
  Region region(size_t bytes) const { return {memory_.data(), bytes}; }

 private:
  Floats memory_;
  Cache cache_;
};

/// Tokens [tokens, num_kv_heads, head_dim] as they are given to a cache, and the floats that it makes of them.
struct CachedTokens {
  CachedTokens(const Context& context, mha_dtype dtype, int64_t tokens, int64_t num_kv_heads, int64_t head_dim,
               uint64_t seed)
      : wide(tokens * num_kv_heads * head_dim, kUnitVariance, seed),
        given(context, is_code(dtype) ? MHA_F32 : dtype, wide) {
    mha_cache_config config = {};
    config.num_kv_heads = num_kv_heads, config.head_dim = head_dim, config.capacity = tokens;
    config.key = config.value = storage_of(dtype);
    Cache cache = require(Cache::create(context, config));
    mha_append_args append = {};
    append.batch = 1, append.length = tokens, append.key = append.value = given.view();
    require(cache.append(context, append));
    mha_export_args args = {};
    args.count = tokens, args.key = mut_view(wide.data());
    Floats other(tokens * num_kv_heads * head_dim, kUnitVariance, seed);  // results may not overlap
    args.value = mut_view(other.data());
    require(cache.export_to(args));
  }
  Floats wide;
  Elements given;
};

}  // namespace mha::bench

#endif  // MHA_BENCH_CACHE_CASE_H
