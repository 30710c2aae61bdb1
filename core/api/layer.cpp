// SPDX-License-Identifier: Apache-2.0
// Layers: packing the weights at creation.
#include "core/call/layer.h"

#include <cstdio>
#include <cstring>

#include "core/api/layer_blob.h"
#include "core/call/checks.h"
#include "core/run/project.h"

namespace mha {
namespace {

using ll = long long;

const char* const kNames[kProjections] = {"query", "key", "value", "output"};

// The four matrices and biases as the caller gave them, fused or apart.
struct Sources {
  ConstTensor weight[kProjections];  // rows stride_t apart
  const float* bias[kProjections];
};

// The in_proj weight or bias beside the one of a projection.
mha_status check_alternatives(const mha_layer_weights& w, const mha_view* const* weights, const float* const* biases,
                              mha_error* error) {
  for (int i = 0; i < 3; ++i) {
    if (w.in_proj_weight.data != nullptr && weights[i]->data != nullptr) {
      return fail(error, MHA_ERR_SHAPE, "in_proj_weight and %s_weight are both given", kNames[i]);
    }
    if (w.in_proj_bias != nullptr && biases[i] != nullptr) {
      return fail(error, MHA_ERR_SHAPE, "in_proj_bias and %s_bias are both given", kNames[i]);
    }
  }
  if ((w.bias_key != nullptr) != (w.bias_value != nullptr)) {
    return fail(error, MHA_ERR_SHAPE, "bias_%s is given and bias_%s is NULL: both or none",
                w.bias_key != nullptr ? "key" : "value", w.bias_key != nullptr ? "value" : "key");
  }
  return MHA_OK;
}

mha_status collect(const mha_layer_config& c, const mha_layer_weights& w, Sources* out, mha_error* error) {
  const mha_view* weights[kProjections] = {&w.query_weight, &w.key_weight, &w.value_weight, &w.output_weight};
  const float* biases[kProjections] = {w.query_bias, w.key_bias, w.value_bias, w.output_bias};
  MHA_TRY(check_reserved("weights", w.reserved, error));
  MHA_TRY(check_alternatives(w, weights, biases, error));
  const bool fused = w.in_proj_weight.data != nullptr;
  const int64_t row[3] = {0, c.num_heads * c.head_dim, (c.num_heads + c.num_kv_heads) * c.head_dim};
  ConstTensor in_proj = {};
  if (fused) {
    if (c.kdim != c.embed_dim || c.vdim != c.embed_dim) {
      return fail(error, MHA_ERR_SHAPE, "in_proj_weight needs kdim (%lld) and vdim (%lld) to be embed_dim (%lld)",
                  ll{c.kdim}, ll{c.vdim}, ll{c.embed_dim});
    }
    const int64_t rows = row[2] + c.num_kv_heads * c.value_head_dim;
    MHA_TRY(check_weight("in_proj_weight", w.in_proj_weight, rows, c.embed_dim, &in_proj, error));
  }
  for (int i = 0; i < kProjections; ++i) {
    out->bias[i] = i < kOutput && w.in_proj_bias != nullptr ? w.in_proj_bias + row[i] : biases[i];
    if (i < kOutput && fused) {
      out->weight[i] = {in_proj.data + row[i] * in_proj.stride_t, 0, in_proj.stride_t, 0};
      continue;
    }
    char name[24];
    snprintf(name, sizeof(name), "%s_weight", kNames[i]);
    const ProjectionSize size = projection_size(c, i);
    MHA_TRY(check_weight(name, *weights[i], size.out_features, size.in_features, &out->weight[i], error));
  }
  return MHA_OK;
}

void pack(const KernelTable& table, const Sources& sources, const LayerLayout& layout, const mha_layer& layer,
          char* blob) {
  for (int i = 0; i < kProjections; ++i) {
    const ProjectionSize size = projection_size(layer.config, i);
    table.pack_panels(sources.weight[i].data, sources.weight[i].stride_t, size.out_features, size.in_features,
                      reinterpret_cast<float*>(blob + layout.panels[i]));
    if (sources.bias[i] != nullptr) {
      pack_bias(sources.bias[i], size.out_features, reinterpret_cast<float*>(blob + layout.bias[i]));
    }
  }
}

}  // namespace

}  // namespace mha

extern "C" mha_status mha_layer_create(const mha_context* context, const mha_layer_config* config,
                                       const mha_layer_weights* weights, mha_layer** layer, mha_error* error) {
  using namespace mha;
  if (layer == nullptr) return fail(error, MHA_ERR_NULL, "layer is NULL");
  *layer = nullptr;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (weights == nullptr) return fail(error, MHA_ERR_NULL, "weights is NULL");
  mha_layer made = {};
  MHA_TRY(validate_layer_config(config, &made.config, error));
  const mha_layer_config& c = made.config;
  uint32_t parts = 0;
  LayerLayout layout;
  Sources sources = {};
  if (widths_fit(c)) {
    MHA_TRY(collect(c, *weights, &sources, error));
    for (int i = 0; i < kProjections; ++i) parts |= (sources.bias[i] != nullptr ? 1u : 0u) << i;
    if (weights->bias_key != nullptr) parts |= kBiasKey;
    if (c.add_zero_attn != 0) parts |= kZeroAttention;
    layout = lay_out_layer(c, parts);
  }
  const Size total = layout.bytes + Size(round_up(sizeof(mha_layer), 64));
  if (!widths_fit(c) || !total.ok()) {
    return fail(error, MHA_ERR_OVERFLOW,
                "embed_dim %lld, num_heads %lld, head_dim %lld: the packed weights exceed 2^63 bytes", ll{c.embed_dim},
                ll{c.num_heads}, ll{c.head_dim});
  }
  made.allocator = context->allocator;
  made.bytes = static_cast<size_t>(total.value());
  char* block = static_cast<char*>(allocate(context->allocator, made.bytes));
  if (block == nullptr) {
    return fail(error, MHA_ERR_OUT_OF_MEMORY, "no memory for packed weights of %zu bytes", made.bytes);
  }
  char* blob = block + round_up(sizeof(mha_layer), 64);
  made.blob_bytes = static_cast<size_t>(layout.bytes.value());
  point_into_blob(blob, layout, parts, &made);
  write_layer_header(c, parts, layout.bytes.value(), blob);
  pack(*context->table, sources, layout, made, blob);
  if (weights->bias_key != nullptr) {
    const size_t heads = static_cast<size_t>(c.num_kv_heads) * sizeof(float);
    // What fills up their last lines is saved, too: zeros, not what the memory held before.
    memset(blob + layout.bias_key, 0, made.blob_bytes - static_cast<size_t>(layout.bias_key));
    memcpy(blob + layout.bias_key, weights->bias_key, heads * static_cast<size_t>(c.head_dim));
    memcpy(blob + layout.bias_value, weights->bias_value, heads * static_cast<size_t>(c.value_head_dim));
  }
  if (config->packed_error != nullptr) {
    for (int i = 0; i < kProjections; ++i) {
      const ProjectionSize size = projection_size(c, i);
      report_exact(size.in_features * size.out_features, &config->packed_error[i]);
    }
  }
  *reinterpret_cast<mha_layer*>(block) = made;
  *layer = reinterpret_cast<mha_layer*>(block);
  return MHA_OK;
}

extern "C" void mha_layer_destroy(mha_layer* layer) {
  if (layer == nullptr) return;
  const mha_allocator allocator = layer->allocator;
  mha::release(allocator, layer, layer->bytes);
}

extern "C" void mha_layer_get_config(const mha_layer* layer, mha_layer_config* config) {
  if (layer != nullptr && config != nullptr) *config = layer->config;
}
