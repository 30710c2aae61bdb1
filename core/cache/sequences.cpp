// SPDX-License-Identifier: Apache-2.0
// Caches: where the rows of a sequence are, and all changes of a sequence except appending and loading.
#include <cstring>

#include "core/base/status.h"
#include "core/cache/cache.h"

namespace mha {
namespace {

using ll = long long;

// With the lock held.
void empty_sequence(mha_cache* cache, CacheSequence* s) {
  release_pages(cache, s, 0, s->held_end());
  s->length = s->reserved = s->promised = s->first_kept = 0;
}

// Whether a sequence can be cut to `length`: not among the tokens that a ring has dropped.
bool can_end_at(const mha_cache& cache, const CacheSequence& s, int64_t length) {
  return length <= cache.config.sink_tokens || length >= s.first_kept;
}

// first_kept after such a cut.
int64_t first_kept_after(const mha_cache& cache, const CacheSequence& s, int64_t length) {
  return length > cache.config.sink_tokens ? s.first_kept : 0;
}

}  // namespace

TokenRows cache_rows(const mha_cache& cache, CachePart part, int64_t sequence) {
  const PartLayout& p = cache.parts[part];
  const CacheSequence& s = cache.sequences[sequence];
  char* const* pages = s.pages;
  TokenRows rows = {};
  rows.stride_t = p.row_bytes;
  rows.stride_h = cache.page_size * p.row_bytes;
  rows.element = p.element;
  if (is_code(p.element)) rows.codes = &p.codes;
  if (cache.config.kind == MHA_CACHE_CONTIGUOUS) {
    rows.base = pages[0] != nullptr ? pages[0] + p.offset : nullptr;
  } else {
    rows.pages = pages;
    rows.page_size = cache.page_size, rows.page_shift = page_shift_of(cache.page_size);
    rows.pinned_pages = cache.pinned_pages, rows.ring_pages = cache.ring_pages;
    if (s.reserved > 0) {
      // After a truncation the newest page may be gone, and a ring's others, too; any page of the pool can be read.
      const char* newest = pages[page_entry(cache, (s.reserved - 1) / cache.page_size)];
      rows.spare = newest != nullptr ? newest : pages[0] != nullptr ? pages[0] : cache.pool.base;
    }
    rows.offset = p.offset;
  }
  return rows;
}

int64_t shared_tokens(const mha_cache& cache, int64_t a, int64_t b) {
  if (cache.config.kind != MHA_CACHE_PAGED) return 0;
  const CacheSequence &x = cache.sequences[a], &y = cache.sequences[b];
  const int64_t length = x.length < y.length ? x.length : y.length;
  for (int64_t n = 0; n * cache.page_size < length; ++n) {
    if (x.pages[n] != y.pages[n]) return n * cache.page_size;
  }
  return length;
}

mha_status check_sequence(const mha_cache& cache, const char* name, int64_t sequence, mha_error* error) {
  if (sequence >= 0 && sequence < cache.config.max_sequences) return MHA_OK;
  return fail(error, MHA_ERR_ARGUMENT, "%s is %lld: must be 0 to %lld (max_sequences - 1)", name, ll{sequence},
              ll{cache.config.max_sequences - 1});
}

void take_pages(mha_cache* cache, CacheSequence* s, int64_t begin, int64_t end) {
  for_each_page(*cache, begin / cache->page_size, divide_up(end, cache->page_size), [&](int64_t n) {
    char*& page = s->pages[page_entry(*cache, n)];
    if (page == nullptr) page = take_page(&cache->pool);
  });
}

void release_pages(mha_cache* cache, CacheSequence* s, int64_t length, int64_t end) {
  const int64_t size = cache->page_size, kept_end = divide_up(length, size), kept_begin = s->first_kept / size;
  for_each_page(*cache, kept_end, divide_up(end, size), [&](int64_t n) {
    // The newest page up to `length` that shares the entry of page n. Pinned pages have entries of their own.
    const int64_t older = n - divide_up(n - kept_end + 1, cache->ring_pages) * cache->ring_pages;
    if (older >= cache->pinned_pages && older >= kept_begin) return;
    char*& page = s->pages[page_entry(*cache, n)];
    if (page != nullptr) release_page(&cache->pool, page);
    page = nullptr;
  });
}

int64_t first_kept_at(const mha_cache& cache, int64_t length) {
  const int64_t oldest = divide_up(length, cache.page_size) - cache.ring_pages;
  return oldest > cache.pinned_pages ? oldest * cache.page_size : 0;
}

void copy_page(const mha_cache& cache, const char* from, char* to, int64_t count) {
  for (const PartLayout& part : cache.parts) {
    const struct {
      int64_t offset, row_bytes;
    } stored[] = {
        {part.offset, part.row_bytes}, {part.scales_offset, part.scale_bytes}, {part.zeros_offset, part.zero_bytes}};
    for (const auto& s : stored) {
      for (int64_t h = 0; h < cache.config.num_kv_heads; ++h) {
        const int64_t at = s.offset + h * cache.page_size * s.row_bytes;
        memcpy(to + at, from + at, static_cast<size_t>(count * s.row_bytes));
      }
    }
  }
}

mha_status cache_truncate(mha_cache* cache, int64_t sequence, int64_t length, mha_error* error) {
  const mha_status status = check_sequence(*cache, "sequence", sequence, error);
  if (status != MHA_OK) return status;
  CacheSequence& s = cache->sequences[sequence];
  if (length < 0 || length > s.length) {
    return fail(error, MHA_ERR_ARGUMENT, "length is %lld: sequence %lld has %lld tokens", ll{length}, ll{sequence},
                ll{s.length});
  }
  if (!can_end_at(*cache, s, length)) {
    return fail(error, MHA_ERR_ARGUMENT, "length is %lld: sequence %lld keeps tokens from %lld on", ll{length},
                ll{sequence}, ll{s.first_kept});
  }
  const Locked locked(cache->lock);
  release_pages(cache, &s, length, s.held_end());
  s.first_kept = first_kept_after(*cache, s, length);
  s.length = s.reserved = length;
  s.promised = 0;
  return MHA_OK;
}

mha_status cache_fork(mha_cache* cache, int64_t source, int64_t destination, int64_t length, mha_error* error) {
  mha_status status = check_sequence(*cache, "source", source, error);
  if (status == MHA_OK) status = check_sequence(*cache, "destination", destination, error);
  if (status != MHA_OK) return status;
  const CacheSequence& from = cache->sequences[source];
  CacheSequence& to = cache->sequences[destination];
  if (length == -1) length = from.length;
  if (length < 0 || length > from.length) {
    return fail(error, MHA_ERR_ARGUMENT, "length is %lld: sequence %lld has %lld tokens", ll{length}, ll{source},
                ll{from.length});
  }
  if (!can_end_at(*cache, from, length)) {
    return fail(error, MHA_ERR_ARGUMENT, "length is %lld: sequence %lld keeps tokens from %lld on", ll{length},
                ll{source}, ll{from.first_kept});
  }
  if (to.length != 0 || source == destination) {
    return fail(error, MHA_ERR_ARGUMENT, "destination is %lld, which has %lld tokens%s: must be empty", ll{destination},
                ll{to.length}, source == destination ? " and is the source" : "");
  }
  const bool share = cache->config.kind == MHA_CACHE_PAGED;
  const int64_t pages = divide_up(length, cache->page_size);
  // In a ring that was cut, the entry of a dropped page may hold a newer page.
  const auto kept = [&](int64_t n) { return n < cache->pinned_pages || n >= from.first_kept / cache->page_size; };
  {
    const Locked locked(cache->lock);
    empty_sequence(cache, &to);  // it may hold reserved pages
    to.first_kept = first_kept_after(*cache, from, length);
    to.length = to.reserved = length;
    for_each_page(*cache, 0, pages, [&](int64_t n) {
      const int64_t entry = page_entry(*cache, n);
      if (!kept(n)) return;
      if (share) share_page(&cache->pool, from.pages[entry]);
      to.pages[entry] = share ? from.pages[entry] : take_page(&cache->pool);
    });
  }
  if (share) return MHA_OK;
  for_each_page(*cache, 0, pages, [&](int64_t n) {
    const int64_t entry = page_entry(*cache, n), left = length - n * cache->page_size;
    if (!kept(n)) return;
    copy_page(*cache, from.pages[entry], to.pages[entry], left < cache->page_size ? left : cache->page_size);
  });
  return MHA_OK;
}

mha_status cache_remove(mha_cache* cache, int64_t sequence, mha_error* error) {
  const mha_status status = check_sequence(*cache, "sequence", sequence, error);
  if (status != MHA_OK) return status;
  const Locked locked(cache->lock);
  empty_sequence(cache, &cache->sequences[sequence]);
  return MHA_OK;
}

void cache_reset(mha_cache* cache) {
  const Locked locked(cache->lock);
  for (int64_t s = 0; s < cache->config.max_sequences; ++s) empty_sequence(cache, &cache->sequences[s]);
  empty_pool(&cache->pool);  // the first pages are taken first again
}

size_t cache_used_bytes(const mha_cache& cache) {
  const Locked locked(cache.lock);
  const int64_t used = cache.pool.count - cache.pool.free_count;
  return static_cast<size_t>(used) * static_cast<size_t>(cache.pool.page_bytes);
}

}  // namespace mha
