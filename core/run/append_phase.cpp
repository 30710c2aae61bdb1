// SPDX-License-Identifier: Apache-2.0
// The phase that stores tokens, and norms and rotates their keys on the way.
#include "core/run/append_phase.h"

#include "core/base/search.h"
#include "core/run/norm_rope.h"

namespace mha {
namespace {

// The item of the batch that token `t` belongs to, and the first token of that item. Items without tokens are skipped.
int64_t item_at(const CacheBatch& batch, int64_t t, int64_t* begin) {
  if (batch.offsets == nullptr) {
    *begin = t / batch.length * batch.length;
    return t / batch.length;
  }
  const int64_t b = part_at(batch.offsets, batch.batch, t);
  *begin = batch.offsets[b];
  return b;
}

PartRows rows_from(const ConstTensor& t, int64_t b, int64_t row) {
  return {t.data + b * t.stride_b + row * t.stride_t, t.stride_t, t.stride_h, t.element, nullptr, nullptr};
}

// Norms, rotates and stores keys. positions null: the tokens' numbers. floats [Hkv, D]: for those that become codes.
void norm_rope_keys(const AppendProblem& p, TokenNormRope* norm_rope, int64_t sequence, int64_t first, int64_t count,
                    ConstTensor keys, const int64_t* positions, float* floats) {
  const mha_cache& cache = *p.cache;
  const PartLayout& part = cache.parts[kKeys];
  if (is_code(part.element)) {
    const Tensor row = dense_floats(floats, 1, cache.config.num_kv_heads, part.width);
    for (int64_t t = first; t < first + count; ++t, keys.data += keys.stride_t) {
      norm_rope->run(positions != nullptr ? positions[t - first] : t, keys, row);
      const PartRows rows[kCacheParts] = {rows_from(as_const(row), 0, 0), {}};
      cache_write(cache, sequence, t, 1, rows);
    }
    return;
  }
  const int64_t kept = first_page_kept(cache, cache.sequences[sequence]);
  Tensor stored = {};
  stored.stride_t = part.row_bytes, stored.stride_h = cache.page_size * part.row_bytes, stored.element = part.element;
  for (int64_t t = first; t < first + count; ++t, keys.data += keys.stride_t) {
    const int64_t page = t / cache.page_size;
    if (page >= cache.pinned_pages && page < kept) continue;
    stored.data = cache_row(cache, kKeys, sequence, t);
    norm_rope->run(positions != nullptr ? positions[t - first] : t, keys, stored);
  }
}

// Runs work item `item`; norm_rope null: keys are stored as they are.
void append_range(const AppendJob& job, int64_t item, int64_t slot, TokenNormRope* norm_rope) {
  const AppendProblem& p = job.problem;
  const bool packed = p.batch.offsets != nullptr;
  const int64_t end = least((item + 1) * job.item_tokens, p.tokens);
  for (int64_t t = item * job.item_tokens; t < end;) {
    int64_t begin = 0;
    const int64_t b = item_at(p.batch, t, &begin), sequence = p.batch.sequence(b);
    const int64_t count = least(least(end, begin + p.batch.count(b)) - t, kRunTokens);
    const int64_t row = packed ? t : t - begin, outer = packed ? 0 : b;
    const int64_t first = p.cache->sequences[sequence].length + t - begin;
    PartRows rows[kCacheParts] = {rows_from(p.key, outer, row), rows_from(p.value, outer, row)};
    if (norm_rope != nullptr) {
      const PartRows& keys = rows[kKeys];
      ConstTensor source = {};
      source.data = keys.data, source.element = keys.element;
      source.stride_t = keys.stride_t, source.stride_h = keys.stride_h;
      norm_rope_keys(p, norm_rope, sequence, first, count, source, p.positions != nullptr ? p.positions + t : nullptr,
                     job.floats + slot * job.floats_step);
      rows[kKeys].data = nullptr;
    }
    cache_write(*p.cache, sequence, first, count, rows);
    t += count;
  }
}

}  // namespace

void run_append(const void* data, int64_t item, int64_t slot) {
  const AppendJob& job = *static_cast<const AppendJob*>(data);
  const AppendProblem& p = job.problem;
  if (!p.changes_keys) return append_range(job, item, slot, nullptr);
  const mha_cache_config& c = p.cache->config;
  TokenNormRope norm_rope(*job.table, p.rope, p.epsilon, p.weight, c.num_kv_heads, c.head_dim);
  append_range(job, item, slot, &norm_rope);
}

Phase append_phase(const AppendJob& job) { return {run_append, &job, divide_up(job.problem.tokens, job.item_tokens)}; }

}  // namespace mha
