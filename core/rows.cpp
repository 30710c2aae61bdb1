// SPDX-License-Identifier: Apache-2.0
#include "core/rows.h"

#include "core/items.h"

namespace mha {
namespace {

// One past the last key that query i of batch item b can see, as far as causality and length go.
int64_t key_end(const AttentionProblem& p, int64_t b, int64_t i) {
  const int64_t key_len = key_len_of(p, b);
  const int64_t length = p.masks.key_lengths != nullptr ? p.masks.key_lengths[b] : key_len;
  if (p.masks.causal == MHA_CAUSAL_NONE) return length;
  const int64_t offset =
      p.masks.causal == MHA_CAUSAL_BOTTOM_RIGHT ? key_len - query_len_of(p, b) : p.masks.causal_offset;
  const int64_t end = i + offset + 1;
  return end < 0 ? 0 : (end < length ? end : length);
}

}  // namespace

AttentionRow make_row(const AttentionProblem& p, int64_t b, int64_t h, int64_t i) {
  AttentionRow row = {};
  row.query = query_row(p, p.query, b, h, i);
  const mha_bool_mask& bm = p.masks.bool_mask;
  const mha_add_mask& am = p.masks.add_mask;
  if (bm.data != nullptr) row.bool_mask = bm.data + b * bm.stride_b + h * bm.stride_h + i * bm.stride_q;
  if (am.data != nullptr) row.add_mask = am.data + b * am.stride_b + h * am.stride_h + i * am.stride_q;
  row.key_end = key_end(p, b, i);
  return row;
}

}  // namespace mha
