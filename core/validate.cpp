// SPDX-License-Identifier: Apache-2.0
// Argument checks. Messages name the argument as the caller wrote it and its value.
#include "core/validate.h"

#include <cmath>
#include <cstring>

#include "core/items.h"
#include "core/plan.h"
#include "core/prepare.h"

namespace mha {
namespace {

constexpr int64_t kMaxSize = int64_t{1} << 62;
constexpr int64_t kMaxBytes = INT64_MAX / static_cast<int64_t>(sizeof(float));

using ll = long long;

struct Dimensions {
  int64_t b, t, h, d;
};

// What a view must satisfy, and its strides with the default filled in.
struct Strides {
  int64_t b, t, h;
};

enum class Order { kBthd, kBhtd };

mha_status check_extent(const char* name, const Dimensions& n, const Strides& s, mha_error* error) {
  if (n.b == 0 || n.t == 0 || n.h == 0 || n.d == 0) return MHA_OK;
  const Size last = Size(n.b - 1) * Size(s.b) + Size(n.t - 1) * Size(s.t) + Size(n.h - 1) * Size(s.h) + Size(n.d);
  if (last.ok() && last.value() <= kMaxBytes) return MHA_OK;
  return fail(error, MHA_ERR_OVERFLOW,
              "%s of %lld x %lld x %lld x %lld with strides %lld, %lld, %lld ends beyond 2^63 bytes", name, ll{n.b},
              ll{n.t}, ll{n.h}, ll{n.d}, ll{s.b}, ll{s.t}, ll{s.h});
}

// Distinct elements of a result must lie apart: from the innermost dimension on, each stride passes what is below it.
bool overlaps(const Dimensions& n, const Strides& s) {
  int64_t sizes[3] = {n.b, n.t, n.h}, strides[3] = {s.b, s.t, s.h};
  int64_t below = n.d;
  for (int done = 0; done < 3; ++done) {
    int least = -1;
    for (int i = 0; i < 3; ++i) {
      if (sizes[i] > 1 && (least < 0 || strides[i] < strides[least])) least = i;
    }
    if (least < 0) return false;
    if (strides[least] < below) return true;
    below += strides[least] * (sizes[least] - 1);
    sizes[least] = 1;
  }
  return false;
}

mha_status resolve_strides(const char* name, const Dimensions& n, Order order, int64_t stride_b, int64_t stride_t,
                           int64_t stride_h, int64_t stride_d, Strides* out, mha_error* error) {
  const struct {
    const char* suffix;
    int64_t value;
  } given[] = {{"b", stride_b}, {"t", stride_t}, {"h", stride_h}};
  if (stride_d == 0) {
    for (const auto& s : given) {
      if (s.value != 0) {
        return fail(error, MHA_ERR_STRIDE, "%s.stride_%s is %lld, but %s.stride_d is 0 (dense): give all or none", name,
                    s.suffix, ll{s.value}, name);
      }
    }
    const Size inner = order == Order::kBthd ? Size(n.h) * Size(n.d) : Size(n.t) * Size(n.d);
    const Size batch = Size(n.t) * Size(n.h) * Size(n.d);
    if (!batch.ok() || !inner.ok()) {
      return fail(error, MHA_ERR_OVERFLOW, "%s of %lld x %lld x %lld x %lld has more than 2^63 elements", name, ll{n.b},
                  ll{n.t}, ll{n.h}, ll{n.d});
    }
    *out =
        order == Order::kBthd ? Strides{batch.value(), inner.value(), n.d} : Strides{batch.value(), n.d, inner.value()};
  } else if (stride_d != 1) {
    return fail(error, MHA_ERR_STRIDE, "%s.stride_d is %lld: the last dimension must be dense (1)", name, ll{stride_d});
  } else {
    for (const auto& s : given) {
      if (s.value < 0) {
        return fail(error, MHA_ERR_STRIDE, "%s.stride_%s is %lld: must be >= 0", name, s.suffix, ll{s.value});
      }
    }
    *out = Strides{stride_b, stride_t, stride_h};
  }
  return check_extent(name, n, *out, error);
}

mha_status check_input(const char* name, const mha_view& v, const Dimensions& n, Check check, ConstTensor* out,
                       mha_error* error) {
  Strides s = {};
  const mha_status status =
      resolve_strides(name, n, Order::kBthd, v.stride_b, v.stride_t, v.stride_h, v.stride_d, &s, error);
  if (status != MHA_OK) return status;
  const bool empty = n.b == 0 || n.t == 0 || n.h == 0;
  if (check != Check::kSizesOnly && v.data == nullptr && !empty)
    return fail(error, MHA_ERR_NULL, "%s.data is NULL", name);
  *out = {v.data, s.b, s.t, s.h};
  return MHA_OK;
}

mha_status check_result(const char* name, const mha_mut_view& v, const Dimensions& n, Order order, Check check,
                        Tensor* out, mha_error* error) {
  Strides s = {};
  const mha_status status = resolve_strides(name, n, order, v.stride_b, v.stride_t, v.stride_h, v.stride_d, &s, error);
  if (status != MHA_OK) return status;
  const bool empty = n.b == 0 || n.t == 0 || n.h == 0 || n.d == 0;
  if (!empty && overlaps(n, s)) {
    return fail(error, MHA_ERR_STRIDE, "%s.stride_b, _t, _h are %lld, %lld, %lld: elements of the result overlap", name,
                ll{s.b}, ll{s.t}, ll{s.h});
  }
  if (check == Check::kAll && v.data == nullptr && !empty) return fail(error, MHA_ERR_NULL, "%s.data is NULL", name);
  *out = {v.data, s.b, s.t, s.h};
  return MHA_OK;
}

mha_status check_mask_strides(const char* name, int64_t stride_b, int64_t stride_h, int64_t stride_q,
                              const AttentionProblem& p, mha_error* error) {
  const struct {
    const char* suffix;
    int64_t value;
  } given[] = {{"b", stride_b}, {"h", stride_h}, {"q", stride_q}};
  for (const auto& s : given) {
    if (s.value < 0) {
      return fail(error, MHA_ERR_STRIDE, "masks.%s.stride_%s is %lld: must be >= 0", name, s.suffix, ll{s.value});
    }
  }
  return check_extent(name, {p.batch, p.longest_query_len, p.heads, p.longest_key_len}, {stride_b, stride_q, stride_h},
                      error);
}

struct NamedSize {
  const char* name;
  int64_t value, least;
};

template <int kCount>
mha_status check_sizes(const NamedSize (&sizes)[kCount], mha_error* error) {
  for (const NamedSize& s : sizes) {
    const mha_status status = check_size(s.name, s.value, s.least, error);
    if (status != MHA_OK) return status;
  }
  return MHA_OK;
}

// The length of item b, from 0 on.
mha_status check_length(const char* name, int64_t b, int64_t length, int64_t most, const char* most_name,
                        mha_error* error) {
  if (length >= 0 && length <= most) return MHA_OK;
  return fail(error, MHA_ERR_ARGUMENT, "masks.%s[%lld] is %lld: must be 0 to %s (%lld)", name, ll{b}, ll{length},
              most_name, ll{most});
}

mha_status check_block_mask(const mha_block_mask& m, Check check, mha_error* error) {
  if (m.pairs == nullptr) return MHA_OK;
  mha_status status = check_sizes({{"masks.block_mask.query_block", m.query_block, 1},
                                   {"masks.block_mask.key_block", m.key_block, 1},
                                   {"masks.block_mask.num_pairs", m.num_pairs, 0}},
                                  error);
  if (status != MHA_OK || check == Check::kSizesOnly) return status;
  for (int64_t n = 0; n < m.num_pairs; ++n) {
    const int64_t query = m.pairs[2 * n], key = m.pairs[2 * n + 1];
    if (query < 0 || key < 0) {
      return fail(error, MHA_ERR_ARGUMENT, "masks.block_mask.pairs[%lld] is (%lld, %lld): must be >= 0", ll{n},
                  ll{query}, ll{key});
    }
    if (n == 0) continue;
    const int64_t query_before = m.pairs[2 * n - 2], key_before = m.pairs[2 * n - 1];
    if (query > query_before || (query == query_before && key > key_before)) continue;
    return fail(error, MHA_ERR_ARGUMENT,
                "masks.block_mask.pairs[%lld] is (%lld, %lld) after (%lld, %lld): must ascend and be distinct", ll{n},
                ll{query}, ll{key}, ll{query_before}, ll{key_before});
  }
  return MHA_OK;
}

// Masks that are ranges of keys, or lists of them.
mha_status check_ranges(const mha_masks& m, Check check, const AttentionProblem& p, mha_error* error) {
  mha_status status = check_sizes({{"masks.window_left", m.window_left, 0},
                                   {"masks.window_right", m.window_right, 0},
                                   {"masks.sink_tokens", m.sink_tokens, 0}},
                                  error);
  if (status == MHA_OK && check != Check::kSizesOnly) {
    for (int64_t b = 0; b < p.batch && status == MHA_OK; ++b) {
      if (m.key_lengths != nullptr) {
        status = check_length("key_lengths", b, m.key_lengths[b], key_len_of(p, b), "key_len", error);
      }
      if (m.prefix_lengths != nullptr && status == MHA_OK) {
        status = check_length("prefix_lengths", b, m.prefix_lengths[b], kMaxSize, "2^62", error);
      }
    }
  }
  if (status == MHA_OK && (m.query_segments == nullptr) != (m.key_segments == nullptr)) {
    const bool query = m.query_segments != nullptr;
    return fail(error, MHA_ERR_SHAPE, "masks.%s_segments is given, but masks.%s_segments is NULL: give both or none",
                query ? "query" : "key", query ? "key" : "query");
  }
  return status == MHA_OK ? check_block_mask(m.block_mask, check, error) : status;
}

mha_status check_masks(const mha_masks& m, Check check, AttentionProblem* p, mha_error* error) {
  const int causal = enum_value(m.causal);
  if (causal < MHA_CAUSAL_NONE || causal > MHA_CAUSAL_OFFSET) {
    return fail(error, MHA_ERR_ARGUMENT, "masks.causal is %d: not a value of mha_causal", causal);
  }
  if (m.causal_offset > kMaxSize || m.causal_offset < -kMaxSize) {
    return fail(error, MHA_ERR_OVERFLOW, "masks.causal_offset is %lld: must be within 2^62", ll{m.causal_offset});
  }
  mha_status status = check_ranges(m, check, *p, error);
  const mha_bool_mask& bm = m.bool_mask;
  if (status == MHA_OK && bm.data != nullptr) {
    status = check_mask_strides("bool_mask", bm.stride_b, bm.stride_h, bm.stride_q, *p, error);
  }
  const mha_add_mask& am = m.add_mask;
  if (status == MHA_OK && am.data != nullptr) {
    status = check_mask_strides("add_mask", am.stride_b, am.stride_h, am.stride_q, *p, error);
  }
  const mha_bit_mask& im = m.bit_mask;
  if (status == MHA_OK && im.data != nullptr) {
    status = check_mask_strides("bit_mask", im.stride_b, im.stride_h, im.stride_q, *p, error);
  }
  p->masks = m;
  return status;
}

mha_status check_mods(const mha_score_mods& m, Check check, AttentionProblem* p, mha_error* error) {
  if (!std::isfinite(m.softcap) || m.softcap < 0.0f) {
    return fail(error, MHA_ERR_ARGUMENT, "mods.softcap is %g: must be finite and >= 0", static_cast<double>(m.softcap));
  }
  if (m.alibi_slopes != nullptr && check != Check::kSizesOnly) {
    for (int64_t h = 0; h < p->heads; ++h) {
      if (std::isfinite(m.alibi_slopes[h])) continue;
      return fail(error, MHA_ERR_ARGUMENT, "mods.alibi_slopes[%lld] is %g: must be finite", ll{h},
                  static_cast<double>(m.alibi_slopes[h]));
    }
  }
  if (m.relative_bias != nullptr) {
    const mha_status status =
        check_sizes({{"mods.relative_left", m.relative_left, 0}, {"mods.relative_right", m.relative_right, 0}}, error);
    if (status != MHA_OK) return status;
    const Size entries = Size(p->heads) * (Size(m.relative_left) + Size(m.relative_right) + Size(1));
    if (!entries.ok() || entries.value() > kMaxBytes) {
      return fail(error, MHA_ERR_OVERFLOW,
                  "mods.relative_left %lld and relative_right %lld: relative_bias of %lld heads ends beyond 2^63 bytes",
                  ll{m.relative_left}, ll{m.relative_right}, ll{p->heads});
    }
  }
  p->mods = m;
  return MHA_OK;
}

mha_status check_scale(float scale, int64_t head_dim, float* out, mha_error* error) {
  if (!std::isfinite(scale))
    return fail(error, MHA_ERR_ARGUMENT, "scale is %g: must be finite", static_cast<double>(scale));
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

mha_status check_view(const char* name, const mha_view& view, const ViewSizes& n, ConstTensor* out, mha_error* error) {
  return check_input(name, view, {n.b, n.t, n.h, n.d}, Check::kAll, out, error);
}

mha_status check_view(const char* name, const mha_mut_view& view, const ViewSizes& n, Tensor* out, mha_error* error) {
  return check_result(name, view, {n.b, n.t, n.h, n.d}, Order::kBthd, Check::kAll, out, error);
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
  AttentionProblem p = {};
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
  if (status == MHA_OK) status = add_tail(a, problem->tail, &p, error);
  if (status == MHA_OK) status = check_weights(a.weights_mode, a.weight_rows, a.weights, check, &p, error);
  if (status == MHA_OK) *problem = p;
  return status;
}

}  // namespace mha
