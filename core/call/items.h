// SPDX-License-Identifier: Apache-2.0
// The items of a batch: how long each is and where its rows are, whether items follow each other at a stride, are
// packed one after the other, or have their keys in a cache.
#pragma once

#include "core/call/problem.h"
#include "core/kernels/kernel_table.h"

namespace mha {

// The sequence of the cache that item b reads.
inline int64_t sequence_of(const AttentionProblem& p, int64_t b) { return p.sequences != nullptr ? p.sequences[b] : b; }

// The first query of item b, counted over all items.
inline int64_t query_begin_of(const AttentionProblem& p, int64_t b) {
  return p.query_offsets != nullptr ? p.query_offsets[b] : b * p.query_len;
}
inline int64_t query_len_of(const AttentionProblem& p, int64_t b) {
  return p.query_offsets != nullptr ? p.query_offsets[b + 1] - p.query_offsets[b] : p.query_len;
}
// Keys of item b, those that the layer adds included.
int64_t key_len_of(const AttentionProblem& p, int64_t b);
// Keys of item b that masks and positions count: without those that the layer adds.
inline int64_t masked_len_of(const AttentionProblem& p, int64_t b) {
  return p.key_lengths != nullptr ? p.key_lengths[b] : key_len_of(p, b) - p.tail;
}
// The first token that a ring keeps for item b besides its sink tokens; 0 elsewhere.
int64_t first_kept_of(const AttentionProblem& p, int64_t b);

// Where query i of item b stands among the keys: p(i) of mha_positions.
inline int64_t position_of(const AttentionProblem& p, int64_t b, int64_t i) {
  const Alignment& a = p.alignment;
  switch (a.align) {
    case MHA_ALIGN_START:
      return i;
    case MHA_ALIGN_OFFSET:
      return i + (a.offsets != nullptr ? a.offsets[b] : a.offset);
    default:
      return i + masked_len_of(p, b) - query_len_of(p, b);
  }
}

// Rows of one (item, key/value head): the queries of the heads that share it, head by head.
inline int64_t group_rows_of(const AttentionProblem& p, int64_t b) { return p.group() * query_len_of(p, b); }

// Where token i of head h of item b is.
template <class AnyTensor>
auto* query_row(const AttentionProblem& p, const AnyTensor& t, int64_t b, int64_t h, int64_t i) {
  const int64_t item = p.query_offsets != nullptr ? p.query_offsets[b] * t.stride_t : b * t.stride_b;
  return t.data + item + h * t.stride_h + i * t.stride_t;
}

// The first key of item b, counted over all items, as the caller gave them.
int64_t key_begin_of(const AttentionProblem& p, int64_t b);

// How many leading tokens two items of the batch have in the same memory.
int64_t shared_tokens_of(const AttentionProblem& p, int64_t a, int64_t b);

// Keys and values of item b from key/value head `kv_head` on.
TokenRows keys_of(const AttentionProblem& p, int64_t b, int64_t kv_head);
TokenRows values_of(const AttentionProblem& p, int64_t b, int64_t kv_head);
Element key_element_of(const AttentionProblem& p);
// Where they are codes.
const CodeRows& key_codes_of(const AttentionProblem& p);
const CodeRows& value_codes_of(const AttentionProblem& p);
Element value_element_of(const AttentionProblem& p);
// Bytes of a token's key and value of one head.
int64_t token_bytes_of(const AttentionProblem& p);

// How many queries of item b get attention weights returned; the query of row r of them, and where row r is written.
int64_t weight_rows_of(const AttentionProblem& p, int64_t b);
inline int64_t weight_query(const AttentionProblem& p, int64_t r) {
  return p.weights_rows != nullptr ? p.weights_rows[r] : r;
}
float* weights_row(const AttentionProblem& p, int64_t b, int64_t h, int64_t r);
// Whether the attention pass itself writes the attention weights; otherwise a second pass does.
inline bool keeps_weights(const AttentionProblem& p) {
  return p.weights_mode == MHA_WEIGHTS_PER_HEAD && p.weights_rows == nullptr;
}

double multiply_adds_of(const AttentionProblem& p, int64_t b);
// The cost of an item and of a call in multiply-adds: computing, or reading keys and values if that takes longer.
double work_of_item(const AttentionProblem& p, int64_t b);
double work_of_call(const AttentionProblem& p);

}  // namespace mha
