// SPDX-License-Identifier: Apache-2.0
// Caches: their sequences cut, forked, emptied and measured, and room for tokens to come.
#include "core/cache/cache.h"

namespace {

// A sequence that is there.
bool has(const mha_cache* cache, int64_t sequence) {
  return cache != nullptr && sequence >= 0 && sequence < cache->config.max_sequences;
}

}  // namespace

extern "C" mha_status mha_cache_truncate(mha_cache* cache, int64_t sequence, int64_t length, mha_error* error) {
  using namespace mha;
  if (cache == nullptr) return fail(error, MHA_ERR_NULL, "cache is NULL");
  return cache_truncate(cache, sequence, length, error);
}

extern "C" mha_status mha_cache_fork(mha_cache* cache, int64_t source, int64_t destination, int64_t length,
                                     mha_error* error) {
  using namespace mha;
  if (cache == nullptr) return fail(error, MHA_ERR_NULL, "cache is NULL");
  return cache_fork(cache, source, destination, length, error);
}

extern "C" mha_status mha_cache_remove(mha_cache* cache, int64_t sequence, mha_error* error) {
  using namespace mha;
  if (cache == nullptr) return fail(error, MHA_ERR_NULL, "cache is NULL");
  return cache_remove(cache, sequence, error);
}

extern "C" void mha_cache_reset(mha_cache* cache) {
  if (cache != nullptr) mha::cache_reset(cache);
}

extern "C" int64_t mha_cache_length(const mha_cache* cache, int64_t sequence) {
  return has(cache, sequence) ? mha::cache_length(*cache, sequence) : -1;
}

extern "C" int64_t mha_cache_first_kept(const mha_cache* cache, int64_t sequence) {
  return has(cache, sequence) ? mha::cache_first_kept(*cache, sequence) : -1;
}

extern "C" size_t mha_cache_used_bytes(const mha_cache* cache) {
  return cache != nullptr ? mha::cache_used_bytes(*cache) : 0;
}

extern "C" mha_status mha_cache_reserve(const mha_reserve_args* args, mha_error* error) {
  using namespace mha;
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  return cache_promise(*args, error);
}

extern "C" int64_t mha_cache_room(const mha_cache* cache, int64_t sequence) {
  return has(cache, sequence) ? mha::cache_room(*cache, sequence) : -1;
}
