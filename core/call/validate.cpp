// SPDX-License-Identifier: Apache-2.0
// The arguments of attention and of the layer, checked as a whole.
#include "core/call/checks.h"
#include "core/call/items.h"
#include "core/call/layer.h"
#include "core/call/score_mods.h"

namespace mha {
namespace {

using ll = long long;

// How many rows of a batch a view has: where items are packed it is one.
int64_t view_batch(const int64_t* offsets, int64_t batch) { return offsets != nullptr ? least(batch, 1) : batch; }

// Where nothing is to be done, no pointer is needed.
Check check_of_keys(const AttentionProblem& p, Check check) { return p.nothing_to_do() ? Check::kSizesOnly : check; }

bool same_place(const ConstTensor& in, const Tensor& out) {
  return in.data == out.data && in.stride_b == out.stride_b && in.stride_t == out.stride_t &&
         in.stride_h == out.stride_h && in.element == out.element;
}

// The groups that attention and layer share.
template <class Args>
Groups groups_in_common(const Args& a) {
  Groups g = {};
  g.items = a.items, g.positions = a.positions, g.masks = a.masks, g.score_mods = a.score_mods;
  g.query_norm = a.query_norm, g.rope = a.rope, g.cache = a.cache, g.results = a.results;
  g.causal = a.causal != 0;
  return g;
}

}  // namespace

Groups groups_of(const mha_attention_args& a) {
  Groups g = groups_in_common(a);
  g.pages = a.pages;
  return g;
}

Groups groups_of(const mha_layer_args& a) {
  const bool reads = a.cache != nullptr && enum_value(a.cache_use) == MHA_CACHE_READ;
  Groups g = groups_in_common(a);
  g.key_norm = a.key_norm;
  g.keys_are_queries = a.key.data == nullptr && !reads, g.changes_keys = !reads;
  return g;
}

mha_status check_reserved(const Groups& g, mha_error* error) {
  if (g.items != nullptr) MHA_TRY(check_reserved("items", g.items->reserved, error));
  if (g.positions != nullptr) {
    MHA_TRY(check_reserved("positions", g.positions->reserved_int, g.positions->reserved, error));
  }
  if (g.masks != nullptr) MHA_TRY(check_reserved("masks", g.masks->reserved, error));
  if (g.score_mods != nullptr) {
    MHA_TRY(check_reserved("score_mods", g.score_mods->reserved_int, g.score_mods->reserved, error));
  }
  if (g.pages != nullptr) MHA_TRY(check_reserved("pages", g.pages->reserved, error));
  if (g.results != nullptr) {
    MHA_TRY(check_reserved("results", g.results->reserved_int, g.results->reserved, error));
  }
  return MHA_OK;
}

mha_status check_products(const AttentionProblem& p, mha_error* error) {
  const Size rows = Size(p.query_offsets != nullptr ? 1 : p.batch) * Size(p.heads) * Size(p.query_len);
  const Size keys = Size(p.batch) * Size(p.kv_heads) * Size(p.longest_key_len);
  const Size widest = Size(p.head_dim) + Size(p.value_head_dim) + Size(1024);
  if ((rows * widest * Size(8)).ok() && (keys * widest * Size(8)).ok() && (widest * Size(1 << 20)).ok()) return MHA_OK;
  return fail(error, MHA_ERR_OVERFLOW,
              "batch %lld, num_heads %lld, query_len %lld, key_len %lld, head_dim %lld: too large", ll{p.batch},
              ll{p.heads}, ll{p.query_len}, ll{p.longest_key_len}, ll{p.head_dim});
}

// --- Attention -------------------------------------------------------------------------------------------------------

namespace {

mha_status check_attention_sizes(const mha_attention_args& a, AttentionProblem* p, mha_error* error) {
  MHA_TRY(check_sizes({{"batch", a.batch, 0},
                       {"num_heads", a.num_heads, 1},
                       {"query_len", a.query_len, 0},
                       {"key_len", a.key_len, 0},
                       {"head_dim", a.head_dim, 1},
                       {"value_head_dim", a.value_head_dim, 0}},
                      error));
  MHA_TRY(check_heads(a.num_heads, a.num_kv_heads, &p->kv_heads, error));
  MHA_TRY(check_scale(a.scale, a.scale_is_exact, a.head_dim, &p->scale, error));
  MHA_TRY(check_arithmetic(a.arithmetic, error));
  p->arithmetic = static_cast<Arithmetic>(enum_value(a.arithmetic));
  p->batch = a.batch, p->heads = a.num_heads, p->query_len = a.query_len, p->key_len = a.key_len;
  p->head_dim = a.head_dim, p->value_head_dim = a.value_head_dim != 0 ? a.value_head_dim : a.head_dim;
  if (a.cache == nullptr) return MHA_OK;
  if (a.key_len != 0) {
    return fail(error, MHA_ERR_ARGUMENT, "key_len is %lld, but keys are in a cache, which knows their lengths",
                ll{a.key_len});
  }
  const char* why = "keys and values are in a cache";
  MHA_TRY(check_unused("key", a.key, why, error));
  return check_unused("value", a.value, why, error);
}

// Sizes of the views of a call.
struct AttentionViews {
  Dimensions query, key, value, output;
};

AttentionViews view_sizes(const AttentionProblem& p, const mha_pages* pages) {
  const int64_t queries = view_batch(p.query_offsets, p.batch);
  const int64_t keyed = pages != nullptr ? pages->num_pages : view_batch(p.key_offsets, p.batch);
  const int64_t tokens = pages != nullptr ? pages->page_size : p.key_len;
  return {{queries, p.query_len, p.heads, p.head_dim},
          {keyed, tokens, p.kv_heads, p.head_dim},
          {keyed, tokens, p.kv_heads, p.value_head_dim},
          {queries, p.query_len, p.heads, p.value_head_dim}};
}

// The query last, whose place the output may have.
struct InputExtents {
  NamedExtent all[3];
  InputExtents(const AttentionProblem& p, const AttentionViews& n)
      : all{{"key", extent_of(p.key, n.key)},
            {"value", extent_of(p.value, n.value)},
            {"query", extent_of(p.query, n.query)}} {}
};

mha_status check_attention_overlaps(const AttentionProblem& p, const AttentionViews& n, mha_error* error) {
  const InputExtents inputs(p, n);
  NamedExtent results[3] = {{"output", extent_of(p.output, n.output)}};
  const int count = 1 + result_extents(p, results + 1);
  MHA_TRY(check_overlaps(results + 1, count - 1, inputs.all, 3, error));
  MHA_TRY(check_overlaps(results, 1, inputs.all, same_place(p.query, p.output) ? 2 : 3, error));
  return check_overlaps(results, count, nullptr, 0, error);
}

}  // namespace

mha_status check_partials_overlap(const mha_attention_args& args, const AttentionProblem& p, const float* partials,
                                  int64_t floats, mha_error* error) {
  const NamedExtent result = {"partials", extent_of(partials, floats)};
  return check_overlaps(&result, 1, InputExtents(p, view_sizes(p, args.pages)).all, 3, error);
}

mha_status validate_attention(const mha_attention_args* args, Check check, AttentionProblem* problem, mha_error* error,
                              const mha_cache* bound_over) {
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  const mha_attention_args& a = *args;
  const Groups groups = groups_of(a);
  AttentionProblem& p = *problem;  // written in place: a copy costs too much in a small call
  MHA_TRY(check_reserved("args", a.reserved, error));
  MHA_TRY(check_reserved(groups, error));
  MHA_TRY(check_attention_sizes(a, &p, error));
  p.causal = groups.causal;
  MHA_TRY(check_items(groups, &p, error));
  MHA_TRY(check_products(p, error));
  const Check keys = check_of_keys(p, check);
  if (a.pages != nullptr) MHA_TRY(check_pages(*a.pages, keys, &p, error));
  const AttentionViews sizes = view_sizes(p, a.pages);
  MHA_TRY(check_input("query", a.query, sizes.query, check, &p.query, error));
  if (p.cache == nullptr) {
    MHA_TRY(check_tokens("key", a.key, sizes.key, keys, &p.key, &p.key_codes, error));
    MHA_TRY(check_tokens("value", a.value, sizes.value, keys, &p.value, &p.value_codes, error));
  }
  MHA_TRY(check_pair(p, bound_over != nullptr ? bound_over : p.cache, error));
  MHA_TRY(check_result("output", a.output, sizes.output, Order::kBthd, check, &p.output, error));
  if (a.masks != nullptr) MHA_TRY(check_masks(*a.masks, keys, &p, error));
  if (a.score_mods != nullptr) MHA_TRY(check_mods(*a.score_mods, keys, &p, error));
  MHA_TRY(check_positions(groups, &p, error));
  MHA_TRY(check_ring(p, error));
  if (a.results != nullptr) MHA_TRY(check_results(*a.results, check, &p, error));
  p.copies_queries = true;
  MHA_TRY(check_norm_rope(groups, check, &p, error));
  // Queries are needed after their place was written to: by a second pass over the scores, and by the next chunk of keys
  // where the output's rows keep the running output.
  const bool in_place = p.query.data != nullptr && p.query.data == p.output.data;
  const bool second_pass = p.weights_mode != MHA_WEIGHTS_NONE && !keeps_weights(p);
  const bool between_chunks = p.longest_key_len > kChunk && !keeps_running(p.value_head_dim, p.output.element);
  if (in_place && (second_pass || between_chunks)) p.norm_rope.copy = true;
  p.ready_query = p.query;
  if (p.norm_rope.wanted() && !p.nothing_to_do()) {
    p.ready_query = as_const(dense_floats(nullptr, p.query_len, p.heads, p.head_dim));
  }
  p.hadamard_output = value_codes_of(p).hadamard;
  p.attended = p.output;
  if (p.copies_output() && !p.nothing_to_do()) {
    p.attended = dense_floats(nullptr, p.query_len, p.heads, p.value_head_dim);
  }
  return check != Check::kSizesOnly ? check_attention_overlaps(p, sizes, error) : MHA_OK;
}

// --- The layer -------------------------------------------------------------------------------------------------------

mha_status validate_layer_config(const mha_layer_config* config, mha_layer_config* resolved, mha_error* error) {
  if (config == nullptr) return fail(error, MHA_ERR_NULL, "config is NULL");
  mha_layer_config c = *config;
  MHA_TRY(check_reserved("config", c.reserved_int, c.reserved, error));
  MHA_TRY(check_sizes({{"embed_dim", c.embed_dim, 1},
                       {"num_heads", c.num_heads, 1},
                       {"head_dim", c.head_dim, 0},
                       {"value_head_dim", c.value_head_dim, 0},
                       {"kdim", c.kdim, 0},
                       {"vdim", c.vdim, 0},
                       {"out_dim", c.out_dim, 0}},
                      error));
  MHA_TRY(check_heads(c.num_heads, c.num_kv_heads, &c.num_kv_heads, error));
  MHA_TRY(check_arithmetic(c.arithmetic, error));
  MHA_TRY(check_layout(c.layout, error));
  if (c.head_dim == 0) {
    if (c.embed_dim % c.num_heads != 0) {
      return fail(error, MHA_ERR_SHAPE, "embed_dim is %lld: not a multiple of num_heads (%lld), so give head_dim",
                  ll{c.embed_dim}, ll{c.num_heads});
    }
    c.head_dim = c.embed_dim / c.num_heads;
  }
  if (c.value_head_dim == 0) c.value_head_dim = c.head_dim;
  if (c.kdim == 0) c.kdim = c.embed_dim;
  if (c.vdim == 0) c.vdim = c.embed_dim;
  if (c.out_dim == 0) c.out_dim = c.embed_dim;
  c.add_zero_attn = c.add_zero_attn != 0 ? 1 : 0;
  MHA_TRY(check_scale(c.scale, c.scale_is_exact, c.head_dim, &c.scale, error));
  c.scale_is_exact = 1;  // from here on
  c.packed = nullptr, c.packed_error = nullptr;
  c.layout = MHA_WEIGHT_ROWS;  // of the given weights
  *resolved = c;
  return MHA_OK;
}

namespace {

mha_status add_tail(const mha_layer_args& a, int64_t tail, AttentionProblem* p, mha_error* error) {
  if (tail == 0) return MHA_OK;
  const mha_score_mods& mods = given_or_default(a.score_mods);
  const char* what = nullptr;
  if (p->cache != nullptr) what = "cache";
  if (p->key_offsets != nullptr) what = "keys of unequal length (items)";
  if (const char* mod = changing_mod(mods)) what = mod;
  if (what != nullptr) {
    return fail(error, MHA_ERR_UNSUPPORTED, "%s: not with a layer that has bias_key or add_zero_attn", what);
  }
  p->tail = tail;
  p->key_len += tail, p->longest_key_len += tail;
  return MHA_OK;
}

// What keys and values are projected from.
struct KeySource {
  const mha_view* key;
  const mha_view* value;
  bool are_queries;  // self-attention
};

mha_status check_key_source(const mha_layer_config& c, const mha_layer_args& a, KeySource* out, mha_error* error) {
  const int use = enum_value(a.cache_use);
  if (use != MHA_CACHE_APPEND && use != MHA_CACHE_READ) {
    return fail(error, MHA_ERR_ARGUMENT, "cache_use is %d: not a value of mha_cache_use", use);
  }
  if (a.cache == nullptr && use != MHA_CACHE_APPEND) {
    return fail(error, MHA_ERR_ARGUMENT, "cache_use is MHA_CACHE_READ, but cache is NULL");
  }
  if (a.cache != nullptr && (a.key.data != nullptr || a.value.data != nullptr || a.key_len != 0)) {
    const char* what = a.key.data != nullptr ? "key.data" : (a.value.data != nullptr ? "value.data" : "key_len");
    return fail(error, MHA_ERR_ARGUMENT, "%s is given beside a cache, which has the keys and values", what);
  }
  if (a.key.data == nullptr) MHA_TRY(check_unused("key", a.key, "key.data is NULL", error));
  if (a.value.data == nullptr) MHA_TRY(check_unused("value", a.value, "value.data is NULL", error));
  const bool reads = a.cache != nullptr && use == MHA_CACHE_READ;
  const bool are_queries = a.key.data == nullptr && !reads;
  if (are_queries && a.key_len != 0 && a.key_len != a.query_len) {
    return fail(error, MHA_ERR_SHAPE,
                "key_len is %lld, but key.data is NULL (self-attention): must be 0 or query_len (%lld)", ll{a.key_len},
                ll{a.query_len});
  }
  if (are_queries && c.kdim != c.embed_dim) {
    return fail(error, MHA_ERR_SHAPE, "key.data is NULL (self-attention), but kdim is %lld and embed_dim %lld",
                ll{c.kdim}, ll{c.embed_dim});
  }
  const mha_view* key = are_queries ? &a.query : &a.key;
  const mha_view* value = a.value.data == nullptr ? key : &a.value;
  if (!reads && value == key && c.vdim != c.kdim) {
    return fail(error, MHA_ERR_SHAPE, "value.data is NULL (same as key), but vdim is %lld and kdim %lld", ll{c.vdim},
                ll{c.kdim});
  }
  if (reads && a.key_norm != nullptr) {
    return fail(error, MHA_ERR_ARGUMENT, "key_norm is given, but cache_use is MHA_CACHE_READ: no keys are projected");
  }
  *out = {key, value, are_queries};
  return MHA_OK;
}

mha_status check_layer_views(const mha_layer_config& c, const mha_layer_args& a, const KeySource& source, Check check,
                             const AttentionProblem& p, ForwardViews* views, mha_error* error) {
  MHA_TRY(check_no_stride("query", "h", a.query.stride_h, error));
  MHA_TRY(check_no_stride("key", "h", a.key.stride_h, error));
  MHA_TRY(check_no_stride("value", "h", a.value.stride_h, error));
  MHA_TRY(check_no_stride("output", "h", a.output.stride_h, error));
  const int64_t queries = view_batch(p.query_offsets, p.batch);
  const Dimensions query = {queries, p.query_len, 1, c.embed_dim}, output = {queries, p.query_len, 1, c.out_dim};
  MHA_TRY(check_input("query", a.query, query, check, &views->query, error));
  MHA_TRY(check_result("output", a.output, output, Order::kBthd, check, &views->output, error));
  const bool reads = p.cache != nullptr && !p.appends;
  const int64_t* offsets = source.are_queries ? p.query_offsets : p.key_offsets;
  const int64_t keyed = view_batch(offsets, p.batch);
  const int64_t rows = reads ? 0 : (source.are_queries ? p.query_len : p.key_len - p.tail);
  const Dimensions key = {keyed, rows, 1, c.kdim}, value = {keyed, rows, 1, c.vdim};
  MHA_TRY(check_input("key", *source.key, key, check_of_keys(p, check), &views->key, error));
  MHA_TRY(check_input("value", *source.value, value, check_of_keys(p, check), &views->value, error));
  if (check == Check::kSizesOnly) return MHA_OK;
  const bool in_place = same_place(views->query, views->output);
  // Query first: in self-attention it stands for the others, which were not given.
  NamedExtent inputs[] = {{"query", extent_of(views->query, query)},
                          {"key", extent_of(views->key, key)},
                          {"value", extent_of(views->value, value)}};
  NamedExtent results[3] = {{"output", extent_of(views->output, output)}};
  const int count = 1 + result_extents(p, results + 1);
  if (count > 1) MHA_TRY(check_overlaps(results + 1, count - 1, inputs, 3, error));
  if (in_place) inputs[0].extent = {};  // the output may have their place
  if (in_place && source.are_queries) inputs[1].extent = {};
  if (in_place && source.are_queries && a.value.data == nullptr) inputs[2].extent = {};
  return check_overlaps(results, count, inputs, 3, error);
}

}  // namespace

mha_status validate_forward(const mha_layer_config& c, const mha_layer_args* args, Check check, ForwardViews* views,
                            AttentionProblem* problem, mha_error* error, const mha_cache* bound_over) {
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  const mha_layer_args& a = *args;
  AttentionProblem& p = *problem;  // written in place: a copy costs too much in a small call
  const int64_t tail = p.tail;
  p.tail = 0;
  MHA_TRY(check_reserved("args", a.reserved_int, a.reserved, error));
  MHA_TRY(check_sizes({{"batch", a.batch, 0}, {"query_len", a.query_len, 0}, {"key_len", a.key_len, 0}}, error));
  MHA_TRY(check_arithmetic(a.arithmetic, error));
  p.arithmetic = static_cast<Arithmetic>(enum_value(a.arithmetic));
  KeySource source = {};
  MHA_TRY(check_key_source(c, a, &source, error));
  const Groups groups = groups_of(a);
  MHA_TRY(check_reserved(groups, error));
  p.batch = a.batch, p.heads = c.num_heads, p.kv_heads = c.num_kv_heads, p.query_len = a.query_len;
  p.key_len = source.are_queries && a.cache == nullptr ? a.query_len : a.key_len;
  p.head_dim = c.head_dim, p.value_head_dim = c.value_head_dim, p.scale = c.scale;
  p.causal = groups.causal;
  p.appends = a.cache != nullptr && groups.keys_are_queries;
  MHA_TRY(check_items(groups, &p, error));
  MHA_TRY(check_products(p, error));
  const Check keys = check_of_keys(p, check);
  if (a.masks != nullptr) MHA_TRY(check_masks(*a.masks, keys, &p, error));
  if (a.score_mods != nullptr) MHA_TRY(check_mods(*a.score_mods, keys, &p, error));
  MHA_TRY(check_positions(groups, &p, error));
  MHA_TRY(check_ring(p, error));
  MHA_TRY(check_norm_rope(groups, check, &p, error));
  // From here on the keys that the layer adds count as well.
  MHA_TRY(add_tail(a, tail, &p, error));
  if (a.results != nullptr) MHA_TRY(check_results(*a.results, check, &p, error));
  if (!p.nothing_to_do()) {  // else sizes may be too large for strides
    p.query = p.ready_query = as_const(projected_tensor(c, p, kQuery, nullptr));
    p.key = as_const(projected_tensor(c, p, kKey, nullptr)),
    p.value = as_const(projected_tensor(c, p, kValue, nullptr));
    p.output = p.attended = projected_tensor(c, p, kOutput, nullptr);
  }
  MHA_TRY(check_pair(p, bound_over != nullptr ? bound_over : p.cache, error));
  p.hadamard_output = value_codes_of(p).hadamard;
  return check_layer_views(c, a, source, check, p, views, error);
}

}  // namespace mha
