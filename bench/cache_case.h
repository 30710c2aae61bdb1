// SPDX-License-Identifier: Apache-2.0
// A cache in memory of the bench's own, so that it is known where keys and values lie; in such pages as the library
// would take.
#ifndef MHA_BENCH_CACHE_CASE_H
#define MHA_BENCH_CACHE_CASE_H

#include "bench/case.h"
#include "bench/support.h"

namespace mha::bench {

inline const char* name_of(mha_cache_kind kind) {
  return kind == MHA_CACHE_CONTIGUOUS ? "contiguous" : kind == MHA_CACHE_RING ? "ring" : "paged";
}

class Cache {
 public:
  Cache(const mha_context* context, mha_cache_config config) {
    mha_error error = {};
    require(mha_cache_memory_bytes(&config, &config.memory_bytes, &error), error);
    memory_ =
        Floats::as_library(context, static_cast<int64_t>((config.memory_bytes + sizeof(float) - 1) / sizeof(float)));
    memory_.fill(0);  // so that its pages are there
    config.memory = memory_.data();
    mha_cache* cache = nullptr;
    require(mha_cache_create(context, &config, &cache, &error), error);
    handle_.reset(cache);
  }
  mha_cache* get() const { return handle_.get(); }
  /// The first bytes of the memory: where tokens are, when all of it is in use.
  Region region(size_t bytes) const { return {memory_.data(), bytes}; }

 private:
  struct DestroyCache {
    void operator()(mha_cache* cache) const { mha_cache_destroy(cache); }
  };
  Floats memory_;
  std::unique_ptr<mha_cache, DestroyCache> handle_;
};

}  // namespace mha::bench

#endif  // MHA_BENCH_CACHE_CASE_H
