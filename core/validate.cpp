// SPDX-License-Identifier: Apache-2.0
// Argument checks. Messages name the argument as the caller wrote it and its value.
#include "core/checks.h"

#include <cmath>
#include <cstring>

#include "core/denormal.h"
#include "core/items.h"
#include "core/plan.h"
#include "core/prepare.h"

namespace mha {
namespace {

using ll = long long;

mha_status check_scale(float scale, int64_t head_dim, float* out, mha_error* error) {
  if (!std::isfinite(scale))
    return fail(error, MHA_ERR_ARGUMENT, "scale is %g: must be finite", static_cast<double>(scale));
  if (is_denormal(scale)) {
    return fail(error, MHA_ERR_ARGUMENT, "scale is %g: a denormal would count as 0", exact_value(scale));
  }
  *out = scale != 0.0f ? scale : static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
  return MHA_OK;
}

mha_status check_weights(const mha_weights_mode& mode, const mha_weight_rows& rows, const mha_mut_view& view,
                         Check check, AttentionProblem* p, mha_error* error) {
  const int value = enum_value(mode);
  if (value < MHA_WEIGHTS_NONE || value > MHA_WEIGHTS_KEY_SUMS) {
    return fail(error, MHA_ERR_ARGUMENT, "weights_mode is %d: not a value of mha_weights_mode", value);
  }
  p->weights_mode = mode;
  if (mode == MHA_WEIGHTS_NONE) return MHA_OK;
  const mha_status status = check_weight_rows(rows, p, error);
  if (status != MHA_OK) return status;
  Dimensions n = {p->batch, p->query_len, p->heads, p->longest_key_len};
  if (p->query_offsets != nullptr && p->weight_rows.rows == nullptr) n.b = least(n.b, 1);  // packed as the queries are
  if (p->weight_rows.rows != nullptr) n.t = p->weight_rows.count;
  if (mode == MHA_WEIGHTS_KEY_SUMS) n.b = p->batch, n.t = 1;
  if (mode == MHA_WEIGHTS_AVERAGED) n.h = 1;
  return check_result("weights", view, n, Order::kBhtd, check, &p->weights, error);
}

mha_status check_heads(int64_t heads, int64_t kv_heads, int64_t* out, mha_error* error) {
  mha_status status = check_size("num_kv_heads", kv_heads, 0, error);
  if (status != MHA_OK) return status;
  *out = kv_heads != 0 ? kv_heads : heads;
  if (*out != 0 && heads % *out != 0) {
    return fail(error, MHA_ERR_SHAPE, "num_heads is %lld: not a multiple of num_kv_heads (%lld)", ll{heads}, ll{*out});
  }
  return MHA_OK;
}

// Rows of attention over the whole call, and scores of one row, must be countable.
mha_status check_products(const AttentionProblem& p, mha_error* error) {
  const Size rows = Size(p.query_offsets != nullptr ? 1 : p.batch) * Size(p.heads) * Size(p.query_len);
  const Size keys = Size(p.batch) * Size(p.kv_heads) * Size(p.longest_key_len);
  const Size widest = Size(p.head_dim) + Size(p.value_head_dim) + Size(1024);
  if ((rows * widest * Size(8)).ok() && (keys * widest * Size(8)).ok() && (widest * Size(1 << 20)).ok()) return MHA_OK;
  return fail(error, MHA_ERR_OVERFLOW,
              "batch %lld, num_heads %lld, query_len %lld, key_len %lld, head_dim %lld: too large", ll{p.batch},
              ll{p.heads}, ll{p.query_len}, ll{p.longest_key_len}, ll{p.head_dim});
}

}  // namespace

mha_status check_size(const char* name, int64_t value, int64_t least, mha_error* error) {
  if (value < least) return fail(error, MHA_ERR_ARGUMENT, "%s is %lld: must be >= %lld", name, ll{value}, ll{least});
  if (value > kMaxSize) return fail(error, MHA_ERR_OVERFLOW, "%s is %lld: must be at most 2^62", name, ll{value});
  return MHA_OK;
}

mha_status validate_attention(const mha_attention_args* args, Check check, AttentionProblem* problem,
                              mha_error* error) {
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  const mha_attention_args& a = *args;
  mha_status status = check_sizes({{"batch", a.batch, 0},
                                   {"num_heads", a.num_heads, 0},
                                   {"query_len", a.query_len, 0},
                                   {"key_len", a.key_len, 0},
                                   {"head_dim", a.head_dim, 1},
                                   {"value_head_dim", a.value_head_dim, 0}},
                                  error);
  AttentionProblem p = {};
  if (status == MHA_OK) status = check_heads(a.num_heads, a.num_kv_heads, &p.kv_heads, error);
  if (status == MHA_OK) status = check_scale(a.scale, a.head_dim, &p.scale, error);
  if (status != MHA_OK) return status;
  p.batch = a.batch, p.heads = a.num_heads, p.query_len = a.query_len, p.key_len = a.key_len, p.head_dim = a.head_dim;
  p.value_head_dim = a.value_head_dim != 0 ? a.value_head_dim : a.head_dim;
  p.log_sum_exp = a.log_sum_exp;
  status = check_items({a.query_offsets, a.key_offsets, a.cache, a.sequences}, &p, error);
  if (status == MHA_OK) status = check_products(p, error);
  const int64_t queries = p.query_offsets != nullptr ? least(p.batch, 1) : p.batch;
  const int64_t keyed = p.key_offsets != nullptr ? least(p.batch, 1) : p.batch;
  const Dimensions query = {queries, p.query_len, p.heads, p.head_dim};
  const Dimensions key = {keyed, p.key_len, p.kv_heads, p.head_dim};
  const Dimensions value = {keyed, p.key_len, p.kv_heads, p.value_head_dim};
  const Dimensions output = {queries, p.query_len, p.heads, p.value_head_dim};
  // Where nothing is to be done, no pointer is needed.
  const Check keys = p.nothing_to_do() ? Check::kSizesOnly : check;
  if (status == MHA_OK) status = check_input("query", a.query, query, check, &p.query, error);
  if (status == MHA_OK && p.cache == nullptr) status = check_input("key", a.key, key, keys, &p.key, error);
  if (status == MHA_OK && p.cache == nullptr) status = check_input("value", a.value, value, keys, &p.value, error);
  if (status == MHA_OK) status = check_result("output", a.output, output, Order::kBthd, check, &p.output, error);
  if (status == MHA_OK) status = check_masks(a.masks, keys, &p, error);
  if (status == MHA_OK) status = check_mods(a.mods, keys, &p, error);
  if (status == MHA_OK) status = check_ring(p, error);
  if (status == MHA_OK) status = check_weights(a.weights_mode, a.weight_rows, a.weights, check, &p, error);
  p.copies_queries = true;
  if (status == MHA_OK) status = check_preparation({a.rope, a.norm, a.positions, nullptr}, check, &p, error);
  if (status == MHA_OK) *problem = p;
  return status;
}

mha_status validate_layer_config(const mha_layer_config* config, mha_layer_config* resolved, mha_error* error) {
  if (config == nullptr) return fail(error, MHA_ERR_NULL, "config is NULL");
  mha_layer_config c = *config;
  mha_status status = check_sizes({{"embed_dim", c.embed_dim, 1},
                                   {"num_heads", c.num_heads, 1},
                                   {"head_dim", c.head_dim, 0},
                                   {"value_head_dim", c.value_head_dim, 0},
                                   {"kdim", c.kdim, 0},
                                   {"vdim", c.vdim, 0},
                                   {"out_dim", c.out_dim, 0}},
                                  error);
  if (status == MHA_OK) status = check_heads(c.num_heads, c.num_kv_heads, &c.num_kv_heads, error);
  if (status != MHA_OK) return status;
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
  status = check_scale(c.scale, c.head_dim, &c.scale, error);
  if (status == MHA_OK) *resolved = c;
  return status;
}

namespace {

mha_status add_tail(const mha_forward_args& a, int64_t tail, AttentionProblem* p, mha_error* error) {
  if (tail == 0) return MHA_OK;
  const char* what = nullptr;
  if (p->cache != nullptr) what = "a cache";
  if (p->key_offsets != nullptr) what = "keys of unequal length";
  if (a.mods.softcap != 0.0f) what = "mods.softcap";
  if (a.mods.alibi_slopes != nullptr) what = "mods.alibi_slopes";
  if (a.mods.relative_bias != nullptr) what = "mods.relative_bias";
  if (what != nullptr) {
    return fail(error, MHA_ERR_UNSUPPORTED, "%s: not with a layer that has bias_key or add_zero_attn", what);
  }
  p->tail = tail;
  p->key_len += tail, p->longest_key_len += tail;
  return MHA_OK;
}

}  // namespace

mha_status validate_forward(const mha_layer_config& c, const mha_forward_args* args, Check check, ForwardViews* views,
                            AttentionProblem* problem, mha_error* error) {
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  const mha_forward_args& a = *args;
  mha_status status =
      check_sizes({{"batch", a.batch, 0}, {"query_len", a.query_len, 0}, {"key_len", a.key_len, 0}}, error);
  if (status != MHA_OK) return status;
  AttentionProblem& p = *problem;  // written where it is, since copying it shows in notebook_f32
  const int64_t tail = p.tail;
  p.tail = 0;
  p.batch = a.batch, p.heads = c.num_heads, p.kv_heads = c.num_kv_heads, p.query_len = a.query_len;
  p.key_len = a.key_len, p.head_dim = c.head_dim, p.value_head_dim = c.value_head_dim, p.scale = c.scale;
  p.appends = a.cache != nullptr;
  const bool packed_alike = a.key_offsets == nullptr && a.key.data == nullptr && a.key_len == a.query_len;
  status =
      check_items({a.query_offsets, packed_alike ? a.query_offsets : a.key_offsets, a.cache, a.sequences}, &p, error);
  if (status == MHA_OK) status = check_products(p, error);
  if (status != MHA_OK) return status;
  const struct {
    const char* name;
    const mha_view& view;
  } headless[] = {{"query", a.query}, {"key", a.key}, {"value", a.value}};
  for (const auto& v : headless) {
    if (v.view.stride_h != 0) {
      return fail(error, MHA_ERR_STRIDE, "%s.stride_h is %lld: must be 0, there are no heads here", v.name,
                  ll{v.view.stride_h});
    }
  }
  if (a.output.stride_h != 0) {
    return fail(error, MHA_ERR_STRIDE, "output.stride_h is %lld: must be 0, there are no heads here",
                ll{a.output.stride_h});
  }
  // Without keys an empty tensor's pointer may be null.
  const bool no_keys = p.nothing_to_do() || (p.key_len == 0 && p.cache == nullptr);
  const bool keys_are_query = p.cache != nullptr || (a.key.data == nullptr && check != Check::kSizesOnly && !no_keys);
  const bool values_are_keys = p.cache != nullptr || a.value.data == nullptr;
  if (keys_are_query && p.cache == nullptr && a.key_len != a.query_len) {
    return fail(error, MHA_ERR_SHAPE,
                "key_len is %lld, but key.data is NULL (self-attention): must be query_len (%lld)", ll{a.key_len},
                ll{a.query_len});
  }
  if (keys_are_query && c.kdim != c.embed_dim) {
    return fail(error, MHA_ERR_SHAPE, "key.data is NULL (self-attention), but kdim is %lld and embed_dim %lld",
                ll{c.kdim}, ll{c.embed_dim});
  }
  if (values_are_keys && check != Check::kSizesOnly && !no_keys && c.vdim != c.kdim) {
    return fail(error, MHA_ERR_SHAPE, "value.data is NULL (same as key), but vdim is %lld and kdim %lld", ll{c.vdim},
                ll{c.kdim});
  }
  const mha_view& key = keys_are_query ? a.query : a.key;
  const mha_view& value = values_are_keys ? key : a.value;
  const Check key_check = p.nothing_to_do() ? Check::kSizesOnly : check;
  const int64_t queries = p.query_offsets != nullptr ? least(p.batch, 1) : p.batch;
  const bool keys_packed = p.cache != nullptr ? p.query_offsets != nullptr : p.key_offsets != nullptr;
  const int64_t keyed = keys_packed ? least(p.batch, 1) : p.batch;
  const int64_t key_rows = p.cache != nullptr ? p.query_len : p.key_len;
  status = check_input("query", a.query, {queries, p.query_len, 1, c.embed_dim}, check, &views->query, error);
  if (status == MHA_OK) {
    status = check_input("key", key, {keyed, key_rows, 1, c.kdim}, key_check, &views->key, error);
  }
  if (status == MHA_OK) {
    status = check_input("value", value, {keyed, key_rows, 1, c.vdim}, key_check, &views->value, error);
  }
  if (status == MHA_OK) {
    status = check_result("output", a.output, {queries, p.query_len, 1, c.out_dim}, Order::kBthd, check, &views->output,
                          error);
  }
  if (status == MHA_OK) status = check_masks(a.masks, key_check, &p, error);
  if (status == MHA_OK) status = check_mods(a.mods, key_check, &p, error);
  if (status == MHA_OK) status = check_ring(p, error);
  if (status == MHA_OK && keys_are_query && a.key_positions != nullptr) {
    status = fail(error, MHA_ERR_SHAPE,
                  "key_positions is given, but key.data is NULL (self-attention): positions are those of both");
  }
  if (status == MHA_OK) {
    const int64_t* key_positions = keys_are_query ? a.positions : a.key_positions;
    status = check_preparation({a.rope, a.norm, a.positions, key_positions}, check, &p, error);
  }
  // From here on the keys that the layer adds count as well.
  if (status == MHA_OK) status = add_tail(a, tail, &p, error);
  if (status == MHA_OK) status = check_weights(a.weights_mode, a.weight_rows, a.weights, check, &p, error);
  return status;
}

}  // namespace mha
