// SPDX-License-Identifier: Apache-2.0
// Checks of masks and score modifications.
#include <cmath>

#include "core/checks.h"
#include "core/denormal.h"
#include "core/items.h"

namespace mha {
namespace {

using ll = long long;

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

}  // namespace

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
  if (is_denormal(m.softcap)) {
    return fail(error, MHA_ERR_ARGUMENT, "mods.softcap is %g: a denormal would count as 0, no cap",
                exact_value(m.softcap));
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

}  // namespace mha
