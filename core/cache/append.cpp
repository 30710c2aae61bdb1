// SPDX-License-Identifier: Apache-2.0
// Caches: appending, in three steps. Reserving does everything that can fail, for all sequences at once, before
// anything is changed; writing is independent for every token; committing sets the lengths. Also reading, which copies
// the same rows in the other direction.
#include <cstring>

#include "core/base/fields.h"
#include "core/cache/cache.h"

namespace mha {
namespace {

using ll = long long;

void copy_shared_page(mha_cache* cache, CacheSequence* s) {
  char*& page = s->pages[s->length / cache->page_size];
  char* own = take_page(&cache->pool);
  copy_page(*cache, page, own, s->length % cache->page_size);
  release_page(&cache->pool, page);
  page = own;
}

}  // namespace

// Sequences of this batch that will copy the page (`leaving`) will no longer hold it, so they do not count.
int64_t page_to_copy(const mha_cache& cache, const CacheSequence& s) {
  if (cache.config.kind != MHA_CACHE_PAGED || s.length % cache.page_size == 0) return -1;
  const int64_t page = page_number(cache.pool, s.pages[s.length / cache.page_size]);
  return cache.pool.holders[page] - cache.pool.leaving[page] > 1 ? page : -1;
}

// Pages for copies count, too. `leaving` is zeros again on return.
int64_t pages_needed(mha_cache* cache, const CacheBatch& batch) {
  int64_t needed = 0;
  for (int64_t b = 0; b < batch.batch; ++b) {
    const CacheSequence& s = cache->sequences[batch.sequence(b)];
    if (batch.count(b) == 0) continue;
    const int64_t page = page_to_copy(*cache, s);
    if (page >= 0) ++cache->pool.leaving[page], ++needed;
    for_each_page(*cache, s.length / cache->page_size, divide_up(s.length + batch.count(b), cache->page_size),
                  [&](int64_t n) { needed += s.pages[page_entry(*cache, n)] == nullptr ? 1 : 0; });
  }
  if (cache->config.kind != MHA_CACHE_PAGED) return needed;
  for (int64_t b = 0; b < batch.batch; ++b) {
    const CacheSequence& s = cache->sequences[batch.sequence(b)];
    if (s.length == 0) continue;
    cache->pool.leaving[page_number(cache->pool, s.pages[(s.length - 1) / cache->page_size])] = 0;
  }
  return needed;
}

void take_room(mha_cache* cache, CacheSequence* s, int64_t end) {
  // Under the lock: two writers at once would both copy the page, and take one page more than was counted.
  if (page_to_copy(*cache, *s) >= 0) copy_shared_page(cache, s);
  take_pages(cache, s, s->length, end);
}

mha_status check_growth(const mha_cache& cache, const CacheBatch& batch, mha_error* error) {
  for (int64_t b = 0; b < batch.batch; ++b) {
    const int64_t sequence = batch.sequence(b), held = cache.sequences[sequence].length, count = batch.count(b);
    if (cache.config.kind != MHA_CACHE_RING && count > cache.config.capacity - held) {
      return fail(error, MHA_ERR_FULL, "sequence %lld has %lld tokens of %lld (capacity): %lld more do not fit",
                  ll{sequence}, ll{held}, ll{cache.config.capacity}, ll{count});
    }
    MHA_TRY(check_size("a sequence's length", (Size(held) + Size(count)).value(), 0, error));
  }
  return MHA_OK;
}

mha_status check_batch(mha_cache* cache, const CacheBatch& batch, mha_error* error) {
  MHA_TRY(check_sizes({{"batch", batch.batch, 0}, {"length", batch.length, 0}}, error));
  if (batch.offsets != nullptr) {
    MHA_TRY(check_offsets("offsets", batch.offsets, batch.batch, "length", batch.length, error));
  }
  mha_status status = MHA_OK;
  if (batch.sequences == nullptr) {
    if (batch.batch <= cache->config.max_sequences) return MHA_OK;
    return fail(error, MHA_ERR_ARGUMENT, "batch is %lld: there are %lld sequences", ll{batch.batch},
                ll{cache->config.max_sequences});
  }
  int64_t marked = 0;
  for (; marked < batch.batch; ++marked) {
    const int64_t sequence = batch.sequences[marked];
    if (sequence < 0 || sequence >= cache->config.max_sequences) {
      status = fail(error, MHA_ERR_ARGUMENT, "sequences[%lld] is %lld: must be 0 to %lld (max_sequences - 1)",
                    ll{marked}, ll{sequence}, ll{cache->config.max_sequences - 1});
      break;
    }
    if (cache->sequences[sequence].marked) {
      status = fail(error, MHA_ERR_ARGUMENT, "sequences[%lld] is %lld, which is given before: must be distinct",
                    ll{marked}, ll{sequence});
      break;
    }
    cache->sequences[sequence].marked = true;
  }
  for (int64_t b = 0; b < marked; ++b) cache->sequences[batch.sequences[b]].marked = false;
  return status;
}

mha_status cache_reserve(mha_cache* cache, const CacheBatch& batch, mha_error* error) {
  MHA_TRY(check_growth(*cache, batch, error));
  const Locked locked(cache->lock);
  const int64_t needed = pages_needed(cache, batch);
  if (needed > cache->pool.free_count) {
    return fail(error, MHA_ERR_FULL, "%lld pages of %lld tokens are needed: %lld of %lld are free", ll{needed},
                ll{cache->page_size}, ll{cache->pool.free_count}, ll{cache->pool.count});
  }
  for (int64_t b = 0; b < batch.batch; ++b) {
    CacheSequence& s = cache->sequences[batch.sequence(b)];
    if (batch.count(b) == 0) continue;
    s.reserved = s.length + batch.count(b);
    take_room(cache, &s, s.reserved);
  }
  return MHA_OK;
}

namespace {

// Rows of one element type are copied, others converted.
inline void copy_rows(const KernelTable& table, const ConvertArgs& rows) {
  if (rows.src_element != rows.dst_element) return table.rows().convert(&rows);
  const size_t bytes = static_cast<size_t>(rows.columns * bytes_of(rows.src_element));
  for (int64_t r = 0; r < rows.rows; ++r) memcpy(rows.dst + r * rows.dst_stride, rows.src + r * rows.src_stride, bytes);
}

// Cuts tokens [first, first + count) into runs that are in one page each; calls use(first token, count, page).
template <class Use>
void for_each_run(const mha_cache& cache, int64_t first, int64_t count, Use use) {
  for (int64_t token = first; token < first + count;) {
    const int64_t page = token / cache.page_size, left = (page + 1) * cache.page_size - token;
    const int64_t run = least(least(left, kRunTokens), first + count - token);
    use(token, run, page);
    token += run;
  }
}

}  // namespace

// Head by head, keys and values in turn: they are in different pages of memory, so their cache misses overlap.
void cache_write(const mha_cache& cache, int64_t sequence, int64_t first, int64_t count, const PartRows* rows) {
  const CacheSequence& s = cache.sequences[sequence];
  const int64_t kept = first_page_kept(cache, s);
  for_each_run(cache, first, count, [&](int64_t token, int64_t run, int64_t page) {
    if (page >= cache.pinned_pages && page < kept) return;
    char* base = s.pages[page_entry(cache, page)];
    ConvertArgs copies[kCacheParts] = {};
    for (int part = 0; part < kCacheParts; ++part) {
      if (rows[part].data == nullptr) continue;
      const PartLayout& p = cache.parts[part];
      ConvertArgs& copy = copies[part];
      copy.src_stride = rows[part].stride_t, copy.src_element = rows[part].element;
      copy.dst_stride = p.row_bytes, copy.dst_element = p.element;
      copy.rows = run, copy.columns = p.width;
      copy.src = rows[part].data + (token - first) * copy.src_stride;
      copy.dst = base + p.offset + (token - page * cache.page_size) * p.row_bytes;
    }
    for (int64_t h = 0; h < cache.config.num_kv_heads; ++h) {
      for (int part = 0; part < kCacheParts; ++part) {
        if (rows[part].data == nullptr) continue;
        copy_rows(*cache.table, copies[part]);
        copies[part].src += rows[part].stride_h, copies[part].dst += cache.page_size * copies[part].dst_stride;
      }
    }
  });
}

void cache_read(const mha_cache& cache, int64_t sequence, int64_t first, int64_t count, const PartRowsOut* rows) {
  for_each_run(cache, first, count, [&](int64_t token, int64_t run, int64_t page) {
    const char* base = cache.sequences[sequence].pages[page_entry(cache, page)];
    for (int part = 0; part < kCacheParts; ++part) {
      const PartLayout& p = cache.parts[part];
      ConvertArgs copy = {};
      copy.src_stride = p.row_bytes, copy.src_element = p.element;
      copy.dst_stride = rows[part].stride_t, copy.dst_element = rows[part].element;
      copy.rows = run, copy.columns = p.width;
      copy.src = base + p.offset + (token - page * cache.page_size) * p.row_bytes;
      copy.dst = rows[part].data + (token - first) * copy.dst_stride;
      for (int64_t h = 0; h < cache.config.num_kv_heads; ++h) {
        copy_rows(*cache.table, copy);
        copy.src += cache.page_size * p.row_bytes, copy.dst += rows[part].stride_h;
      }
    }
  });
}

void cache_commit(mha_cache* cache, const CacheBatch& batch) {
  for (int64_t b = 0; b < batch.batch; ++b) {
    CacheSequence& s = cache->sequences[batch.sequence(b)];
    const int64_t first_kept = first_kept_at(*cache, s.reserved);
    if (first_kept > s.first_kept) s.first_kept = first_kept;
    s.length = s.reserved;
  }
}

}  // namespace mha
