// SPDX-License-Identifier: Apache-2.0
// Caches: sequences copied out, saved and loaded.
#include "core/cache/blob.h"
#include "core/cache/cache.h"
#include "core/call/cache_calls.h"
#include "simd/float_mode.h"

extern "C" mha_status mha_cache_export(const mha_cache* cache, const mha_export_args* args, mha_error* error) {
  using namespace mha;
  if (cache == nullptr) return fail(error, MHA_ERR_NULL, "cache is NULL");
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  PartRowsOut rows[kCacheParts] = {};
  MHA_TRY(validate_export(*cache, *args, rows, error));
  const FloatMode mode;
  cache_read(*cache, args->sequence, args->begin, args->count, rows);
  return MHA_OK;
}

extern "C" mha_status mha_cache_save_bytes(const mha_cache* cache, int64_t sequence, size_t* bytes, mha_error* error) {
  using namespace mha;
  if (cache == nullptr) return fail(error, MHA_ERR_NULL, "cache is NULL");
  if (bytes == nullptr) return fail(error, MHA_ERR_NULL, "bytes is NULL");
  return cache_save_bytes(*cache, sequence, bytes, error);
}

extern "C" mha_status mha_cache_save(const mha_cache* cache, int64_t sequence, void* blob, size_t bytes,
                                     mha_error* error) {
  using namespace mha;
  if (cache == nullptr) return fail(error, MHA_ERR_NULL, "cache is NULL");
  return cache_save(*cache, sequence, blob, bytes, error);
}

extern "C" mha_status mha_cache_load(mha_cache* cache, int64_t sequence, const void* blob, size_t bytes,
                                     mha_error* error) {
  using namespace mha;
  if (cache == nullptr) return fail(error, MHA_ERR_NULL, "cache is NULL");
  return cache_load(cache, sequence, blob, bytes, error);
}
