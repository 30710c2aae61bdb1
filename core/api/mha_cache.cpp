// SPDX-License-Identifier: Apache-2.0
// Caches: made and destroyed.
#include "core/cache/cache.h"

#include "core/base/context.h"

extern "C" mha_status mha_cache_memory_bytes(const mha_cache_config* config, size_t* bytes, mha_error* error) {
  using namespace mha;
  if (config == nullptr) return fail(error, MHA_ERR_NULL, "config is NULL");
  if (bytes == nullptr) return fail(error, MHA_ERR_NULL, "bytes is NULL");
  return cache_memory_bytes(*config, bytes, error);
}

extern "C" mha_status mha_cache_create(const mha_context* context, const mha_cache_config* config, mha_cache** cache,
                                       mha_error* error) {
  using namespace mha;
  if (cache == nullptr) return fail(error, MHA_ERR_NULL, "cache is NULL");
  *cache = nullptr;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (config == nullptr) return fail(error, MHA_ERR_NULL, "config is NULL");
  return cache_create(*context, *config, cache, error);
}

extern "C" void mha_cache_destroy(mha_cache* cache) {
  if (cache != nullptr) mha::cache_destroy(cache);
}

extern "C" void mha_cache_get_config(const mha_cache* cache, mha_cache_config* config) {
  if (cache != nullptr && config != nullptr) *config = cache->config;
}
