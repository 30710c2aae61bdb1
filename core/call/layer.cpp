// SPDX-License-Identifier: Apache-2.0
// The tensors between a layer's projections and its attention.
#include "core/call/layer.h"

namespace mha {

ProjectedTokens projected_tokens(const AttentionProblem& p, int projection) {
  const bool keys = (projection == kKey || projection == kValue) && p.cache == nullptr;
  const bool packed = (keys ? p.key_offsets : p.query_offsets) != nullptr;
  return {packed ? 1 : p.batch, keys ? p.key_len : p.query_len};
}

Tensor projected_tensor(const mha_layer_config& c, const AttentionProblem& p, int projection, char* data) {
  const bool keys = projection == kKey || projection == kValue;
  const int64_t head_dim = projection == kQuery || projection == kKey ? c.head_dim : c.value_head_dim;
  return dense_floats(data, projected_tokens(p, projection).rows, keys ? c.num_kv_heads : c.num_heads, head_dim);
}

}  // namespace mha
