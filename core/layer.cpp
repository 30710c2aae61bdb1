// SPDX-License-Identifier: Apache-2.0
// Layers: packing the weights at creation, saving and mapping the packed blob. A blob is a header of 192 bytes followed
// by the packed weights and biases, each on a 64-byte line; where they lie follows from the header's configuration
// alone.
#include "core/layer.h"

#include <cstring>

#include "core/checksum.h"
#include "core/linear.h"
#include "core/status.h"
#include "core/validate.h"

namespace mha {
namespace {

constexpr uint32_t kBlobVersion = 2;
constexpr uint32_t kByteOrder = 0x01020304;
constexpr char kMagic[8] = {'m', 'h', 'a', 'l', 'a', 'y', 'e', 'r'};
const char* const kNames[kProjections] = {"query", "key", "value", "output"};

struct BlobHeader {
  char magic[8];
  uint32_t version;
  uint32_t byte_order;
  int64_t sizes[8];  // embed_dim, num_heads, num_kv_heads, head_dim, value_head_dim, kdim, vdim, out_dim
  float scale;
  uint32_t parts;  // bit per projection that has a bias, then kBiasKey, kZeroAttention
  uint64_t bytes;  // of the blob
  uint64_t reserved[11];
  uint64_t checksum;  // FNV-1a of all before
};
constexpr uint32_t kBiasKey = 1u << kProjections;  // and bias_value
constexpr uint32_t kZeroAttention = kBiasKey << 1;
static_assert(sizeof(BlobHeader) == 192, "the blob's header is part of its format");

uint64_t checksum_of(const BlobHeader& header) { return header_checksum(&header, offsetof(BlobHeader, checksum)); }

struct BlobLayout {
  int64_t panels[kProjections];
  int64_t bias[kProjections];
  int64_t bias_key, bias_value;
  Size bytes = Size(0);
};

BlobLayout lay_out(const mha_layer_config& config, uint32_t parts) {
  BlobLayout blob = {};
  Layout layout;
  layout.append(Size(sizeof(BlobHeader)));
  for (int i = 0; i < kProjections; ++i) {
    const ProjectionSize size = projection_size(config, i);
    const bool bias = (parts >> i & 1) != 0;
    blob.panels[i] = layout.append(packed_weight_floats(size.in_features, size.out_features) * Size(sizeof(float)));
    blob.bias[i] = layout.append(bias ? packed_bias_floats(size.out_features) * Size(sizeof(float)) : Size(0));
  }
  const bool bias_key = (parts & kBiasKey) != 0;
  const Size heads = Size(bias_key ? config.num_kv_heads : 0) * Size(sizeof(float));
  blob.bias_key = layout.append(heads * Size(config.head_dim));
  blob.bias_value = layout.append(heads * Size(config.value_head_dim));
  blob.bytes = layout.bytes();
  return blob;
}

// Heads times head dims, and all of them together, must be sizes before projection_size may be asked.
bool widths_fit(const mha_layer_config& c) {
  const Size query_and_key = (Size(c.num_heads) + Size(c.num_kv_heads)) * Size(c.head_dim);
  return (query_and_key + Size(c.num_heads) * Size(c.value_head_dim)).ok();
}

void point_into_blob(mha_layer* layer, const char* blob, const BlobLayout& layout, uint32_t parts) {
  layer->blob = blob;
  for (int i = 0; i < kProjections; ++i) {
    layer->panels[i] = reinterpret_cast<const float*>(blob + layout.panels[i]);
    layer->bias[i] = (parts >> i & 1) != 0 ? reinterpret_cast<const float*>(blob + layout.bias[i]) : nullptr;
  }
  if ((parts & kBiasKey) != 0) {
    layer->bias_key = reinterpret_cast<const float*>(blob + layout.bias_key);
    layer->bias_value = reinterpret_cast<const float*>(blob + layout.bias_value);
  }
}

// The four matrices and biases as the caller gave them, fused or apart.
struct Sources {
  const float* weight[kProjections];
  const float* bias[kProjections];
};

mha_status collect(const mha_layer_config& c, const mha_layer_weights& w, Sources* out, mha_error* error) {
  Sources s = {{w.query_weight, w.key_weight, w.value_weight, w.output_weight},
               {w.query_bias, w.key_bias, w.value_bias, w.output_bias}};
  int64_t row[3] = {0, c.num_heads * c.head_dim, (c.num_heads + c.num_kv_heads) * c.head_dim};
  for (int i = 0; i < 3; ++i) {
    if (w.in_proj_weight != nullptr && s.weight[i] != nullptr) {
      return fail(error, MHA_ERR_SHAPE, "in_proj_weight and %s_weight are both given", kNames[i]);
    }
    if (w.in_proj_bias != nullptr && s.bias[i] != nullptr) {
      return fail(error, MHA_ERR_SHAPE, "in_proj_bias and %s_bias are both given", kNames[i]);
    }
    if (w.in_proj_weight != nullptr) s.weight[i] = w.in_proj_weight + row[i] * c.embed_dim;
    if (w.in_proj_bias != nullptr) s.bias[i] = w.in_proj_bias + row[i];
  }
  if (w.in_proj_weight != nullptr && (c.kdim != c.embed_dim || c.vdim != c.embed_dim)) {
    return fail(error, MHA_ERR_SHAPE, "in_proj_weight needs kdim (%lld) and vdim (%lld) to be embed_dim (%lld)",
                static_cast<long long>(c.kdim), static_cast<long long>(c.vdim), static_cast<long long>(c.embed_dim));
  }
  for (int i = 0; i < kProjections; ++i) {
    if (s.weight[i] == nullptr) return fail(error, MHA_ERR_NULL, "%s_weight is NULL", kNames[i]);
  }
  if ((w.bias_key != nullptr) != (w.bias_value != nullptr)) {
    return fail(error, MHA_ERR_SHAPE, "bias_%s is given and bias_%s is NULL: both or none",
                w.bias_key != nullptr ? "key" : "value", w.bias_key != nullptr ? "value" : "key");
  }
  *out = s;
  return MHA_OK;
}

BlobHeader make_header(const mha_layer_config& c, uint32_t parts, int64_t bytes) {
  BlobHeader h = {};
  memcpy(h.magic, kMagic, sizeof(kMagic));
  h.version = kBlobVersion;
  h.byte_order = kByteOrder;
  const int64_t sizes[8] = {c.embed_dim,      c.num_heads, c.num_kv_heads, c.head_dim,
                            c.value_head_dim, c.kdim,      c.vdim,         c.out_dim};
  memcpy(h.sizes, sizes, sizeof(sizes));
  h.scale = c.scale;
  h.parts = parts;
  h.bytes = static_cast<uint64_t>(bytes);
  h.checksum = checksum_of(h);
  return h;
}

// Reads and checks the header; *config, *parts and *layout are what it says.
mha_status read_header(const void* blob, size_t bytes, mha_layer_config* config, uint32_t* parts, BlobLayout* layout,
                       mha_error* error) {
  BlobHeader h = {};
  if (bytes < sizeof(h)) {
    return fail(error, MHA_ERR_BLOB, "bytes is %zu: shorter than a blob's header (%zu)", bytes, sizeof(h));
  }
  memcpy(&h, blob, sizeof(h));
  if (memcmp(h.magic, kMagic, sizeof(kMagic)) != 0) return fail(error, MHA_ERR_BLOB, "blob is not a packed mha layer");
  if (h.version != kBlobVersion) {
    return fail(error, MHA_ERR_BLOB, "blob has format version %u: this library reads %u", h.version, kBlobVersion);
  }
  if (h.byte_order != kByteOrder) return fail(error, MHA_ERR_BLOB, "blob is of another byte order");
  if (h.checksum != checksum_of(h)) return fail(error, MHA_ERR_BLOB, "blob's header is damaged (checksum)");
  mha_layer_config c = {h.sizes[0], h.sizes[1], h.sizes[2], h.sizes[3], h.sizes[4],
                        h.sizes[5], h.sizes[6], h.sizes[7], h.scale,    (h.parts & kZeroAttention) != 0};
  mha_error why = {};
  if (validate_layer_config(&c, config, &why) != MHA_OK || h.parts >= kZeroAttention << 1 || !widths_fit(*config)) {
    return fail(error, MHA_ERR_BLOB, "blob's header is unsound: %.160s", why.message);
  }
  *layout = lay_out(*config, h.parts);
  if (!layout->bytes.ok() || static_cast<uint64_t>(layout->bytes.value()) != h.bytes) {
    return fail(error, MHA_ERR_BLOB, "blob's header says %llu bytes, which its sizes do not make",
                static_cast<unsigned long long>(h.bytes));
  }
  if (bytes < h.bytes) {
    return fail(error, MHA_ERR_BLOB, "bytes is %zu: the blob has %llu", bytes,
                static_cast<unsigned long long>(h.bytes));
  }
  *parts = h.parts;
  return MHA_OK;
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
  mha_status status = validate_layer_config(config, &made.config, error);
  if (status != MHA_OK) return status;
  uint32_t parts = 0;
  BlobLayout layout;
  Sources sources = {};
  if (widths_fit(made.config)) {
    status = collect(made.config, *weights, &sources, error);
    if (status != MHA_OK) return status;
    for (int i = 0; i < kProjections; ++i) parts |= (sources.bias[i] != nullptr ? 1u : 0u) << i;
    if (weights->bias_key != nullptr) parts |= kBiasKey;
    if (made.config.add_zero_attn != 0) parts |= kZeroAttention;
    layout = lay_out(made.config, parts);
  }
  const Size total = layout.bytes + Size(round_up(sizeof(mha_layer), 64));
  if (!widths_fit(made.config) || !total.ok()) {
    return fail(error, MHA_ERR_OVERFLOW,
                "embed_dim %lld, num_heads %lld, head_dim %lld: the packed weights exceed 2^63 bytes",
                static_cast<long long>(made.config.embed_dim), static_cast<long long>(made.config.num_heads),
                static_cast<long long>(made.config.head_dim));
  }
  made.allocator = context->allocator;
  made.bytes = static_cast<size_t>(total.value());
  char* block = static_cast<char*>(allocate(context->allocator, made.bytes));
  if (block == nullptr)
    return fail(error, MHA_ERR_OUT_OF_MEMORY, "no memory for packed weights of %zu bytes", made.bytes);
  char* blob = block + round_up(sizeof(mha_layer), 64);
  made.blob_bytes = static_cast<size_t>(layout.bytes.value());
  point_into_blob(&made, blob, layout, parts);
  const BlobHeader header = make_header(made.config, parts, layout.bytes.value());
  memcpy(blob, &header, sizeof(header));
  for (int i = 0; i < kProjections; ++i) {
    const ProjectionSize size = projection_size(made.config, i);
    context->table->pack_panels(sources.weight[i], size.in_features, size.out_features, size.in_features,
                                reinterpret_cast<float*>(blob + layout.panels[i]));
    if (sources.bias[i] != nullptr) {
      pack_bias(sources.bias[i], size.out_features, reinterpret_cast<float*>(blob + layout.bias[i]));
    }
  }
  if (weights->bias_key != nullptr) {
    const size_t heads = static_cast<size_t>(made.config.num_kv_heads) * sizeof(float);
    // What fills up their last lines is saved, too: zeros, not what the memory held before.
    memset(blob + layout.bias_key, 0, made.blob_bytes - static_cast<size_t>(layout.bias_key));
    memcpy(blob + layout.bias_key, weights->bias_key, heads * static_cast<size_t>(made.config.head_dim));
    memcpy(blob + layout.bias_value, weights->bias_value, heads * static_cast<size_t>(made.config.value_head_dim));
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

extern "C" size_t mha_layer_blob_bytes(const mha_layer* layer) { return layer != nullptr ? layer->blob_bytes : 0; }

extern "C" mha_status mha_layer_save(const mha_layer* layer, void* blob, size_t bytes, mha_error* error) {
  using namespace mha;
  if (layer == nullptr) return fail(error, MHA_ERR_NULL, "layer is NULL");
  if (blob == nullptr) return fail(error, MHA_ERR_NULL, "blob is NULL");
  if (bytes < layer->blob_bytes) {
    return fail(error, MHA_ERR_WORKSPACE, "bytes is %zu: the blob has %zu", bytes, layer->blob_bytes);
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
  if (blob == nullptr) return fail(error, MHA_ERR_NULL, "blob is NULL");
  if (reinterpret_cast<uintptr_t>(blob) % alignof(float) != 0) {
    return fail(error, MHA_ERR_ARGUMENT, "blob is at %p: must be aligned to %zu bytes", blob, alignof(float));
  }
  mha_layer made = {};
  uint32_t parts = 0;
  BlobLayout layout;
  const mha_status status = read_header(blob, bytes, &made.config, &parts, &layout, error);
  if (status != MHA_OK) return status;
  made.allocator = context->allocator;
  made.bytes = sizeof(mha_layer);
  made.blob_bytes = static_cast<size_t>(layout.bytes.value());
  point_into_blob(&made, static_cast<const char*>(blob), layout, parts);
  mha_layer* handle = static_cast<mha_layer*>(allocate(context->allocator, made.bytes));
  if (handle == nullptr) return fail(error, MHA_ERR_OUT_OF_MEMORY, "no memory for a layer");
  *handle = made;
  *layer = handle;
  return MHA_OK;
}
