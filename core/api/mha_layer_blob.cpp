// SPDX-License-Identifier: Apache-2.0
// Packed layers saved, and mapped back.
#include "core/api/layer_blob.h"

#include <cstring>

#include "core/base/layout.h"
#include "core/base/memory.h"
#include "core/call/checks.h"
#include "core/call/linear.h"

namespace mha {
namespace {

using ull = unsigned long long;

struct LayerHeader {
  BlobHead head;
  uint32_t parts;
  uint32_t arithmetic;  // of the projections
  int64_t sizes[8];     // embed_dim, num_heads, num_kv_heads, head_dim, value_head_dim, kdim, vdim, out_dim
  float scale;          // used as given, also if it is 0
  uint32_t reserved_word;
  BlobStorage storage[kProjections];
  uint64_t reserved[10];
  uint64_t checksum;  // FNV-1a of all before
};
static_assert(sizeof(LayerHeader) == 256, "the blob's header is part of its format");

constexpr BlobFormat kFormat = {{'m', 'h', 'a', 'l', 'a', 'y', 'e', 'r'}, "a packed mha layer", 3, sizeof(LayerHeader)};

// The configuration in a header, not checked yet.
mha_layer_config config_of(const LayerHeader& h) {
  mha_layer_config c = {};
  c.embed_dim = h.sizes[0], c.num_heads = h.sizes[1], c.num_kv_heads = h.sizes[2], c.head_dim = h.sizes[3];
  c.value_head_dim = h.sizes[4], c.kdim = h.sizes[5], c.vdim = h.sizes[6], c.out_dim = h.sizes[7];
  c.scale = h.scale, c.scale_is_exact = 1;
  c.arithmetic = static_cast<mha_arithmetic>(h.arithmetic);
  c.add_zero_attn = (h.parts & kZeroAttention) != 0 ? 1 : 0;
  return c;
}

// Refuses what this version does not know; the forms of the weights.
mha_status read_forms(const LayerHeader& h, WeightForm* forms, mha_error* error) {
  bool zero = h.reserved_word == 0 && is_known_arithmetic(h.arithmetic);
  for (uint64_t word : h.reserved) zero = zero && word == 0;
  if (!zero) return fail(error, MHA_ERR_BLOB, "blob has fields that this library does not know");
  static const char* const kNames[kProjections] = {"query weight", "key weight", "value weight", "output weight"};
  for (int i = 0; i < kProjections; ++i) {
    MHA_TRY(read_form(kNames[i], h.arithmetic, h.storage[i], &forms[i], error));
  }
  return MHA_OK;
}

// Reads and checks the header, and fills what the other arguments point to.
mha_status read_header(const void* blob, size_t bytes, mha_layer_config* config, WeightForm* forms, uint32_t* parts,
                       LayerLayout* layout, mha_error* error) {
  MHA_TRY(check_blob(kFormat, blob, bytes, error));
  LayerHeader h = {};
  memcpy(&h, blob, sizeof(h));
  MHA_TRY(read_forms(h, forms, error));
  const mha_layer_config c = config_of(h);
  mha_error why = {};
  if (validate_layer_config(&c, config, &why) != MHA_OK || h.parts >= kZeroAttention << 1 || !widths_fit(*config)) {
    return fail(error, MHA_ERR_BLOB, "blob's header is unsound: parts %u, %.160s", h.parts, why.message);
  }
  *layout = lay_out_layer(*config, h.parts, forms);
  if (!layout->bytes.ok() || static_cast<uint64_t>(layout->bytes.value()) != h.head.bytes) {
    return fail(error, MHA_ERR_BLOB, "blob's header says %llu bytes, which its sizes do not make", ull{h.head.bytes});
  }
  if (bytes < h.head.bytes)
    return fail(error, MHA_ERR_BLOB, "bytes is %zu: the blob has %llu", bytes, ull{h.head.bytes});
  *parts = h.parts;
  return MHA_OK;
}

}  // namespace

bool widths_fit(const mha_layer_config& c) {
  const Size query_and_key = (Size(c.num_heads) + Size(c.num_kv_heads)) * Size(c.head_dim);
  return (query_and_key + Size(c.num_heads) * Size(c.value_head_dim)).ok();
}

LayerLayout lay_out_layer(const mha_layer_config& config, uint32_t parts, const WeightForm* forms) {
  LayerLayout blob = {};
  Layout layout;
  layout.append(Size(sizeof(LayerHeader)));
  for (int i = 0; i < kProjections; ++i) {
    const ProjectionSize size = projection_size(config, i);
    const bool bias = (parts >> i & 1) != 0;
    const auto arithmetic = static_cast<Arithmetic>(config.arithmetic);
    blob.weight[i] = append_weight(arithmetic, size.in_features, size.out_features, forms[i], &layout);
    blob.bias[i] = layout.append(bias ? packed_bias_bytes(size.out_features) : Size(0));
  }
  const bool bias_key = (parts & kBiasKey) != 0;
  const Size heads = Size(bias_key ? config.num_kv_heads : 0) * Size(sizeof(float));
  blob.bias_key = layout.append(heads * Size(config.head_dim));
  blob.bias_value = layout.append(heads * Size(config.value_head_dim));
  blob.bytes = layout.bytes();
  return blob;
}

void write_layer_header(const mha_layer& layer, uint32_t parts, int64_t bytes, void* blob) {
  const mha_layer_config& c = layer.config;
  LayerHeader h = {};
  h.head.bytes = static_cast<uint64_t>(bytes);
  h.parts = parts;
  const int64_t sizes[8] = {c.embed_dim,      c.num_heads, c.num_kv_heads, c.head_dim,
                            c.value_head_dim, c.kdim,      c.vdim,         c.out_dim};
  memcpy(h.sizes, sizes, sizeof(sizes));
  h.scale = c.scale;
  h.arithmetic = static_cast<uint32_t>(c.arithmetic);
  for (int i = 0; i < kProjections; ++i) h.storage[i] = blob_storage(layer.weight[i].form);
  seal_blob(kFormat, &h);
  memcpy(blob, &h, sizeof(h));
}

void point_into_blob(const char* blob, const LayerLayout& layout, uint32_t parts, const WeightForm* forms,
                     mha_layer* layer) {
  layer->blob = blob;
  for (int i = 0; i < kProjections; ++i) {
    layer->weight[i] = weight_at(blob, layout.weight[i], forms[i]);
    layer->bias[i] = (parts >> i & 1) != 0 ? reinterpret_cast<const float*>(blob + layout.bias[i]) : nullptr;
  }
  if ((parts & kBiasKey) != 0) {
    layer->bias_key = reinterpret_cast<const float*>(blob + layout.bias_key);
    layer->bias_value = reinterpret_cast<const float*>(blob + layout.bias_value);
  }
}

}  // namespace mha

extern "C" mha_status mha_layer_save_bytes(const mha_layer* layer, size_t* bytes, mha_error* error) {
  using namespace mha;
  if (layer == nullptr) return fail(error, MHA_ERR_NULL, "layer is NULL");
  if (bytes == nullptr) return fail(error, MHA_ERR_NULL, "bytes is NULL");
  *bytes = layer->blob_bytes;
  return MHA_OK;
}

extern "C" mha_status mha_layer_save(const mha_layer* layer, void* blob, size_t bytes, mha_error* error) {
  using namespace mha;
  if (layer == nullptr) return fail(error, MHA_ERR_NULL, "layer is NULL");
  if (blob == nullptr) return fail(error, MHA_ERR_NULL, "blob is NULL");
  if (bytes < layer->blob_bytes) {
    return fail(error, MHA_ERR_BUFFER, "bytes is %zu: the blob has %zu", bytes, layer->blob_bytes);
  }
  memcpy(blob, layer->blob, layer->blob_bytes);
  return MHA_OK;
}

extern "C" mha_status mha_layer_map(const mha_context* context, const void* blob, size_t bytes, mha_layer** layer,
                                    mha_error* error) {
  using namespace mha;
  if (layer == nullptr) return fail(error, MHA_ERR_NULL, "layer is NULL");
  *layer = nullptr;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  MHA_TRY(check_blob_pointer(blob, error));
  mha_layer made = {};
  uint32_t parts = 0;
  LayerLayout layout;
  WeightForm forms[kProjections];
  MHA_TRY(read_header(blob, bytes, &made.config, forms, &parts, &layout, error));
  made.allocator = context->allocator;
  made.bytes = sizeof(mha_layer);
  made.blob_bytes = static_cast<size_t>(layout.bytes.value());
  point_into_blob(static_cast<const char*>(blob), layout, parts, forms, &made);
  mha_layer* handle = static_cast<mha_layer*>(allocate(context->allocator, made.bytes));
  if (handle == nullptr) return fail(error, MHA_ERR_OUT_OF_MEMORY, "no memory for a layer");
  *handle = made;
  *layer = handle;
  return MHA_OK;
}
