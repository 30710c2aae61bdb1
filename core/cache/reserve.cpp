// SPDX-License-Identifier: Apache-2.0
// Caches: room for tokens to come, in one cache or in those of all layers of a model.
#include "core/base/fields.h"
#include "core/cache/cache.h"

namespace mha {
namespace {

using ll = long long;

mha_status check_caches(const mha_reserve_args& a, mha_error* error) {
  MHA_TRY(check_reserved("args", a.reserved, error));
  MHA_TRY(check_sizes({{"num_caches", a.num_caches, 0}, {"batch", a.batch, 0}}, error));
  if (a.num_caches > 0 && a.caches == nullptr) return fail(error, MHA_ERR_NULL, "caches is NULL");
  if (a.batch > 0 && a.tokens == nullptr) return fail(error, MHA_ERR_NULL, "tokens is NULL");
  for (int64_t n = 0; n < a.num_caches; ++n) {
    if (a.caches[n] == nullptr) return fail(error, MHA_ERR_NULL, "caches[%lld] is NULL", ll{n});
    for (int64_t before = 0; before < n; ++before) {
      if (a.caches[before] != a.caches[n]) continue;
      return fail(error, MHA_ERR_ARGUMENT, "caches[%lld] is caches[%lld]: must be distinct", ll{n}, ll{before});
    }
  }
  for (int64_t b = 0; b < a.batch; ++b) {
    const int64_t tokens = a.tokens[b];
    if (tokens < 0) return fail(error, MHA_ERR_ARGUMENT, "tokens[%lld] is %lld: must be >= 0", ll{b}, ll{tokens});
    if (tokens > kMaxSize) {
      return fail(error, MHA_ERR_OVERFLOW, "tokens[%lld] is %lld: must be at most 2^62", ll{b}, ll{tokens});
    }
  }
  return MHA_OK;
}

// The cache with the next address after `last`; null: none. All who lock several caches lock them in this order, so
// that no two wait for each other.
mha_cache* next_by_address(const mha_reserve_args& a, const mha_cache* last) {
  mha_cache* next = nullptr;
  for (int64_t n = 0; n < a.num_caches; ++n) {
    mha_cache* cache = a.caches[n];
    const uintptr_t address = reinterpret_cast<uintptr_t>(cache);
    if (address <= reinterpret_cast<uintptr_t>(last)) continue;
    if (next == nullptr || address < reinterpret_cast<uintptr_t>(next)) next = cache;
  }
  return next;
}

// All caches of the list, locked.
class AllLocked {
 public:
  explicit AllLocked(const mha_reserve_args& args) : args_(args) {
    for (mha_cache* c = next_by_address(args_, nullptr); c != nullptr; c = next_by_address(args_, c)) c->lock.lock();
  }
  ~AllLocked() {
    for (int64_t n = 0; n < args_.num_caches; ++n) args_.caches[n]->lock.unlock();
  }
  AllLocked(const AllLocked&) = delete;
  AllLocked& operator=(const AllLocked&) = delete;

 private:
  const mha_reserve_args& args_;
};

// Only paged caches hold pages for tokens to come: other kinds have a place for each token already.
bool has_pages_to_hold(const mha_cache& cache) { return cache.config.kind == MHA_CACHE_PAGED; }

void hold_pages(mha_cache* cache, const CacheBatch& batch) {
  for (int64_t b = 0; b < batch.batch; ++b) {
    CacheSequence& s = cache->sequences[batch.sequence(b)];
    if (batch.count(b) == 0) continue;
    const int64_t end = s.length + batch.count(b);
    take_room(cache, &s, end);
    s.promised = most(s.promised, end);
  }
}

// Tokens that a sequence of a paged cache can still take. With the lock held.
int64_t paged_room(const mha_cache& cache, const CacheSequence& s) {
  const int64_t size = cache.page_size, held = round_up(s.held_end(), size);
  int64_t free = cache.pool.free_count;
  if (page_to_copy(cache, s) >= 0 && free-- == 0) return 0;  // a shared page takes a free page for its copy
  return least(held + free * size, cache.config.capacity) - s.length;
}

}  // namespace

mha_status cache_promise(const mha_reserve_args& a, mha_error* error) {
  MHA_TRY(check_caches(a, error));
  CacheBatch batch = {};
  batch.batch = a.batch, batch.sequences = a.sequences, batch.counts = a.tokens;
  for (int64_t n = 0; n < a.num_caches; ++n) {
    MHA_TRY(check_batch(a.caches[n], batch, error));
    MHA_TRY(check_growth(*a.caches[n], batch, error));
  }
  const AllLocked locked(a);
  for (int64_t n = 0; n < a.num_caches; ++n) {
    mha_cache* cache = a.caches[n];
    if (!has_pages_to_hold(*cache)) continue;
    const int64_t needed = pages_needed(cache, batch), free = cache->pool.free_count;
    if (needed <= free) continue;
    return fail(error, MHA_ERR_FULL, "caches[%lld]: %lld pages of %lld tokens are needed: %lld of %lld are free", ll{n},
                ll{needed}, ll{cache->page_size}, ll{free}, ll{cache->pool.count});
  }
  for (int64_t n = 0; n < a.num_caches; ++n) {
    if (has_pages_to_hold(*a.caches[n])) hold_pages(a.caches[n], batch);
  }
  return MHA_OK;
}

int64_t cache_room(const mha_cache& cache, int64_t sequence) {
  const CacheSequence& s = cache.sequences[sequence];
  switch (cache.config.kind) {
    case MHA_CACHE_CONTIGUOUS:
      return cache.config.capacity - s.length;
    case MHA_CACHE_RING:
      return kMaxSize - s.length;
    default:
      const Locked locked(cache.lock);
      return paged_room(cache, s);
  }
}

}  // namespace mha
