// SPDX-License-Identifier: Apache-2.0
// A cache in memory of the bench's own, so that it is known where keys and values are stored. The memory has the pages
// that the library would take.
#ifndef MHA_BENCH_CACHE_CASE_H
#define MHA_BENCH_CACHE_CASE_H

#include "bench/case.h"
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

}  // namespace mha::bench

#endif  // MHA_BENCH_CACHE_CASE_H
