// SPDX-License-Identifier: Apache-2.0
// Caches: appending, in three steps. Reserving decides everything that can fail, for all sequences at once, before
// anything is changed; writing is independent for every token; committing sets the lengths.
#include <cstring>

#include "core/cache.h"
#include "core/parallel.h"
#include "core/plan.h"
#include "core/status.h"
#include "core/validate.h"

namespace mha {
namespace {

using ll = long long;

// Tokens written head by head: few enough that a token's rows are still in a core's caches for the next head. Measured: a
// long append then takes 1.04 times a copy of its bytes, against 1.4 for all tokens of a head at once.
constexpr int64_t kRunTokens = 64;

mha_status check_offsets(const CacheBatch& batch, mha_error* error) {
  const int64_t* offsets = batch.offsets;
  if (offsets[0] != 0) return fail(error, MHA_ERR_ARGUMENT, "offsets[0] is %lld: must be 0", ll{offsets[0]});
  for (int64_t b = 0; b < batch.batch; ++b) {
    if (offsets[b + 1] < offsets[b]) {
      return fail(error, MHA_ERR_ARGUMENT, "offsets[%lld] is %lld, less than offsets[%lld] (%lld)", ll{b + 1},
                  ll{offsets[b + 1]}, ll{b}, ll{offsets[b]});
    }
  }
  if (offsets[batch.batch] != batch.length) {
    return fail(error, MHA_ERR_ARGUMENT, "offsets[%lld] is %lld: must end at length (%lld)", ll{batch.batch},
                ll{offsets[batch.batch]}, ll{batch.length});
  }
  return MHA_OK;
}

// The page that appending to the sequence would write to although others hold it too, beyond those of this batch that
// were found to leave it. -1: none.
int64_t page_to_copy(const mha_cache& cache, const CacheSequence& s) {
  if (cache.config.kind != MHA_CACHE_PAGED || s.length % cache.page_size == 0) return -1;
  const int64_t page = page_number(cache.pool, s.pages[s.length / cache.page_size]);
  return cache.pool.holders[page] - cache.pool.leaving[page] > 1 ? page : -1;
}

// Pages that the batch needs, those copied included. With the lock held; `leaving` is zeros again afterwards.
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

void copy_shared_page(mha_cache* cache, CacheSequence* s) {
  float*& page = s->pages[s->length / cache->page_size];
  float* own = take_page(&cache->pool);
  copy_page(*cache, page, own, s->length % cache->page_size);
  release_page(&cache->pool, page);
  page = own;
}

mha_status check_lengths(const mha_cache& cache, const CacheBatch& batch, mha_error* error) {
  for (int64_t b = 0; b < batch.batch; ++b) {
    const int64_t sequence = batch.sequence(b), held = cache.sequences[sequence].length, count = batch.count(b);
    if (cache.config.kind == MHA_CACHE_CONTIGUOUS && count > cache.config.capacity - held) {
      return fail(error, MHA_ERR_FULL, "sequence %lld has %lld tokens of %lld (capacity): %lld more do not fit",
                  ll{sequence}, ll{held}, ll{cache.config.capacity}, ll{count});
    }
    const mha_status status = check_size("a sequence's length", (Size(held) + Size(count)).value(), 0, error);
    if (status != MHA_OK) return status;
  }
  return MHA_OK;
}

}  // namespace

mha_status check_batch(mha_cache* cache, const CacheBatch& batch, mha_error* error) {
  mha_status status = check_size("batch", batch.batch, 0, error);
  if (status == MHA_OK) status = check_size("length", batch.length, 0, error);
  if (status == MHA_OK && batch.offsets != nullptr) status = check_offsets(batch, error);
  if (status != MHA_OK) return status;
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
  const mha_status status = check_lengths(*cache, batch, error);
  if (status != MHA_OK) return status;
  const Locked locked(cache->lock);
  const int64_t needed = pages_needed(cache, batch);
  if (needed > cache->pool.free_count) {
    return fail(error, MHA_ERR_FULL, "%lld pages of %lld tokens are needed: %lld of %lld are free", ll{needed},
                ll{cache->page_size}, ll{cache->pool.free_count}, ll{cache->pool.count});
  }
  for (int64_t b = 0; b < batch.batch; ++b) {
    CacheSequence& s = cache->sequences[batch.sequence(b)];
    if (batch.count(b) == 0) continue;
    // Under the lock: two writers at once would both copy the page, which takes one more than there may be.
    if (page_to_copy(*cache, s) >= 0) copy_shared_page(cache, &s);
    s.reserved = s.length + batch.count(b);
    take_pages(cache, &s, s.length, s.reserved);
  }
  return MHA_OK;
}

void cache_write(const mha_cache& cache, int64_t sequence, int64_t first, int64_t count, const CacheRows& rows) {
  const mha_cache_config& c = cache.config;
  const CacheSequence& s = cache.sequences[sequence];
  const size_t key_bytes = static_cast<size_t>(c.head_dim) * sizeof(float);
  const size_t value_bytes = static_cast<size_t>(c.value_head_dim) * sizeof(float);
  const int64_t kept = divide_up(s.reserved, cache.page_size) - cache.ring_pages;  // the first page of a ring's turn
  for (int64_t done = 0; done < count;) {
    const int64_t page = (first + done) / cache.page_size, slot = (first + done) % cache.page_size;
    const int64_t run = least(least(cache.page_size - slot, kRunTokens), count - done);
    if (page < cache.pinned_pages || page >= kept) {
      float* base = s.pages[page_entry(cache, page)];
      for (int64_t h = 0; h < c.num_kv_heads; ++h) {
        float* key = base + (h * cache.page_size + slot) * c.head_dim;
        float* value = base + cache.page_values + (h * cache.page_size + slot) * c.value_head_dim;
        const float* from_key = rows.key + done * rows.key_stride_t + h * rows.key_stride_h;
        const float* from_value = rows.value + done * rows.value_stride_t + h * rows.value_stride_h;
        for (int64_t t = 0; t < run; ++t) memcpy(key + t * c.head_dim, from_key + t * rows.key_stride_t, key_bytes);
        for (int64_t t = 0; t < run; ++t)
          memcpy(value + t * c.value_head_dim, from_value + t * rows.value_stride_t, value_bytes);
      }
    }
    done += run;
  }
}

void cache_commit(mha_cache* cache, const CacheBatch& batch) {
  for (int64_t b = 0; b < batch.batch; ++b) {
    CacheSequence& s = cache->sequences[batch.sequence(b)];
    const int64_t first_kept = first_kept_at(*cache, s.reserved);
    if (first_kept > s.first_kept) s.first_kept = first_kept;
    s.length = s.reserved;
  }
}

void cache_rollback(mha_cache* cache, const CacheBatch& batch) {
  const Locked locked(cache->lock);
  for (int64_t b = 0; b < batch.batch; ++b) {
    CacheSequence& s = cache->sequences[batch.sequence(b)];
    release_pages(cache, &s, s.length, s.reserved);
    s.reserved = s.length;
  }
}

namespace {

// The item of the batch that token `t` of all is of, and its first token. Items without tokens are passed over.
int64_t item_at(const CacheBatch& batch, int64_t t, int64_t* begin) {
  if (batch.offsets == nullptr) {
    *begin = t / batch.length * batch.length;
    return t / batch.length;
  }
  int64_t low = 0, high = batch.batch;  // offsets[low] <= t < offsets[high]
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (batch.offsets[middle] <= t ? low : high) = middle;
  }
  *begin = batch.offsets[low];
  return low;
}

void run_append(const void* data, int64_t item, int64_t) {
  const AppendJob& job = *static_cast<const AppendJob*>(data);
  const bool packed = job.batch.offsets != nullptr;
  const int64_t end = least((item + 1) * job.item_tokens, job.tokens);
  for (int64_t t = item * job.item_tokens; t < end;) {
    int64_t begin = 0;
    const int64_t b = item_at(job.batch, t, &begin), sequence = job.batch.sequence(b);
    const int64_t count = least(end, begin + job.batch.count(b)) - t;
    const int64_t row = packed ? t : t - begin, outer = packed ? 0 : b;
    const CacheRows rows = {
        job.key.data + outer * job.key.stride_b + row * job.key.stride_t,       job.key.stride_t,   job.key.stride_h,
        job.value.data + outer * job.value.stride_b + row * job.value.stride_t, job.value.stride_t, job.value.stride_h};
    cache_write(*job.cache, sequence, job.cache->sequences[sequence].length + t - begin, count, rows);
    t += count;
  }
}

// Until keys are normed and rotated on the way in, that is refused.
mha_status check_positions(const mha_append_args& a, mha_error* error) {
  if (a.rope == nullptr && a.positions == nullptr && a.key_norm_weight == nullptr && a.key_norm_epsilon == 0.0f) {
    return MHA_OK;
  }
  return fail(error, MHA_ERR_UNSUPPORTED, "rope, positions, key_norm_weight and key_norm_epsilon must be 0 or NULL");
}

}  // namespace

int64_t plan_append(int64_t tokens, int64_t threads) {
  return threads > 1 ? divide_up(tokens, threads * kItemsPerThread) : tokens;
}

Phase append_phase(const AppendJob& job) { return {run_append, &job, divide_up(job.tokens, job.item_tokens)}; }

}  // namespace mha

extern "C" mha_status mha_cache_append(const mha_context* context, mha_cache* cache, const mha_append_args* args,
                                       mha_error* error) {
  using namespace mha;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (cache == nullptr) return fail(error, MHA_ERR_NULL, "cache is NULL");
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  const mha_append_args& a = *args;
  const mha_cache_config& c = cache->config;
  AppendJob job = {};
  job.cache = cache;
  job.batch = {a.batch, a.sequences, a.length, a.offsets};
  mha_status status = check_batch(cache, job.batch, error);
  if (status == MHA_OK) status = check_positions(a, error);
  const int64_t items = a.offsets != nullptr ? 1 : a.batch;
  if (status == MHA_OK) {
    status = check_view("key", a.key, {items, a.length, c.num_kv_heads, c.head_dim}, &job.key, error);
  }
  if (status == MHA_OK) {
    status = check_view("value", a.value, {items, a.length, c.num_kv_heads, c.value_head_dim}, &job.value, error);
  }
  if (status != MHA_OK) return status;
  const Size tokens = Size(items) * Size(a.length);
  if (!tokens.ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "batch %lld x length %lld exceeds 2^63", ll{items}, ll{a.length});
  }
  job.tokens = tokens.value();
  if (job.tokens == 0) return MHA_OK;
  status = cache_reserve(cache, job.batch, error);
  if (status != MHA_OK) return status;
  const double bytes = static_cast<double>(job.tokens) * static_cast<double>(c.num_kv_heads) *
                       static_cast<double>(c.head_dim + c.value_head_dim) * (2 * sizeof(float));
  const int64_t threads = useful_threads(context->num_threads, work_of(0, bytes));
  job.item_tokens = plan_append(job.tokens, threads);
  const Phase phase = append_phase(job);
  run_phases(*context, threads, &phase, 1);
  cache_commit(cache, job.batch);
  return MHA_OK;
}
