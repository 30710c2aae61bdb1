// SPDX-License-Identifier: Apache-2.0
// The notebook's system (query 1x20, key and value 10x20, 4 heads of 5, four projections with bias) in its two
// meanings:
//   standard  each head attends over the positions: output 1x20, weights 4x1x10. One mha_layer_forward.
//   literal   the notebook's code as written, which forgets to move the head axis before the product: at each position
//             the 4 heads of the query attend over the 4 heads of that position's key. Output 10x20, weights 10x4x4.
#ifndef MHA_TOOLS_CLI_NOTEBOOK_SYSTEM_H
#define MHA_TOOLS_CLI_NOTEBOOK_SYSTEM_H

#include <mha/mha.hpp>

#include <cstdint>
#include <string>
#include <vector>

#include "tools/cli/support.h"
#include "tools/io/projection.h"

namespace mha::cli {

struct Notebook {
  static constexpr std::int64_t kPositions = 10;
  static constexpr std::int64_t kWidth = 20;
  static constexpr std::int64_t kHeads = 4;
  static constexpr std::int64_t kHeadDim = kWidth / kHeads;

  std::vector<float> query, key, value;
  io::Projection query_layer, key_layer, value_layer, output_layer;
  // PyTorch's results.
  std::vector<float> standard_output, standard_weights, literal_output, literal_weights;

  mha_layer_config config() const;
  mha_layer_weights weights() const;
  // The standard forward call, without results.
  LayerCall forward_args() const;
};

// Reads tests/golden/notebook.safetensors or another file with its tensors; throws Failure where one does not fit.
Notebook read_notebook(const std::string& path);

// One meaning, computed by the library, and how far that is from double precision and from PyTorch.
struct NotebookResult {
  std::vector<float> output, weights;
  double reference_difference = 0;
  double golden_difference = 0;
};
NotebookResult run_standard(const Context& context, const Notebook& notebook);
NotebookResult run_literal(const Context& context, const Notebook& notebook);

}  // namespace mha::cli

#endif  // MHA_TOOLS_CLI_NOTEBOOK_SYSTEM_H
