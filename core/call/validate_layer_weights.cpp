// SPDX-License-Identifier: Apache-2.0
// The weights of a layer as a caller gives them, fused or apart.
#include <cstdio>

#include "core/call/checks.h"
#include "core/call/layer.h"
#include "core/call/linear.h"

namespace mha {
namespace {

using ll = long long;

const char* const kNames[kProjections] = {"query", "key", "value", "output"};
const char* const kWeightNames[3] = {"query_weight", "key_weight", "value_weight"};

// Refuses in_proj_weight beside the weight of a single projection, and in_proj_bias likewise.
mha_status check_alternatives(const mha_layer_weights& w, const mha_view* const* weights, const float* const* biases,
                              mha_error* error) {
  for (int i = 0; i < 3; ++i) {
    if (w.in_proj_weight.data != nullptr && weights[i]->data != nullptr) {
      return fail(error, MHA_ERR_SHAPE, "in_proj_weight and %s_weight are both given", kNames[i]);
    }
    if (weights[i]->data == nullptr) {
      MHA_TRY(check_unused(kWeightNames[i], *weights[i], "its data is NULL", error));
    }
    if (w.in_proj_bias != nullptr && biases[i] != nullptr) {
      return fail(error, MHA_ERR_SHAPE, "in_proj_bias and %s_bias are both given", kNames[i]);
    }
  }
  if (w.in_proj_weight.data == nullptr) {
    MHA_TRY(check_unused("in_proj_weight", w.in_proj_weight, "its data is NULL", error));
  }
  if ((w.bias_key != nullptr) != (w.bias_value != nullptr)) {
    return fail(error, MHA_ERR_SHAPE, "bias_%s is given and bias_%s is NULL: both or none",
                w.bias_key != nullptr ? "key" : "value", w.bias_key != nullptr ? "value" : "key");
  }
  return MHA_OK;
}

}  // namespace

mha_status validate_layer_weights(const mha_layer_config& c, const mha_weight_layout& layout,
                                  const mha_layer_weights& w, LayerSources* out, mha_error* error) {
  const mha_view* weights[kProjections] = {&w.query_weight, &w.key_weight, &w.value_weight, &w.output_weight};
  const float* biases[kProjections] = {w.query_bias, w.key_bias, w.value_bias, w.output_bias};
  MHA_TRY(check_reserved("weights", w.reserved, error));
  MHA_TRY(check_alternatives(w, weights, biases, error));
  const bool fused = w.in_proj_weight.data != nullptr;
  const int64_t row[3] = {0, c.num_heads * c.head_dim, (c.num_heads + c.num_kv_heads) * c.head_dim};
  WeightSource in_proj = {};
  if (fused) {
    if (c.kdim != c.embed_dim || c.vdim != c.embed_dim) {
      return fail(error, MHA_ERR_SHAPE, "in_proj_weight needs kdim (%lld) and vdim (%lld) to be embed_dim (%lld)",
                  ll{c.kdim}, ll{c.vdim}, ll{c.embed_dim});
    }
    const int64_t rows = row[2] + c.num_kv_heads * c.value_head_dim;
    MHA_TRY(check_weight("in_proj_weight", w.in_proj_weight, layout, rows, c.embed_dim, &in_proj, error));
  }
  for (int i = 0; i < kProjections; ++i) {
    out->bias[i] = i < kOutput && w.in_proj_bias != nullptr ? w.in_proj_bias + row[i] : biases[i];
    if (i < kOutput && fused) {
      out->weight[i] = rows_from(in_proj, row[i]);
      continue;
    }
    char name[24];
    snprintf(name, sizeof(name), "%s_weight", kNames[i]);
    const ProjectionSize size = projection_size(c, i);
    MHA_TRY(check_weight(name, *weights[i], layout, size.out_features, size.in_features, &out->weight[i], error));
  }
  return MHA_OK;
}

}  // namespace mha
