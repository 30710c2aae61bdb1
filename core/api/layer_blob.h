// SPDX-License-Identifier: Apache-2.0
// The packed form of a layer: a header of 256 bytes followed by the packed weights and biases, each on a 64-byte line;
// their offsets follow from the header's configuration alone. A layer in memory is such a blob, too.
#pragma once

#include "core/api/weight_blob.h"
#include "core/call/layer.h"

namespace mha {

// Bits of `parts`: one per projection that has a bias, then these.
constexpr uint32_t kBiasKey = 1u << kProjections;  // and bias_value
constexpr uint32_t kZeroAttention = kBiasKey << 1;

struct LayerLayout {
  WeightOffsets weight[kProjections];
  int64_t bias[kProjections];
  int64_t bias_key, bias_value;
  Size bytes = Size(0);
};

// Whether heads times head dims, and the sum of all, are valid sizes: to be checked before computing with them.
bool widths_fit(const mha_layer_config& config);
// forms [kProjections]: how the weights are stored.
LayerLayout lay_out_layer(const mha_layer_config& config, uint32_t parts, const WeightForm* forms);
void write_layer_header(const mha_layer& layer, uint32_t parts, int64_t bytes, void* blob);
// Sets the pointers of *layer to the parts of a blob.
void point_into_blob(const char* blob, const LayerLayout& layout, uint32_t parts, const WeightForm* forms,
                     mha_layer* layer);

}  // namespace mha
