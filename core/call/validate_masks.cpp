// SPDX-License-Identifier: Apache-2.0
// Checks of masks.
#include <cfloat>
#include <cmath>

#include "core/call/checks.h"
#include "core/call/items.h"
#include "core/math/denormal.h"

namespace mha {
namespace {

using ll = long long;

struct NamedStride {
  const char* suffix;
  int64_t value;
};

// The strides of a mask whose name is `name`; a mask that is not given must have none.
template <int kCount>
mha_status check_mask_strides(const char* name, const void* data, const NamedStride (&strides)[kCount],
                              mha_error* error) {
  for (const NamedStride& s : strides) {
    if (data == nullptr && s.value != 0) {
      return fail(error, MHA_ERR_ARGUMENT, "%s.stride_%s is %lld, but %s.data is NULL", name, s.suffix, ll{s.value},
                  name);
    }
    if (s.value < MHA_BROADCAST) {
      return fail(error, MHA_ERR_STRIDE, "%s.stride_%s is %lld: must be >= 0 or MHA_BROADCAST", name, s.suffix,
                  ll{s.value});
    }
  }
  return MHA_OK;
}

// Resolves the strides of a mask of single keys, of which one entry each follows the other by default.
template <class Mask>
mha_status check_key_mask(const char* name, const AttentionProblem& p, Mask* m, mha_error* error) {
  MHA_TRY(check_mask_strides(name, m->data,
                             {{"b", m->stride_b}, {"h", m->stride_h}, {"q", m->stride_q}, {"k", m->stride_k}}, error));
  if (m->data == nullptr) return MHA_OK;
  m->stride_b = most(m->stride_b, 0), m->stride_h = most(m->stride_h, 0), m->stride_q = most(m->stride_q, 0);
  m->stride_k = m->stride_k == 0 ? 1 : most(m->stride_k, 0);
  const Size last_key = Size(most(p.longest_key_len, 1) - 1) * Size(m->stride_k) + Size(1);
  if (!last_key.ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "%s.stride_k is %lld: the mask ends beyond 2^63 bytes", name, ll{m->stride_k});
  }
  return check_extent(name, {p.batch, p.longest_query_len, p.heads, last_key.value()},
                      {m->stride_b, m->stride_q, m->stride_h}, error);
}

mha_status check_add_mask(const char* name, Check check, const AttentionProblem& p, mha_add_mask* m, mha_error* error) {
  if (m->reserved != 0) return fail_reserved(name, "reserved", -1, error);
  MHA_TRY(check_dtype(name, m->dtype, error));
  const size_t bytes = static_cast<size_t>(bytes_of(static_cast<Element>(enum_value(m->dtype))));
  if (check != Check::kSizesOnly) MHA_TRY(check_aligned(name, m->data, error, bytes));
  return check_key_mask(name, p, m, error);
}

mha_status check_factors(const mha_masks& m, Check check, const AttentionProblem& p, mha_error* error) {
  if (m.add_mask_factors == nullptr) return MHA_OK;
  if (m.add_mask.data == nullptr) {
    return fail(error, MHA_ERR_ARGUMENT, "masks.add_mask_factors is given, but masks.add_mask.data is NULL");
  }
  for (int64_t h = 0; h < p.heads && check != Check::kSizesOnly; ++h) {
    const float factor = m.add_mask_factors[h];
    if (std::isfinite(factor) && factor >= FLT_MIN) continue;
    return fail(error, MHA_ERR_ARGUMENT, "masks.add_mask_factors[%lld] is %g: must be finite, > 0 and no denormal",
                ll{h}, exact_value(factor));
  }
  return MHA_OK;
}

mha_status check_bit_mask(const AttentionProblem& p, mha_bit_mask* m, mha_error* error) {
  MHA_TRY(check_mask_strides("masks.bit_mask", m->data, {{"b", m->stride_b}, {"h", m->stride_h}, {"q", m->stride_q}},
                             error));
  if (m->data == nullptr) return MHA_OK;
  m->stride_b = most(m->stride_b, 0), m->stride_h = most(m->stride_h, 0), m->stride_q = most(m->stride_q, 0);
  return check_extent("masks.bit_mask",
                      {p.batch, p.longest_query_len, p.heads, divide_up(most(p.longest_key_len, 1), 8)},
                      {m->stride_b, m->stride_q, m->stride_h}, error);
}

// Pairs [begin, end) of a list ascend and are distinct.
mha_status check_pairs(const int64_t* pairs, int64_t begin, int64_t end, mha_error* error) {
  for (int64_t n = begin; n < end; ++n) {
    const int64_t query = pairs[2 * n], key = pairs[2 * n + 1];
    if (query < 0 || key < 0) {
      return fail(error, MHA_ERR_ARGUMENT, "masks.block_mask.pairs[%lld] is (%lld, %lld): must be >= 0", ll{n},
                  ll{query}, ll{key});
    }
    if (n == begin) continue;
    const int64_t query_before = pairs[2 * n - 2], key_before = pairs[2 * n - 1];
    if (query > query_before || (query == query_before && key > key_before)) continue;
    return fail(error, MHA_ERR_ARGUMENT,
                "masks.block_mask.pairs[%lld] is (%lld, %lld) after (%lld, %lld): must ascend and be distinct", ll{n},
                ll{query}, ll{key}, ll{query_before}, ll{key_before});
  }
  return MHA_OK;
}

mha_status check_block_mask(const mha_block_mask& m, Check check, const AttentionProblem& p, mha_error* error) {
  if (m.pairs == nullptr) {
    if (m.query_block == 0 && m.key_block == 0 && m.num_pairs == 0 && m.pair_offsets == nullptr) return MHA_OK;
    return fail(error, MHA_ERR_ARGUMENT,
                "masks.block_mask.query_block, key_block, num_pairs or pair_offsets is given, but pairs is NULL");
  }
  MHA_TRY(check_sizes({{"masks.block_mask.query_block", m.query_block, 1},
                       {"masks.block_mask.key_block", m.key_block, 1},
                       {"masks.block_mask.num_pairs", m.num_pairs, 0}},
                      error));
  if (check == Check::kSizesOnly) return MHA_OK;
  if (m.pair_offsets == nullptr) return check_pairs(m.pairs, 0, m.num_pairs, error);
  const int64_t lists = p.batch * p.heads;
  MHA_TRY(check_offsets("masks.block_mask.pair_offsets", m.pair_offsets, lists, "num_pairs", m.num_pairs, error));
  for (int64_t n = 0; n < lists; ++n) MHA_TRY(check_pairs(m.pairs, m.pair_offsets[n], m.pair_offsets[n + 1], error));
  return MHA_OK;
}

// Masks that are ranges of keys, or lists of them.
mha_status check_ranges(const mha_masks& m, Check check, const AttentionProblem& p, mha_error* error) {
  MHA_TRY(check_sizes({{"masks.window_left", m.window_left, 0},
                       {"masks.window_right", m.window_right, 0},
                       {"masks.sink_tokens", m.sink_tokens, 0}},
                      error));
  for (int64_t b = 0; b < p.batch && m.prefix_lengths != nullptr && check != Check::kSizesOnly; ++b) {
    const int64_t length = m.prefix_lengths[b];
    if (length >= 0 && length <= kMaxSize) continue;
    return fail(error, MHA_ERR_ARGUMENT, "masks.prefix_lengths[%lld] is %lld: must be 0 to 2^62", ll{b}, ll{length});
  }
  if ((m.query_segments == nullptr) != (m.key_segments == nullptr)) {
    const bool query = m.query_segments != nullptr;
    return fail(error, MHA_ERR_SHAPE, "masks.%s_segments is given, but masks.%s_segments is NULL: give both or none",
                query ? "query" : "key", query ? "key" : "query");
  }
  return check_block_mask(m.block_mask, check, p, error);
}

}  // namespace

mha_status check_masks(const mha_masks& given, Check check, AttentionProblem* p, mha_error* error) {
  p->masks = given;
  mha_masks& m = p->masks;
  MHA_TRY(check_ranges(m, check, *p, error));
  MHA_TRY(check_key_mask("masks.bool_mask", *p, &m.bool_mask, error));
  MHA_TRY(check_add_mask("masks.add_mask", check, *p, &m.add_mask, error));
  MHA_TRY(check_add_mask("masks.add_mask2", check, *p, &m.add_mask2, error));
  MHA_TRY(check_factors(m, check, *p, error));
  return check_bit_mask(*p, &m.bit_mask, error);
}

}  // namespace mha
