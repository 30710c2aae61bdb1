// SPDX-License-Identifier: Apache-2.0
// The layer behind the public handle: configuration and packed weights, in memory of its own or mapped from a blob; and
// the arguments of its creation.
#pragma once

#include "core/call/weight_source.h"

namespace mha {

enum Projection { kQuery = 0, kKey = 1, kValue = 2, kOutput = 3, kProjections = 4 };

struct ProjectionSize {
  int64_t in_features, out_features;
};

inline ProjectionSize projection_size(const mha_layer_config& c, int projection) {
  switch (projection) {
    case kQuery:
      return {c.embed_dim, c.num_heads * c.head_dim};
    case kKey:
      return {c.kdim, c.num_kv_heads * c.head_dim};
    case kValue:
      return {c.vdim, c.num_kv_heads * c.value_head_dim};
    default:
      return {c.num_heads * c.value_head_dim, c.out_dim};
  }
}

}  // namespace mha

struct mha_layer {
  mha_layer_config config;  // defaults filled in
  mha::PackedWeight weight[mha::kProjections];
  const float* bias[mha::kProjections];  // padded, or null
  const float* bias_key;                 // [Hkv * D] and
  const float* bias_value;               // [Hkv * Dv], or null
  const void* blob;                      // header and packed weights
  size_t blob_bytes;
  mha_allocator allocator;
  size_t bytes;  // of the allocation that begins with this struct
};

namespace mha {

// The tokens that a projection reads or writes: [batch, rows]. With a cache keys are projected from the new tokens,
// which the queries are.
struct ProjectedTokens {
  int64_t batch, rows;
};
ProjectedTokens projected_tokens(const AttentionProblem& p, int projection);

// What a projection writes, or the output projection reads: [B, T, heads * dim], dense floats in the workspace.
Tensor projected_tensor(const mha_layer_config& config, const AttentionProblem& p, int projection, char* data);

// Keys that the layer adds to those of each item.
inline int64_t tail_keys(const mha_layer& layer) {
  return (layer.bias_key != nullptr ? 1 : 0) + (layer.config.add_zero_attn != 0 ? 1 : 0);
}

// The four matrices and biases as the caller gave them, fused or apart.
struct LayerSources {
  WeightSource weight[kProjections];
  const float* bias[kProjections];
};

mha_status validate_layer_weights(const mha_layer_config& config, const mha_weight_layout& layout,
                                  const mha_layer_weights& weights, LayerSources* sources, mha_error* error);

}  // namespace mha
