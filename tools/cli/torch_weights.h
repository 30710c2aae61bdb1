// SPDX-License-Identifier: Apache-2.0
// The weights of one attention layer from a .safetensors file, in the naming of torch's nn.MultiheadAttention or of
// Hugging Face's models (weight_names.h).
#ifndef MHA_TOOLS_CLI_TORCH_WEIGHTS_H
#define MHA_TOOLS_CLI_TORCH_WEIGHTS_H

#include <mha/mha.hpp>

#include <cstdint>
#include <map>
#include <string>

#include "tools/io/safetensors.h"

namespace mha::cli {

// The configuration that the shapes imply, and the weights; the pointers live as long as this.
struct TorchWeights {
  mha_layer_config config{};
  mha_layer_weights weights{};
  std::map<std::string, io::Tensor<float>> tensors;
};

// Reads, after `prefix`, either torch's names: `in_proj_weight` or the three `{q,k,v}_proj_weight`, `in_proj_bias` if
// it is there, `out_proj.weight`, and `out_proj.bias` if it is there; or four projections with a `.weight` and perhaps
// a `.bias` each, in any of the ways of weight_names.h. Heads cannot be seen in the shapes; head sizes follow from them.
// Throws Failure with the tensor and its shape where something does not fit, and with the prefixes of the file's layers
// where there is none.
TorchWeights read_torch_weights(const std::string& path, const std::string& prefix, std::int64_t num_heads,
                                std::int64_t num_kv_heads);

}  // namespace mha::cli

#endif  // MHA_TOOLS_CLI_TORCH_WEIGHTS_H
