// SPDX-License-Identifier: Apache-2.0
// The weights of one attention layer from a .safetensors or GGUF file, in the naming of torch's nn.MultiheadAttention, of
// Hugging Face's models or of GGUF (weight_names.h).
#ifndef MHA_TOOLS_CLI_LAYER_WEIGHTS_H
#define MHA_TOOLS_CLI_LAYER_WEIGHTS_H

#include <mha/mha.hpp>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "tools/cli/layer_reader.h"

namespace mha::cli {

// Where the weights are. Heads cannot be seen in the shapes; GGUF's metadata says them.
struct WeightFlags {
  std::string path, prefix;
  std::optional<std::int64_t> num_heads;
  std::int64_t num_kv_heads = 0;
};
// --weights, --prefix, --num-heads and --num-kv-heads.
void add_weight_file_options(CLI::App& app, WeightFlags& flags);

// The configuration that the shapes imply, and the weights; the pointers live as long as this.
struct LayerWeights {
  mha_layer_config config{};
  mha_layer_weights weights{};
  std::map<std::string, StoredWeight> tensors;
  std::map<std::string, io::Tensor<float>> biases;
};

// Reads, after the prefix, either torch's names: `in_proj_weight` or the three `{q,k,v}_proj_weight`, `in_proj_bias` if
// it is there, `out_proj.weight`, and `out_proj.bias` if it is there; or GGUF's fused `attn_qkv`; or four projections with a
// `.weight` and perhaps a `.bias` each, in any of the ways of weight_names.h. Head sizes follow from the shapes.
// Throws Failure with the tensor and its shape where something does not fit, and with the prefixes of the file's layers
// where there is none.
LayerWeights read_layer_weights(const WeightFlags& flags);

// The types in which the file stores the weights, each once: "BF16", "Q8_0, F32".
std::string type_names(const LayerWeights& weights);

}  // namespace mha::cli

#endif  // MHA_TOOLS_CLI_LAYER_WEIGHTS_H
