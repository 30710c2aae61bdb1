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

ConstTensor tokens_from(const PartRows& rows) {
  ConstTensor t = {};
  t.data = rows.data, t.stride_t = rows.stride_t, t.stride_h = rows.stride_h, t.element = rows.element;
  return t;
}

// Some tokens of one part, and where they go: [first, first + count) of a sequence.
struct NewTokens {
  CachePart part;
  ConstTensor rows;
  int64_t sequence, first, count;
};

// Stores tokens that change(number of the token, its rows, where to) writes. floats [Hkv, width]: for rows that become
// codes.
template <class Change>
void store_changed(const mha_cache& cache, const NewTokens& tokens, float* floats, Change change) {
  const PartLayout& layout = cache.parts[tokens.part];
  ConstTensor from = tokens.rows;
  const int64_t kept = first_page_kept(cache, cache.sequences[tokens.sequence]);
  Tensor stored = dense_floats(floats, 1, cache.config.num_kv_heads, layout.width);
  const bool codes = is_code(layout.element);
  if (!codes) {
    stored.stride_t = layout.row_bytes, stored.stride_h = cache.page_size * layout.row_bytes;
    stored.element = layout.element;
  }
  for (int64_t n = 0; n < tokens.count; ++n, from.data += from.stride_t) {
    const int64_t token = tokens.first + n, page = token / cache.page_size;
    if (page >= cache.pinned_pages && page < kept) continue;
    if (!codes) stored.data = cache_row(cache, tokens.part, tokens.sequence, token);
    change(n, from, stored);
    if (!codes) continue;
    PartRows rows[kCacheParts] = {};
    rows[tokens.part] = rows_from(as_const(stored), 0, 0);
    cache_write(cache, tokens.sequence, token, 1, rows);
  }
}

// Runs work item `item`; keys null: they are neither normed nor rotated.
void append_range(const AppendJob& job, int64_t item, int64_t slot, TokenNormRope* keys) {
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
    float* floats = job.floats + slot * job.floats_step;
    if (keys != nullptr) {
      const int64_t* positions = p.positions != nullptr ? p.positions + t : nullptr;
      store_changed(*p.cache, {kKeys, tokens_from(rows[kKeys]), sequence, first, count}, floats,
                    [&](int64_t n, const ConstTensor& from, const Tensor& to) {
                      keys->run(positions != nullptr ? positions[n] : first + n, from, to);
                    });
      rows[kKeys].data = nullptr;
    }
    if (p.hadamard(kValues)) {
      const mha_cache_config& c = p.cache->config;
      store_changed(*p.cache, {kValues, tokens_from(rows[kValues]), sequence, first, count}, floats,
                    [&](int64_t, const ConstTensor& from, const Tensor& to) {
                      hadamard_rotate(*job.table, from, to, c.num_kv_heads, c.value_head_dim);
                    });
      rows[kValues].data = nullptr;
    }
    cache_write(*p.cache, sequence, first, count, rows);
    t += count;
  }
}

}  // namespace

void run_append(const void* data, int64_t item, int64_t slot) {
  const AppendJob& job = *static_cast<const AppendJob*>(data);
  const AppendProblem& p = job.problem;
  if (!p.changes_keys && !p.hadamard(kKeys)) return append_range(job, item, slot, nullptr);
  const mha_cache_config& c = p.cache->config;
  TokenNormRope keys(*job.table, p.rope, p.epsilon, p.weight, c.num_kv_heads, c.head_dim);
  if (p.hadamard(kKeys)) keys.add_hadamard();
  append_range(job, item, slot, &keys);
}

Phase append_phase(const AppendJob& job) { return {run_append, &job, divide_up(job.problem.tokens, job.item_tokens)}; }

}  // namespace mha
