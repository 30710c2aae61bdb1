// SPDX-License-Identifier: Apache-2.0
// Caches: appending, in three steps. Reserving decides everything that can fail, for all sequences at once, before
// anything is changed; writing is independent for every token; committing sets the lengths.
#include <cstring>

#include "core/base/status.h"
#include "core/cache/cache.h"
#include "core/call/checks.h"
#include "core/plan/plan.h"
#include "core/run/norm_rope.h"
#include "core/run/parallel.h"
#include "simd/float_mode.h"

namespace mha {
namespace {

using ll = long long;

void copy_shared_page(mha_cache* cache, CacheSequence* s) {
  float*& page = s->pages[s->length / cache->page_size];
  float* own = take_page(&cache->pool);
  copy_page(*cache, page, own, s->length % cache->page_size);
  release_page(&cache->pool, page);
  page = own;
}

}  // namespace

// Holders of this batch that were found to leave the page do not count.
int64_t page_to_copy(const mha_cache& cache, const CacheSequence& s) {
  if (cache.config.kind != MHA_CACHE_PAGED || s.length % cache.page_size == 0) return -1;
  const int64_t page = page_number(cache.pool, s.pages[s.length / cache.page_size]);
  return cache.pool.holders[page] - cache.pool.leaving[page] > 1 ? page : -1;
}

// Those copied included; `leaving` is zeros again afterwards.
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
  // Under the lock: two writers at once would both copy the page, which takes one more than there may be.
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

// The first page of a ring's turn at the end of the reservation.
int64_t first_page_kept(const mha_cache& cache, const CacheSequence& s) {
  return divide_up(s.reserved, cache.page_size) - cache.ring_pages;
}

}  // namespace

void cache_write(const mha_cache& cache, int64_t sequence, int64_t first, int64_t count, const CacheRows& rows) {
  const mha_cache_config& c = cache.config;
  const CacheSequence& s = cache.sequences[sequence];
  const size_t key_bytes = static_cast<size_t>(c.head_dim) * sizeof(float);
  const size_t value_bytes = static_cast<size_t>(c.value_head_dim) * sizeof(float);
  const int64_t kept = first_page_kept(cache, s);
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
    release_pages(cache, &s, most(s.length, s.promised), s.reserved);
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

// Norms and rotates stored keys where they lie. `positions` of the tokens, or null: their numbers.
void prepare_keys(const AppendJob& job, TokenPreparer* prepare, int64_t sequence, int64_t first, int64_t count,
                  const int64_t* positions) {
  const mha_cache& cache = *job.cache;
  const CacheSequence& s = cache.sequences[sequence];
  for (int64_t t = first; t < first + count; ++t) {
    const int64_t page = t / cache.page_size;
    if (page >= cache.pinned_pages && page < first_page_kept(cache, s)) continue;
    float* key = s.pages[page_entry(cache, page)] + t % cache.page_size * cache.config.head_dim;
    const int64_t stride = cache.page_size * cache.config.head_dim;
    prepare->run(positions != nullptr ? positions[t - first] : t, key, stride, key, stride);
  }
}

// Work item `item`; prepare null: keys are stored as they are.
void append_range(const AppendJob& job, int64_t item, TokenPreparer* prepare) {
  const bool packed = job.batch.offsets != nullptr;
  const int64_t end = least((item + 1) * job.item_tokens, job.tokens);
  for (int64_t t = item * job.item_tokens; t < end;) {
    int64_t begin = 0;
    const int64_t b = item_at(job.batch, t, &begin), sequence = job.batch.sequence(b);
    const int64_t left = least(end, begin + job.batch.count(b)) - t;
    const int64_t count =
        prepare != nullptr ? least(left, kRunTokens) : left;  // so that keys are prepared while at hand
    const int64_t row = packed ? t : t - begin, outer = packed ? 0 : b;
    const CacheRows rows = {
        job.key.data + outer * job.key.stride_b + row * job.key.stride_t,       job.key.stride_t,   job.key.stride_h,
        job.value.data + outer * job.value.stride_b + row * job.value.stride_t, job.value.stride_t, job.value.stride_h};
    const int64_t first = job.cache->sequences[sequence].length + t - begin;
    cache_write(*job.cache, sequence, first, count, rows);
    if (prepare != nullptr) {
      prepare_keys(job, prepare, sequence, first, count, job.positions != nullptr ? job.positions + t : nullptr);
    }
    t += count;
  }
}

void run_append(const void* data, int64_t item, int64_t) {
  const AppendJob& job = *static_cast<const AppendJob*>(data);
  if (!job.prepares) return append_range(job, item, nullptr);
  const mha_cache_config& c = job.cache->config;
  TokenPreparer prepare(*job.table, job.rope, job.epsilon, job.weight, c.num_kv_heads, c.head_dim);
  append_range(job, item, &prepare);
}

// Norm and rotation of the keys on the way in; the sequences must have been checked.
mha_status check_key_preparation(const mha_append_args& a, AppendJob* job, mha_error* error) {
  MHA_TRY(validate_rope(a.rope, job->cache->config.head_dim, &job->rope, error));
  if (a.key_norm != nullptr) {
    MHA_TRY(check_norm("key_norm", *a.key_norm, error));
    job->epsilon = a.key_norm->epsilon, job->weight = a.key_norm->weight;
  }
  if (a.rope == nullptr && a.positions != nullptr) {
    return fail(error, MHA_ERR_ARGUMENT, "positions is given, but there is no rope, which alone looks at it");
  }
  job->positions = a.positions;
  job->prepares = a.key_norm != nullptr || job->rope.dims > 0;
  for (int64_t b = 0, token = 0; b < a.batch && job->rope.dims > 0; ++b) {
    const int64_t count = job->batch.count(b), first = job->cache->sequences[job->batch.sequence(b)].length;
    for (int64_t t = 0; t < count && a.positions != nullptr; ++t, ++token) {
      MHA_TRY(check_position(job->rope, "positions", token, a.positions[token], error));
    }
    if (count > 0 && a.positions == nullptr) {
      MHA_TRY(check_position(job->rope, "the last token's number in its sequence", -1, first + (count - 1), error));
    }
  }
  return MHA_OK;
}

mha_status check_append(const mha_append_args& a, AppendJob* job, mha_error* error) {
  const mha_cache_config& c = job->cache->config;
  MHA_TRY(check_key_preparation(a, job, error));
  const int64_t items = a.offsets != nullptr ? 1 : a.batch;
  const Dimensions key = {items, a.length, c.num_kv_heads, c.head_dim};
  const Dimensions value = {items, a.length, c.num_kv_heads, c.value_head_dim};
  MHA_TRY(check_input("key", a.key, key, Check::kAll, &job->key, error));
  MHA_TRY(check_input("value", a.value, value, Check::kAll, &job->value, error));
  const Size tokens = Size(items) * Size(a.length);
  if (!tokens.ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "batch %lld x length %lld exceeds 2^63", ll{items}, ll{a.length});
  }
  job->tokens = tokens.value();
  return MHA_OK;
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
  mha_context lent;
  MHA_TRY(lend(*context, a.resources, &lent, error));
  MHA_TRY(check_reserved("args", a.reserved, error));
  AppendJob job = {};
  job.table = context->table;
  job.cache = cache;
  job.batch = {a.batch, a.sequences, a.length, a.offsets, nullptr};
  MHA_TRY(check_batch(cache, job.batch, error));
  MHA_TRY(check_append(a, &job, error));
  if (job.tokens == 0) return MHA_OK;
  MHA_TRY(cache_reserve(cache, job.batch, error));
  const mha_cache_config& c = cache->config;
  const double bytes = static_cast<double>(job.tokens) * static_cast<double>(c.num_kv_heads) *
                       static_cast<double>(c.head_dim + c.value_head_dim) * (2 * sizeof(float));
  const int64_t threads = useful_threads(lent.num_threads, work_of(0, bytes));
  job.item_tokens = plan_append(job.tokens, threads);
  if (threads <= 1 && !job.prepares) {
    run_append(&job, 0, 0);  // plain copies need no floating-point mode: one token takes 0.34 us, as a phase 0.40
  } else {
    const Phase phase = append_phase(job);
    const FloatMode mode;
    run_phases(lent, threads, &phase, 1);
  }
  cache_commit(cache, job.batch);
  return MHA_OK;
}

extern "C" mha_status mha_cache_append_workspace_bytes(const mha_context* context, const mha_cache* cache,
                                                       const mha_append_args* args, size_t* bytes, mha_error* error) {
  using namespace mha;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (cache == nullptr) return fail(error, MHA_ERR_NULL, "cache is NULL");
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  if (bytes == nullptr) return fail(error, MHA_ERR_NULL, "bytes is NULL");
  mha_context lent;
  mha_rope rope;
  MHA_TRY(lend(*context, args->resources, &lent, error));
  MHA_TRY(check_reserved("args", args->reserved, error));
  MHA_TRY(check_sizes({{"batch", args->batch, 0}, {"length", args->length, 0}}, error));
  MHA_TRY(validate_rope(args->rope, cache->config.head_dim, &rope, error));
  if (args->key_norm != nullptr) MHA_TRY(check_norm("key_norm", *args->key_norm, error));
  *bytes = 0;  // tokens are copied into pages, keys prepared where they are then
  return MHA_OK;
}
