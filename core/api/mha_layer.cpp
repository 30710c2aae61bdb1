// SPDX-License-Identifier: Apache-2.0
// Layers: packing the weights at creation.
#include "core/call/layer.h"

#include <cstring>

#include "core/api/layer_blob.h"
#include "core/api/pack_weights.h"
#include "core/call/checks.h"
#include "core/call/linear.h"
#include "core/plan/plan.h"
#include "simd/float_mode.h"

namespace mha {
namespace {

using ll = long long;

void pack(const Packing* packings, const LayerSources& sources, const LayerLayout& layout, char* scratch, char* blob) {
  for (int i = 0; i < kProjections; ++i) {
    pack_weight(packings[i], parts_at(blob, layout.weight[i]), scratch);
    if (sources.bias[i] != nullptr) {
      pack_bias(sources.bias[i], packings[i].out_features, reinterpret_cast<float*>(blob + layout.bias[i]));
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
  const FloatMode mode;  // from here on: the default scale and the weights are rounded to nearest
  mha_layer made = {};
  MHA_TRY(validate_layer_config(config, &made.config, error));
  const mha_layer_config& c = made.config;
  const auto arithmetic = static_cast<Arithmetic>(c.arithmetic);
  MHA_TRY(check_target(*context->table, arithmetic, error));
  uint32_t parts = 0;
  LayerLayout layout;
  LayerSources sources = {};
  Packing packings[kProjections] = {};
  WeightForm forms[kProjections] = {};
  if (widths_fit(c)) {
    MHA_TRY(validate_layer_weights(c, config->layout, *weights, &sources, error));
    for (int i = 0; i < kProjections; ++i) parts |= (sources.bias[i] != nullptr ? 1u : 0u) << i;
    if (weights->bias_key != nullptr) parts |= kBiasKey;
    if (c.add_zero_attn != 0) parts |= kZeroAttention;
    for (int i = 0; i < kProjections; ++i) {
      packings[i].source = sources.weight[i];
      MHA_TRY(
          prepare_packing(*context->table, config->packed, c.arithmetic, projection_size(c, i), &packings[i], error));
      forms[i] = packings[i].form;
    }
    layout = lay_out_layer(c, parts, forms);
  }
  const Size total = layout.bytes + Size(round_up(sizeof(mha_layer), 64));
  bool fits = widths_fit(c);
  int64_t rounding = 0;
  for (const Packing& packing : packings) {
    const Size bytes = packing_bytes(packing);
    fits = fits && (total + bytes).ok();
    if (fits) rounding = most(rounding, bytes.value());
  }
  if (!fits) {
    return fail(error, MHA_ERR_OVERFLOW,
                "embed_dim %lld, num_heads %lld, head_dim %lld: the packed weights exceed 2^63 bytes", ll{c.embed_dim},
                ll{c.num_heads}, ll{c.head_dim});
  }
  Workspace scratch(*context, nullptr);
  if (rounding > 0) MHA_TRY(scratch.reserve(workspace_bytes(rounding), error));
  made.allocator = context->allocator;
  made.bytes = static_cast<size_t>(total.value());
  char* block = static_cast<char*>(allocate(context->allocator, made.bytes));
  if (block == nullptr) {
    return fail(error, MHA_ERR_OUT_OF_MEMORY, "no memory for packed weights of %zu bytes", made.bytes);
  }
  char* blob = block + round_up(sizeof(mha_layer), 64);
  made.blob_bytes = static_cast<size_t>(layout.bytes.value());
  point_into_blob(blob, layout, parts, forms, &made);
  write_layer_header(made, parts, layout.bytes.value(), blob);
  pack(packings, sources, layout, scratch.data(), blob);
  if (weights->bias_key != nullptr) {
    const size_t heads = static_cast<size_t>(c.num_kv_heads) * sizeof(float);
    // The rest of their last lines is saved, too, so it must not hold what was in memory before.
    memset(blob + layout.bias_key, 0, made.blob_bytes - static_cast<size_t>(layout.bias_key));
    memcpy(blob + layout.bias_key, weights->bias_key, heads * static_cast<size_t>(c.head_dim));
    memcpy(blob + layout.bias_value, weights->bias_value, heads * static_cast<size_t>(c.value_head_dim));
  }
  if (config->packed_error != nullptr) {
    for (int i = 0; i < kProjections; ++i) config->packed_error[i] = measure_weight(packings[i], scratch.data());
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

extern "C" int64_t mha_layer_added_keys(const mha_layer* layer) {
  return layer != nullptr ? mha::tail_keys(*layer) : 0;
}
