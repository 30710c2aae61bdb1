// SPDX-License-Identifier: Apache-2.0
#include "core/call/rows.h"

#include "core/base/search.h"
#include "core/call/items.h"
#include "core/call/score_mods.h"

namespace mha {
namespace {

// One past the last key that a query at `position` can see, as far as causality, window, prefix and length go.
int64_t key_end(const AttentionProblem& p, int64_t b, int64_t position) {
  const mha_masks& m = p.masks;
  const int64_t length = masked_len_of(p, b);
  int64_t end = length;
  if (p.causal) end = least(end, position + 1);
  if (m.window_right > 0 && position < length - m.window_right) end = least(end, position + m.window_right);
  if (m.prefix_lengths != nullptr) end = most(end, least(length, m.prefix_lengths[b]));
  return most(end, 0);
}

struct Pairs {
  const int64_t* first;
  int64_t count;
};

// The first of the pairs whose query block is not before `block`.
int64_t first_pair(const Pairs& list, int64_t block) {
  return partition_point(0, list.count, [&](int64_t n) { return list.first[2 * n] < block; });
}

// The pairs of query i of head h of item b.
Pairs pairs_of(const AttentionProblem& p, int64_t b, int64_t h, int64_t i) {
  const mha_block_mask& mask = p.masks.block_mask;
  Pairs list = {mask.pairs, mask.num_pairs};
  if (mask.pair_offsets != nullptr) {
    const int64_t* offsets = mask.pair_offsets + b * p.heads + h;
    list = {mask.pairs + 2 * offsets[0], offsets[1] - offsets[0]};
  }
  const int64_t block = i / mask.query_block, first = first_pair(list, block);
  return {list.first + 2 * first, first_pair(list, block + 1) - first};
}

Element element_of(const mha_add_mask& m) { return static_cast<Element>(m.dtype); }

const char* add_mask_row(const mha_add_mask& m, int64_t b, int64_t h, int64_t i) {
  if (m.data == nullptr) return nullptr;
  const int64_t entry = b * m.stride_b + h * m.stride_h + i * m.stride_q;
  return static_cast<const char*>(m.data) + entry * bytes_of(element_of(m));
}

void fill_extras(const AttentionProblem& p, int64_t b, int64_t h, int64_t i, RowExtras* extras) {
  const mha_masks& m = p.masks;
  *extras = {};
  extras->mods.position = position_of(p, b, i);
  extras->add_mask2 = add_mask_row(m.add_mask2, b, h, i);
  extras->bool_step = m.bool_mask.stride_k;
  extras->add_factor = m.add_mask_factors != nullptr ? m.add_mask_factors[h] : 1.0f;
  extras->add_step = m.add_mask.stride_k, extras->add2_step = m.add_mask2.stride_k;
  extras->add_element = element_of(m.add_mask), extras->add2_element = element_of(m.add_mask2);
  if (m.bit_mask.data != nullptr) {
    extras->bit_mask = m.bit_mask.data + b * m.bit_mask.stride_b + h * m.bit_mask.stride_h + i * m.bit_mask.stride_q;
  }
  if (m.key_segments != nullptr) {
    extras->key_segments = m.key_segments + key_begin_of(p, b);
    extras->segment = m.query_segments[query_begin_of(p, b) + i];
  }
  if (m.block_mask.pairs != nullptr) {
    const Pairs pairs = pairs_of(p, b, h, i);
    extras->blocks = pairs.first, extras->num_blocks = pairs.count, extras->key_block = m.block_mask.key_block;
  }
  fill_row_mods(p, h, &extras->mods);
}

// Masks apply to the keys before the last `tail`; the row always sees those last keys.
void add_tail(int64_t key_len, int64_t tail, AttentionRow* row, RowExtras* extras) {
  row->gap_begin = row->key_end;
  row->tail_begin = key_len - tail;
  row->key_end = key_len;
  if (row->tail_begin > 0) return;
  row->bool_mask = nullptr, row->add_mask = nullptr;  // masks of no keys
  if (extras == nullptr) return;
  extras->bit_mask = nullptr, extras->key_segments = nullptr, extras->key_block = 0, extras->add_mask2 = nullptr;
}

}  // namespace

AttentionRow make_row(const AttentionProblem& p, int64_t b, int64_t h, int64_t i, RowExtras* extras) {
  const mha_masks& m = p.masks;
  AttentionRow row = {};
  row.query = query_row(p, p.ready_query, b, h, i);
  const mha_bool_mask& bm = m.bool_mask;
  if (bm.data != nullptr) row.bool_mask = bm.data + b * bm.stride_b + h * bm.stride_h + i * bm.stride_q;
  row.add_mask = add_mask_row(m.add_mask, b, h, i);
  const int64_t position = position_of(p, b, i);
  row.key_end = key_end(p, b, position);
  if (extras != nullptr) {
    fill_extras(p, b, h, i, extras);
    row.extras = extras;
  }
  if (m.window_left > 0 && position >= m.window_left) {
    row.key_begin = least(position - m.window_left + 1, row.key_end);
    const int64_t pinned = least(m.sink_tokens, row.key_end);
    if (pinned >= row.key_begin) {
      row.key_begin = 0;
    } else if (pinned > 0) {
      extras->pinned_end = pinned;
    } else if (row.key_begin == row.key_end) {
      row.key_begin = row.key_end = 0;
    }
  }
  if (p.tail > 0) add_tail(key_len_of(p, b), p.tail, &row, extras);
  return row;
}

bool rows_are_alike(const AttentionProblem& p) {
  const mha_masks& m = p.masks;
  return !p.has_extras() && p.tail == 0 && m.bool_mask.data == nullptr && m.add_mask.data == nullptr &&
         m.prefix_lengths == nullptr && m.window_left == 0 && m.window_right == 0;
}

KeyRange seen_keys(const AttentionRow& row) {
  if (row.key_end == 0) return {INT64_MAX, 0};
  const bool pinned = row.extras != nullptr && row.extras->pinned_end > 0;
  return {pinned ? 0 : row.key_begin, row.key_end};
}

}  // namespace mha
