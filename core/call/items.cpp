// SPDX-License-Identifier: Apache-2.0
// Lengths, rows and costs of the items of a batch.
#include "core/call/items.h"

#include "core/cache/cache.h"

namespace mha {
namespace {

// Scales and zeros of codes from token `token` of item b on.
void set_codes(const ConstTensor& t, const CodeRows& codes, int64_t b, int64_t token, int64_t kv_head,
               TokenRows* rows) {
  if (!is_code(t.element)) return;
  rows->codes = &codes, rows->code_b = b, rows->code_t = token, rows->code_h = kv_head;
}

TokenRows rows_in_tensor(const AttentionProblem& p, const ConstTensor& t, const CodeRows& codes, int64_t b,
                         int64_t kv_head) {
  TokenRows rows = {};
  const bool packed = p.key_offsets != nullptr;
  const int64_t item = packed ? p.key_offsets[b] * t.stride_t : b * t.stride_b;
  // Without keys the pointer may be null; it is not moved then.
  rows.base = t.data == nullptr ? nullptr : t.data + item + kv_head * t.stride_h;
  rows.stride_t = t.stride_t, rows.stride_h = t.stride_h, rows.element = t.element;
  set_codes(t, codes, packed ? 0 : b, packed ? p.key_offsets[b] : 0, kv_head, &rows);
  return rows;
}

TokenRows rows_in_pages(const AttentionProblem& p, const ConstTensor& t, const CodeRows& codes, int64_t b,
                        int64_t kv_head) {
  TokenRows rows = {};
  rows.base = t.data == nullptr ? nullptr : t.data + kv_head * t.stride_h;
  rows.stride_t = t.stride_t, rows.stride_h = t.stride_h, rows.element = t.element;
  rows.table = p.pages.table + b * p.pages.stride, rows.stride_page = t.stride_b;
  rows.page_size = p.pages.page_size, rows.page_shift = page_shift_of(p.pages.page_size);
  set_codes(t, codes, 0, 0, kv_head, &rows);
  return rows;
}

TokenRows from_head(TokenRows rows, int64_t kv_head) {
  if (rows.base != nullptr) rows.base += kv_head * rows.stride_h;
  rows.offset += kv_head * rows.stride_h;
  rows.code_h = kv_head;
  return rows;
}

}  // namespace

int64_t key_len_of(const AttentionProblem& p, int64_t b) {
  if (p.cache != nullptr) return cache_length(*p.cache, sequence_of(p, b)) + (p.appends ? query_len_of(p, b) : 0);
  if (p.key_offsets != nullptr) return p.key_offsets[b + 1] - p.key_offsets[b];
  return p.key_lengths != nullptr && p.tail == 0 ? p.key_lengths[b] : p.key_len;
}

int64_t shared_tokens_of(const AttentionProblem& p, int64_t a, int64_t b) {
  if (p.cache != nullptr) return shared_tokens(*p.cache, sequence_of(p, a), sequence_of(p, b));
  if (p.pages.table == nullptr) return 0;
  const int32_t *x = p.pages.table + a * p.pages.stride, *y = p.pages.table + b * p.pages.stride;
  const int64_t length = least(key_len_of(p, a), key_len_of(p, b));
  for (int64_t n = 0; n * p.pages.page_size < length; ++n) {
    if (x[n] != y[n]) return n * p.pages.page_size;
  }
  return length;
}

int64_t key_begin_of(const AttentionProblem& p, int64_t b) {
  if (p.key_offsets != nullptr) return p.key_offsets[b];
  if (p.cache == nullptr) return b * (p.key_len - p.tail);
  int64_t begin = 0;
  for (int64_t i = 0; i < b; ++i) begin += key_len_of(p, i);
  return begin;
}

int64_t first_kept_of(const AttentionProblem& p, int64_t b) {
  if (p.cache == nullptr) return 0;
  const int64_t now = cache_first_kept(*p.cache, sequence_of(p, b));
  const int64_t then = p.appends ? first_kept_at(*p.cache, key_len_of(p, b)) : 0;
  return now > then ? now : then;
}

TokenRows keys_of(const AttentionProblem& p, int64_t b, int64_t kv_head) {
  if (p.pages.table != nullptr) return rows_in_pages(p, p.key, p.key_codes, b, kv_head);
  if (p.cache == nullptr) return rows_in_tensor(p, p.key, p.key_codes, b, kv_head);
  return from_head(cache_rows(*p.cache, kKeys, sequence_of(p, b)), kv_head);
}

TokenRows values_of(const AttentionProblem& p, int64_t b, int64_t kv_head) {
  if (p.pages.table != nullptr) return rows_in_pages(p, p.value, p.value_codes, b, kv_head);
  if (p.cache == nullptr) return rows_in_tensor(p, p.value, p.value_codes, b, kv_head);
  return from_head(cache_rows(*p.cache, kValues, sequence_of(p, b)), kv_head);
}

Element key_element_of(const AttentionProblem& p) {
  return p.cache != nullptr ? p.cache->parts[kKeys].element : p.key.element;
}

Element value_element_of(const AttentionProblem& p) {
  return p.cache != nullptr ? p.cache->parts[kValues].element : p.value.element;
}

const CodeRows& key_codes_of(const AttentionProblem& p) {
  return p.cache != nullptr ? p.cache->parts[kKeys].codes : p.key_codes;
}

const CodeRows& value_codes_of(const AttentionProblem& p) {
  return p.cache != nullptr ? p.cache->parts[kValues].codes : p.value_codes;
}

int64_t weight_rows_of(const AttentionProblem& p, int64_t b) {
  return p.weights_rows != nullptr ? p.num_weights_rows : query_len_of(p, b);
}

float* weights_row(const AttentionProblem& p, int64_t b, int64_t h, int64_t r) {
  if (p.weights_mode == MHA_WEIGHTS_AVERAGED) h = 0;
  if (p.weights_mode == MHA_WEIGHTS_KEY_SUMS) r = 0;
  const bool packed = p.query_offsets != nullptr && p.weights_rows == nullptr && p.weights_mode != MHA_WEIGHTS_KEY_SUMS;
  const int64_t item = packed ? p.query_offsets[b] * p.weights.stride_t : b * p.weights.stride_b;
  return reinterpret_cast<float*>(p.weights.data + item + h * p.weights.stride_h + r * p.weights.stride_t);
}

namespace {

// The most keys that a query of item b can see. Only causal masks and windows with sinks are taken into account.
int64_t most_visible_keys(const AttentionProblem& p, int64_t b) {
  const mha_masks& m = p.masks;
  const int64_t keys = key_len_of(p, b);
  const bool open = m.window_left == 0 || m.prefix_lengths != nullptr || (!p.causal && m.window_right == 0);
  if (open) return keys;
  const Size right = p.causal ? Size(0) : Size(m.window_right - 1);
  const Size seen = Size(m.window_left) + right + Size(m.sink_tokens);
  return seen.ok() ? least(keys, seen.value()) : keys;
}

// The keys that at least one query may see: all, unless few queries have a window.
int64_t keys_read(const AttentionProblem& p, int64_t b) {
  return least(most_visible_keys(p, b) + query_len_of(p, b), key_len_of(p, b));
}

}  // namespace

double multiply_adds_of(const AttentionProblem& p, int64_t b) {
  return static_cast<double>(p.heads) * static_cast<double>(query_len_of(p, b)) *
         static_cast<double>(most_visible_keys(p, b)) * static_cast<double>(p.head_dim + p.value_head_dim);
}

int64_t token_bytes_of(const AttentionProblem& p) {
  return row_bytes(key_element_of(p), p.head_dim) + row_bytes(value_element_of(p), p.value_head_dim);
}

double work_of_item(const AttentionProblem& p, int64_t b) {
  if (query_len_of(p, b) == 0) return 0;
  const double bytes =
      static_cast<double>(p.kv_heads) * static_cast<double>(keys_read(p, b)) * static_cast<double>(token_bytes_of(p));
  return work_of(multiply_adds_of(p, b), bytes);
}

double work_of_call(const AttentionProblem& p) {
  if (p.uniform()) return p.batch > 0 ? static_cast<double>(p.batch) * work_of_item(p, 0) : 0;
  double total = 0;
  for (int64_t b = 0; b < p.batch; ++b) total += work_of_item(p, b);
  return total;
}

}  // namespace mha
