// SPDX-License-Identifier: Apache-2.0
// Checks of how long the items of a batch are, where their keys are stored and where their queries stand: offsets,
// lengths, sequences of a cache, pages, positions.
#include "core/cache/cache.h"
#include "core/call/checks.h"
#include "core/call/items.h"
#include "core/call/score_mods.h"

namespace mha {
namespace {

using ll = long long;

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
      return fail(error, MHA_ERR_ARGUMENT, "items.sequences[%lld] is %lld: must be 0 to %lld", ll{b}, ll{sequence},
                  ll{c.max_sequences - 1});
    }
  }
  return MHA_OK;
}

mha_status check_used(const Groups& g, const mha_items& items, mha_error* error) {
  if (g.cache != nullptr) {
    const char* why = "keys are in a cache, which knows their lengths";
    if (items.key_offsets != nullptr) return fail_unused("items.key_offsets", why, error);
    if (items.key_lengths != nullptr) return fail_unused("items.key_lengths", why, error);
    if (g.pages != nullptr) return fail_unused("pages", "keys are in a cache", error);
    return MHA_OK;
  }
  if (items.sequences != nullptr) return fail_unused("items.sequences", "there is no cache", error);
  if (g.keys_are_queries) {
    const char* why = "keys are the queries (key.data is NULL), so items.query_offsets pack them";
    if (items.key_offsets != nullptr) return fail_unused("items.key_offsets", why, error);
    if (items.key_lengths != nullptr && items.query_offsets != nullptr) {
      return fail_unused("items.key_lengths", why, error);
    }
  }
  if (items.key_offsets != nullptr && items.key_lengths != nullptr) {
    return fail_unused("items.key_lengths", "items.key_offsets say the lengths of packed keys", error);
  }
  if (g.pages == nullptr) return MHA_OK;
  if (items.key_offsets != nullptr) return fail_unused("items.key_offsets", "keys are in pages", error);
  if (items.key_lengths == nullptr) {
    return fail(error, MHA_ERR_NULL, "items.key_lengths is NULL: pages need the length of each item");
  }
  return MHA_OK;
}

mha_status check_key_lengths(const AttentionProblem& p, mha_error* error) {
  for (int64_t b = 0; b < p.batch; ++b) {
    if (p.key_lengths[b] >= 0 && p.key_lengths[b] <= p.key_len) continue;
    return fail(error, MHA_ERR_ARGUMENT, "items.key_lengths[%lld] is %lld: must be 0 to key_len (%lld)", ll{b},
                ll{p.key_lengths[b]}, ll{p.key_len});
  }
  return MHA_OK;
}

}  // namespace

bool looks_at_positions(const Groups& g) {
  const mha_masks& masks = given_or_default(g.masks);
  const mha_score_mods& mods = given_or_default(g.score_mods);
  const bool rotates = g.rope != nullptr && given_or_default(g.positions).query == nullptr;
  return g.causal || masks.window_left > 0 || masks.window_right > 0 || mods_look_at_positions(mods) || rotates;
}

namespace {

mha_status check_offset(const mha_positions& positions, int align, int64_t batch, mha_error* error) {
  if (align != MHA_ALIGN_OFFSET) {
    const char* why = "positions.align is not MHA_ALIGN_OFFSET";
    if (positions.offset != 0) {
      return fail(error, MHA_ERR_ARGUMENT, "positions.offset is %lld, but %s", ll{positions.offset}, why);
    }
    return positions.offsets != nullptr ? fail_unused("positions.offsets", why, error) : MHA_OK;
  }
  if (positions.offsets != nullptr && positions.offset != 0) {
    return fail(error, MHA_ERR_ARGUMENT, "positions.offset is %lld beside positions.offsets: give one of them",
                ll{positions.offset});
  }
  if (positions.offset > kMaxSize || positions.offset < -kMaxSize) {
    return fail(error, MHA_ERR_OVERFLOW, "positions.offset is %lld: must be within 2^62", ll{positions.offset});
  }
  for (int64_t b = 0; b < batch && positions.offsets != nullptr; ++b) {
    if (positions.offsets[b] <= kMaxSize && positions.offsets[b] >= -kMaxSize) continue;
    return fail(error, MHA_ERR_OVERFLOW, "positions.offsets[%lld] is %lld: must be within 2^62", ll{b},
                ll{positions.offsets[b]});
  }
  return MHA_OK;
}

}  // namespace

mha_status check_items(const Groups& g, AttentionProblem* p, mha_error* error) {
  const mha_items& items = given_or_default(g.items);
  MHA_TRY(check_used(g, items, error));
  p->query_offsets = items.query_offsets;
  p->key_offsets = g.keys_are_queries && g.cache == nullptr ? items.query_offsets : items.key_offsets;
  p->key_lengths = items.key_lengths;
  p->cache = g.cache, p->sequences = items.sequences;
  p->shares_pages = g.pages != nullptr || (g.cache != nullptr && g.cache->config.kind == MHA_CACHE_PAGED);
  p->ring_tokens = g.cache != nullptr ? ring_tokens(*g.cache) : 0;
  if (p->query_offsets != nullptr) {
    MHA_TRY(check_offsets("items.query_offsets", p->query_offsets, p->batch, "query_len", p->query_len, error));
  }
  if (items.key_offsets != nullptr) {
    MHA_TRY(check_offsets("items.key_offsets", items.key_offsets, p->batch, "key_len", p->key_len, error));
  }
  if (p->key_lengths != nullptr) MHA_TRY(check_key_lengths(*p, error));
  if (p->cache != nullptr) MHA_TRY(check_cache(*p, error));
  p->longest_query_len = p->query_offsets != nullptr ? 0 : p->query_len;
  p->longest_key_len = p->key_offsets != nullptr || p->cache != nullptr ? 0 : p->key_len;
  // Items of equal length are not visited one by one: there may be 2^62 of them.
  const int64_t differ = p->query_offsets != nullptr || p->key_offsets != nullptr || p->cache != nullptr ? p->batch : 0;
  for (int64_t b = 0; b < differ; ++b) {
    if (p->query_offsets != nullptr) p->longest_query_len = most(p->longest_query_len, query_len_of(*p, b));
    if (p->key_offsets != nullptr || p->cache != nullptr) {
      p->longest_key_len = most(p->longest_key_len, key_len_of(*p, b));
    }
  }
  return MHA_OK;
}

mha_status check_positions(const Groups& g, AttentionProblem* p, mha_error* error) {
  const mha_positions& positions = given_or_default(g.positions);
  const int align = enum_value(positions.align);
  if (align < MHA_ALIGN_DEFAULT || align > MHA_ALIGN_OFFSET) {
    return fail(error, MHA_ERR_ARGUMENT, "positions.align is %d: not a value of mha_align", align);
  }
  if (align == MHA_ALIGN_DEFAULT && p->key_lengths != nullptr && looks_at_positions(g)) {
    return fail(error, MHA_ERR_ARGUMENT,
                "positions.align is MHA_ALIGN_DEFAULT beside items.key_lengths: say MHA_ALIGN_START (padded prompts: "
                "p(i) = i) or MHA_ALIGN_END (new tokens over a padded cache: p(i) = i + key_lengths[b] - Tq)");
  }
  MHA_TRY(check_offset(positions, align, p->batch, error));
  if (g.rope == nullptr && positions.query != nullptr) {
    return fail_unused("positions.query", "there is no rope, which alone looks at it", error);
  }
  if (positions.key != nullptr) {
    if (g.rope == nullptr) return fail_unused("positions.key", "there is no rope, which alone looks at it", error);
    if (!g.changes_keys) return fail_unused("positions.key", "keys are given rotated", error);
    if (g.keys_are_queries) {
      return fail_unused("positions.key", "in self-attention keys are at the positions of their tokens", error);
    }
  }
  p->alignment = {align == MHA_ALIGN_DEFAULT ? MHA_ALIGN_END : positions.align, positions.offset, positions.offsets};
  return MHA_OK;
}

mha_status check_pages(const mha_pages& pages, Check check, AttentionProblem* p, mha_error* error) {
  MHA_TRY(check_sizes({{"pages.stride", pages.stride, 0},
                       {"pages.page_size", pages.page_size, 1},
                       {"pages.num_pages", pages.num_pages, 0}},
                      error));
  const int64_t stride = pages.stride != 0 ? pages.stride : divide_up(p->key_len, pages.page_size);
  if (!(Size(p->batch) * Size(stride) * Size(sizeof(int32_t))).ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "pages.stride is %lld for %lld items: pages.table ends beyond 2^63 bytes",
                ll{stride}, ll{p->batch});
  }
  p->pages = {pages.table, stride, pages.page_size, pages.num_pages};
  if (check == Check::kSizesOnly) return MHA_OK;
  for (int64_t b = 0; b < p->batch; ++b) {
    const int64_t entries = divide_up(p->key_lengths[b], pages.page_size);
    if (entries > 0 && pages.table == nullptr) return fail(error, MHA_ERR_NULL, "pages.table is NULL");
    for (int64_t n = 0; n < entries; ++n) {
      const int32_t page = pages.table[b * stride + n];
      if (page >= 0 && page < pages.num_pages) continue;
      if (pages.num_pages == 0) {
        return fail(error, MHA_ERR_ARGUMENT, "pages.num_pages is 0, but item %lld has %lld keys", ll{b},
                    ll{p->key_lengths[b]});
      }
      return fail(error, MHA_ERR_ARGUMENT,
                  "pages.table[%lld] (page %lld of item %lld) is %d: must be 0 to %lld (num_pages - 1)",
                  ll{b * stride + n}, ll{n}, ll{b}, page, ll{pages.num_pages - 1});
    }
  }
  return MHA_OK;
}

mha_status bound_sizes(const Groups& g, int64_t key_len, BoundSizes* sizes, mha_error* error) {
  const mha_items& items = given_or_default(g.items);
  *sizes = {};
  sizes->key_len = key_len, sizes->shares_pages = g.pages != nullptr;
  sizes->packed_queries = items.query_offsets != nullptr, sizes->packed_keys = items.key_offsets != nullptr;
  if (g.cache == nullptr) {
    sizes->packed_keys |= g.keys_are_queries && sizes->packed_queries;
    return MHA_OK;
  }
  sizes->shares_pages = g.cache->config.kind == MHA_CACHE_PAGED;
  sizes->ring_tokens = ring_tokens(*g.cache);
  sizes->key_len = sizes->ring_tokens > 0 ? sizes->ring_tokens : g.cache->config.capacity;
  const int mode = enum_value(given_or_default(g.results).weights_mode);
  if (sizes->ring_tokens == 0 || mode == MHA_WEIGHTS_NONE) return MHA_OK;
  return fail(error, MHA_ERR_UNSUPPORTED,
              "results.weights_mode is %d: weights over a ring grow with its sequences, so there is no bound", mode);
}

void set_bound(const BoundSizes& sizes, AttentionProblem* p) {
  static const int64_t kPacked[1] = {0};  // not read: it only says that items are packed
  if (sizes.packed_queries) p->query_offsets = kPacked;
  if (sizes.packed_keys) p->key_offsets = kPacked;
  p->longest_query_len = p->query_len, p->longest_key_len = sizes.key_len + p->tail;
  p->shares_pages = sizes.shares_pages, p->ring_tokens = sizes.ring_tokens;
  // The cache comes after validation.
  p->norm_rope.hadamard = key_codes_of(*p).hadamard, p->hadamard_output = value_codes_of(*p).hadamard;
}

mha_status check_ring(const AttentionProblem& p, mha_error* error) {
  if (p.cache == nullptr) return MHA_OK;
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

}  // namespace mha
