// SPDX-License-Identifier: Apache-2.0
// Checks of what says how long the items of a batch are: offsets of packed items, sequences of a cache, and of the rows
// whose weights are wanted.
#include "core/cache.h"
#include "core/items.h"
#include "core/validate.h"

namespace mha {
namespace {

using ll = long long;

mha_status check_offsets(const char* name, const int64_t* offsets, int64_t batch, const char* total_name, int64_t total,
                         mha_error* error) {
  if (offsets[0] != 0) {
    return fail(error, MHA_ERR_ARGUMENT, "%s[0] is %lld: must be 0", name, ll{offsets[0]});
  }
  for (int64_t b = 0; b < batch; ++b) {
    if (offsets[b + 1] < offsets[b]) {
      return fail(error, MHA_ERR_ARGUMENT, "%s[%lld] is %lld, less than the one before it (%lld)", name, ll{b + 1},
                  ll{offsets[b + 1]}, ll{offsets[b]});
    }
  }
  if (offsets[batch] != total) {
    return fail(error, MHA_ERR_ARGUMENT, "%s[%lld] is %lld: must be %s (%lld)", name, ll{batch}, ll{offsets[batch]},
                total_name, ll{total});
  }
  return MHA_OK;
}

mha_status check_cache(const AttentionProblem& p, mha_error* error) {
  const mha_cache_config& c = p.cache->config;
  const struct {
    const char* name;
    int64_t wanted, has;
  } sizes[] = {{"num_kv_heads", p.kv_heads, c.num_kv_heads},
               {"head_dim", p.head_dim, c.head_dim},
               {"value_head_dim", p.value_head_dim, c.value_head_dim}};
  for (const auto& s : sizes) {
    if (s.wanted != s.has) {
      return fail(error, MHA_ERR_SHAPE, "%s is %lld, but the cache's is %lld", s.name, ll{s.wanted}, ll{s.has});
    }
  }
  if (p.sequences == nullptr && p.batch > c.max_sequences) {
    return fail(error, MHA_ERR_ARGUMENT, "batch is %lld, but the cache has %lld sequences", ll{p.batch},
                ll{c.max_sequences});
  }
  for (int64_t b = 0; b < p.batch; ++b) {
    const int64_t sequence = sequence_of(p, b);
    if (sequence < 0 || sequence >= c.max_sequences) {
      return fail(error, MHA_ERR_ARGUMENT, "sequences[%lld] is %lld: must be 0 to %lld", ll{b}, ll{sequence},
                  ll{c.max_sequences - 1});
    }
  }
  return MHA_OK;
}

}  // namespace

mha_status check_items(const ItemArgs& args, AttentionProblem* p, mha_error* error) {
  p->query_offsets = args.query_offsets, p->key_offsets = args.key_offsets;
  p->cache = args.cache, p->sequences = args.sequences;
  if (p->cache != nullptr) p->key_offsets = nullptr, p->key_len = 0;
  mha_status status = MHA_OK;
  if (p->query_offsets != nullptr) {
    status = check_offsets("query_offsets", p->query_offsets, p->batch, "query_len", p->query_len, error);
  }
  if (status == MHA_OK && p->key_offsets != nullptr) {
    status = check_offsets("key_offsets", p->key_offsets, p->batch, "key_len", p->key_len, error);
  }
  if (status == MHA_OK && p->cache != nullptr) status = check_cache(*p, error);
  if (status != MHA_OK) return status;
  p->longest_key_len = p->longest_query_len = 0;
  for (int64_t b = 0; b < (p->uniform() ? least(p->batch, 1) : p->batch); ++b) {
    p->longest_key_len = most(p->longest_key_len, key_len_of(*p, b));
    p->longest_query_len = most(p->longest_query_len, query_len_of(*p, b));
  }
  return MHA_OK;
}

mha_status check_ring(const AttentionProblem& p, mha_error* error) {
  if (p.cache == nullptr || p.heads == 0) return MHA_OK;
  const int64_t pinned = p.cache->config.sink_tokens;
  for (int64_t b = 0; b < p.batch; ++b) {
    if (query_len_of(p, b) == 0) continue;
    const int64_t kept = first_kept_of(p, b);
    if (kept == 0) continue;
    const int64_t needed = p.masks.window_left > 0 ? position_of(p, b, 0) - p.masks.window_left + 1 : 0;
    if (needed < kept) {
      return fail(
          error, MHA_ERR_ARGUMENT,
          "masks.window_left is %lld: query 0 of item %lld sees keys from %lld on, but the ring keeps them from "
          "%lld on",
          ll{p.masks.window_left}, ll{b}, ll{needed < 0 ? 0 : needed}, ll{kept});
    }
    if (p.masks.sink_tokens > pinned) {
      return fail(error, MHA_ERR_ARGUMENT, "masks.sink_tokens is %lld, but the ring keeps the first %lld",
                  ll{p.masks.sink_tokens}, ll{pinned});
    }
  }
  return MHA_OK;
}

mha_status check_weight_rows(const mha_weight_rows& w, AttentionProblem* p, mha_error* error) {
  p->weight_rows = {};
  if (w.rows == nullptr || p->weights_mode == MHA_WEIGHTS_NONE) return MHA_OK;
  if (w.count < 0) return fail(error, MHA_ERR_ARGUMENT, "weight_rows.count is %lld: must be >= 0", ll{w.count});
  int64_t shortest = p->query_len;
  for (int64_t b = 0; b < (p->uniform() ? 0 : p->batch); ++b) shortest = least(shortest, query_len_of(*p, b));
  for (int64_t r = 0; r < w.count; ++r) {
    if (w.rows[r] < 0 || w.rows[r] >= shortest) {
      return fail(error, MHA_ERR_ARGUMENT, "weight_rows.rows[%lld] is %lld: must be 0 to %lld", ll{r}, ll{w.rows[r]},
                  ll{shortest - 1});
    }
    if (r > 0 && w.rows[r] <= w.rows[r - 1]) {
      return fail(error, MHA_ERR_ARGUMENT, "weight_rows.rows[%lld] is %lld, not more than the one before it (%lld)",
                  ll{r}, ll{w.rows[r]}, ll{w.rows[r - 1]});
    }
  }
  p->weight_rows = w;
  return MHA_OK;
}

}  // namespace mha
