// SPDX-License-Identifier: Apache-2.0
// The four projections of an attention layer as they come out of a file, and the library's view of them.
#ifndef MHA_TOOLS_IO_PROJECTION_H
#define MHA_TOOLS_IO_PROJECTION_H

#include <mha/mha.hpp>

#include <vector>

namespace mha::io {

struct Projection {
  std::vector<float> weight, bias;  // [out, in], [out]
};

// The pointers live as long as the four do.
inline mha_layer_weights layer_weights(const Projection& query, const Projection& key, const Projection& value,
                                       const Projection& output) {
  mha_layer_weights weights{};
  weights.query_weight = view(query.weight.data());
  weights.key_weight = view(key.weight.data());
  weights.value_weight = view(value.weight.data());
  weights.output_weight = view(output.weight.data());
  weights.query_bias = query.bias.data();
  weights.key_bias = key.bias.data();
  weights.value_bias = value.bias.data();
  weights.output_bias = output.bias.data();
  return weights;
}

}  // namespace mha::io

#endif  // MHA_TOOLS_IO_PROJECTION_H
