// SPDX-License-Identifier: Apache-2.0
// The .npy files of `mha run`: query, key, value, masks and key lengths, with every shape checked against the layer.
#ifndef MHA_TOOLS_CLI_RUN_INPUTS_H
#define MHA_TOOLS_CLI_RUN_INPUTS_H

#include <mha/mha.hpp>

#include <cstdint>
#include <string>
#include <vector>

#include "tools/cli/support.h"
#include "tools/io/npy.h"

namespace mha::cli {

struct InputFiles {
  std::string query, key, value, mask, key_lengths;  // empty: none
};

// A query, key or value file: [T, width] or [B, T, width].
struct Input {
  std::string path;
  io::Tensor<float> tensor;
  bool batched = false;
  std::int64_t batch = 1;
  std::int64_t length = 0;
};

// What the call points to.
struct Inputs {
  Input query, key, value;
  io::Tensor<std::uint8_t> bool_mask;
  io::Tensor<float> add_mask;
  io::Tensor<std::int64_t> key_lengths;
};

// The call over these files. Throws Failure that names the file and the shape that does not fit.
LayerCall read_inputs(const InputFiles& files, const Causal& causal, const mha_layer_config& config, Inputs& inputs);

}  // namespace mha::cli

#endif  // MHA_TOOLS_CLI_RUN_INPUTS_H
