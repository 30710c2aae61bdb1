// SPDX-License-Identifier: Apache-2.0
// A call after validation: defaults filled in, every size and stride known to be sound. What plan and run work on.
#pragma once

#include "core/mha.h"
#include "core/status.h"

namespace mha {

// What a byte read from beyond a core's own caches costs, in multiply-adds: some 30 GB/s a core beside 100 billion
// multiply-adds a second, and half of that, since what is small may well be in a cache.
constexpr double kMultiplyAddsPerByte = 1.5;

inline double work_of(double multiply_adds, double bytes) {
  const double reading = bytes * kMultiplyAddsPerByte;
  return multiply_adds > reading ? multiply_adds : reading;
}

struct ConstTensor {
  const float* data;
  int64_t stride_b, stride_t, stride_h;
};

struct Tensor {
  float* data;
  int64_t stride_b, stride_t, stride_h;
};

struct AttentionProblem {
  int64_t batch, heads, kv_heads, query_len, key_len, head_dim, value_head_dim;
  float scale;
  ConstTensor query, key, value;
  mha_masks masks;
  mha_score_mods mods;
  Tensor output;
  mha_weights_mode weights_mode;
  Tensor weights;  // stride_t steps queries; keys are dense
  float* log_sum_exp;

  bool changes_scores() const {
    return mods.softcap > 0.0f || mods.alibi_slopes != nullptr || mods.relative_bias != nullptr;
  }
  // What a row of kernels carries beside its ranges and masks (RowExtras).
  bool has_extras() const {
    return changes_scores() || mods.sink_logits != nullptr || masks.bit_mask.data != nullptr ||
           masks.block_mask.pairs != nullptr || masks.key_segments != nullptr ||
           (masks.window_left > 0 && masks.sink_tokens > 0);
  }
  // Keys that a query sees at most, as far as a window limits them.
  int64_t most_visible_keys() const {
    const bool open = masks.window_left == 0 || masks.prefix_lengths != nullptr ||
                      (masks.causal == MHA_CAUSAL_NONE && masks.window_right == 0);
    if (open || masks.window_left > key_len) return key_len;
    const int64_t right = masks.causal == MHA_CAUSAL_NONE ? masks.window_right - 1 : 0;
    if (right > key_len || masks.sink_tokens > key_len) return key_len;
    const int64_t keys = masks.window_left + right + masks.sink_tokens;
    return keys < key_len ? keys : key_len;
  }

  int64_t group() const { return heads / kv_heads; }
  // Rows of one (batch, key/value head): the queries of the heads that share it, head by head.
  int64_t group_rows() const { return group() * query_len; }
  double multiply_adds() const {
    return static_cast<double>(batch) * static_cast<double>(heads) * static_cast<double>(query_len) *
           static_cast<double>(most_visible_keys()) * static_cast<double>(head_dim + value_head_dim);
  }
  // What a call costs, in multiply-adds: computing, or reading keys and values.
  double work() const {
    return work_of(multiply_adds(), static_cast<double>(batch) * static_cast<double>(kv_heads) *
                                        static_cast<double>(least_keys_read()) *
                                        static_cast<double>(head_dim + value_head_dim) * sizeof(float));
  }
  // Keys that some query may see: all, but where few queries have a window.
  int64_t least_keys_read() const {
    const int64_t keys = most_visible_keys();
    return keys < key_len - query_len ? keys + query_len : key_len;
  }
  bool nothing_to_do() const { return batch == 0 || heads == 0 || query_len == 0; }
};

// Lengths of item b.
inline int64_t query_len_of(const AttentionProblem& p, int64_t) { return p.query_len; }
inline int64_t key_len_of(const AttentionProblem& p, int64_t) { return p.key_len; }

// `batch` blocks of `rows` rows: inputs and outputs whose items do not follow each other at the stride of the rows.
struct LinearProblem {
  const float* input;
  int64_t input_stride, input_stride_b;
  const float* panels;  // [ceil(out / 16)][in][16]
  const float* bias;    // [ceil(out / 16) * 16] or null
  float* output;
  int64_t output_stride, output_stride_b;
  int64_t batch, rows, in_features, out_features;

  double multiply_adds() const {
    return static_cast<double>(batch) * static_cast<double>(rows) * static_cast<double>(in_features) *
           static_cast<double>(out_features);
  }
  // The same with the reading of the weights.
  double work() const {
    return work_of(multiply_adds(),
                   static_cast<double>(in_features) * static_cast<double>(out_features) * sizeof(float));
  }
};

}  // namespace mha
