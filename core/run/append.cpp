// SPDX-License-Identifier: Apache-2.0
// The phase that stores tokens, and norms and rotates their keys where they are then.
#include "core/run/append.h"

#include "core/base/search.h"
#include "core/run/norm_rope.h"

namespace mha {
namespace {

// The item of the batch that token `t` of all is of, and its first token. Items without tokens are passed over.
int64_t item_at(const CacheBatch& batch, int64_t t, int64_t* begin) {
  if (batch.offsets == nullptr) {
    *begin = t / batch.length * batch.length;
    return t / batch.length;
  }
  const int64_t b = part_at(batch.offsets, batch.batch, t);
  *begin = batch.offsets[b];
  return b;
}

// Norms and rotates stored keys where they lie. `positions` of the tokens, or null: their numbers.
void prepare_keys(const AppendProblem& p, TokenPreparer* prepare, int64_t sequence, int64_t first, int64_t count,
                  const int64_t* positions) {
  const mha_cache& cache = *p.cache;
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
  const AppendProblem& p = job.problem;
  const bool packed = p.batch.offsets != nullptr;
  const int64_t end = least((item + 1) * job.item_tokens, p.tokens);
  for (int64_t t = item * job.item_tokens; t < end;) {
    int64_t begin = 0;
    const int64_t b = item_at(p.batch, t, &begin), sequence = p.batch.sequence(b);
    const int64_t left = least(end, begin + p.batch.count(b)) - t;
    const int64_t count =
        prepare != nullptr ? least(left, kRunTokens) : left;  // so that keys are prepared while at hand
    const int64_t row = packed ? t : t - begin, outer = packed ? 0 : b;
    const CacheRows rows = {
        p.key.data + outer * p.key.stride_b + row * p.key.stride_t,       p.key.stride_t,   p.key.stride_h,
        p.value.data + outer * p.value.stride_b + row * p.value.stride_t, p.value.stride_t, p.value.stride_h};
    const int64_t first = p.cache->sequences[sequence].length + t - begin;
    cache_write(*p.cache, sequence, first, count, rows);
    if (prepare != nullptr) {
      prepare_keys(p, prepare, sequence, first, count, p.positions != nullptr ? p.positions + t : nullptr);
    }
    t += count;
  }
}

}  // namespace

void run_append(const void* data, int64_t item, int64_t) {
  const AppendJob& job = *static_cast<const AppendJob*>(data);
  const AppendProblem& p = job.problem;
  if (!p.prepares) return append_range(job, item, nullptr);
  const mha_cache_config& c = p.cache->config;
  TokenPreparer prepare(*job.table, p.rope, p.epsilon, p.weight, c.num_kv_heads, c.head_dim);
  append_range(job, item, &prepare);
}

Phase append_phase(const AppendJob& job) { return {run_append, &job, divide_up(job.problem.tokens, job.item_tokens)}; }

}  // namespace mha
