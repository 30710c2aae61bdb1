// SPDX-License-Identifier: Apache-2.0
// The notebook's system, computed by the library and by the reference; see notebook_system.h.
#include "tools/cli/notebook_system.h"

#include <algorithm>
#include <cmath>

#include "core/reference/reference.h"
#include "tools/io/safetensors.h"

namespace mha::cli {
namespace {

constexpr std::int64_t kPositions = Notebook::kPositions;
constexpr std::int64_t kWidth = Notebook::kWidth;
constexpr std::int64_t kHeads = Notebook::kHeads;
constexpr std::int64_t kHeadDim = Notebook::kHeadDim;

std::vector<float> read_tensor(const io::Safetensors& file, const std::string& name,
                               const std::vector<std::int64_t>& shape) {
  io::Tensor<float> tensor = take(file.read<float>(name));
  if (tensor.shape != shape) {
    throw Failure(file.label() + ": tensor '" + name + "' has shape " + io::shape_text(tensor.shape) + ", expected " +
                  io::shape_text(shape));
  }
  return std::move(tensor.values);
}

io::Projection read_projection(const io::Safetensors& file, const std::string& name) {
  return {read_tensor(file, name + ".weight", {kWidth, kWidth}), read_tensor(file, name + ".bias", {kWidth})};
}

std::vector<float> linear(const Context& context, const io::Projection& projection, const std::vector<float>& input) {
  mha_linear_config config{};
  config.in_features = config.out_features = kWidth;
  config.weight = view(projection.weight.data());
  config.bias = projection.bias.data();
  const Linear packed = take(Linear::create(context, config));
  std::vector<float> output(input.size());
  mha_linear_args args{};
  args.rows = static_cast<std::int64_t>(input.size()) / kWidth;
  args.input = view(input.data());
  args.output = mut_view(output.data());
  check(packed.forward(context, args));
  return output;
}

std::vector<double> reference_linear(const io::Projection& projection, const std::vector<float>& input) {
  std::vector<double> output(input.size());
  reference::linear<double>(input.data(), 0, static_cast<std::int64_t>(input.size()) / kWidth, kWidth,
                            projection.weight.data(), projection.bias.data(), kWidth, output.data());
  return output;
}

std::vector<float> rounded(const std::vector<double>& values) { return {values.begin(), values.end()}; }

// The literal form as a strided view of the same attention call: the batch is the 10 positions (the query has
// one and is broadcast), the sequence is the 4 heads, and there is one head of 5.
AttentionCall literal_args(const float* query, const float* key, const float* value) {
  AttentionCall args;
  args.batch = kPositions;
  args.num_heads = 1;
  args.query_len = args.key_len = kHeads;
  args.head_dim = kHeadDim;
  args.query = view(query, {MHA_BROADCAST, kHeadDim, 0});
  args.key = view(key, {kWidth, kHeadDim, 0});
  args.value = view(value, {kWidth, kHeadDim, 0});
  args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
  return args;
}

}  // namespace

mha_layer_config Notebook::config() const {
  mha_layer_config config{};
  config.embed_dim = kWidth;
  config.num_heads = kHeads;
  return config;
}

mha_layer_weights Notebook::weights() const {
  return io::layer_weights(query_layer, key_layer, value_layer, output_layer);
}

LayerCall Notebook::forward_args() const {
  LayerCall args;
  args.batch = 1;
  args.query_len = 1;
  args.key_len = kPositions;
  args.query = view(query.data());
  args.key = view(key.data());
  args.value = view(value.data());
  return args;
}

Notebook read_notebook(const std::string& path) {
  const io::Safetensors file = take(io::Safetensors::open(path));
  Notebook notebook;
  notebook.query = read_tensor(file, "query", {1, kWidth});
  notebook.key = read_tensor(file, "key", {kPositions, kWidth});
  notebook.value = read_tensor(file, "value", {kPositions, kWidth});
  notebook.query_layer = read_projection(file, "query_layer");
  notebook.key_layer = read_projection(file, "key_layer");
  notebook.value_layer = read_projection(file, "value_layer");
  notebook.output_layer = read_projection(file, "output_layer");
  notebook.standard_output = read_tensor(file, "standard.output", {1, kWidth});
  notebook.standard_weights = read_tensor(file, "standard.weights", {kHeads, 1, kPositions});
  notebook.literal_output = read_tensor(file, "literal.output", {1, kPositions, kWidth});
  notebook.literal_weights = read_tensor(file, "literal.weights", {1, kPositions, kHeads, kHeads});
  return notebook;
}

NotebookResult run_standard(const Context& context, const Notebook& notebook) {
  const mha_layer_config config = notebook.config();
  const mha_layer_weights layer_weights = notebook.weights();
  const Layer layer = take(Layer::create(context, config, layer_weights));

  NotebookResult result;
  result.output.resize(kWidth);
  result.weights.resize(kHeads * kPositions);
  LayerCall args = notebook.forward_args();
  args.output = mut_view(result.output.data());
  args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
  args.results.weights = mut_view(result.weights.data());
  check(layer.forward(context, args));

  std::vector<double> output(result.output.size());
  std::vector<double> weights(result.weights.size());
  reference::forward<double>(config, layer_weights, args.raw(), output.data(), weights.data());
  result.reference_difference =
      std::max(max_difference(result.output, output), max_difference(result.weights, weights));
  result.golden_difference = std::max(max_difference(result.output, notebook.standard_output),
                                      max_difference(result.weights, notebook.standard_weights));
  return result;
}

NotebookResult run_literal(const Context& context, const Notebook& notebook) {
  const std::vector<float> query = linear(context, notebook.query_layer, notebook.query);
  const std::vector<float> key = linear(context, notebook.key_layer, notebook.key);
  const std::vector<float> value = linear(context, notebook.value_layer, notebook.value);
  NotebookResult result;
  std::vector<float> attended(kPositions * kWidth);
  result.weights.resize(kPositions * kHeads * kHeads);
  AttentionCall args = literal_args(query.data(), key.data(), value.data());
  args.output = mut_view(attended.data());
  args.results.weights = mut_view(result.weights.data());
  check(context.attention(args));
  result.output = linear(context, notebook.output_layer, attended);

  // The same in double precision, rounded to float between the steps because the reference takes float inputs.
  const std::vector<float> q = rounded(reference_linear(notebook.query_layer, notebook.query));
  const std::vector<float> k = rounded(reference_linear(notebook.key_layer, notebook.key));
  const std::vector<float> v = rounded(reference_linear(notebook.value_layer, notebook.value));
  std::vector<double> middle(attended.size());
  std::vector<double> weights(result.weights.size());
  const AttentionCall wanted = literal_args(q.data(), k.data(), v.data());
  reference::attention<double>(wanted.raw(), middle.data(), weights.data(), nullptr);
  const std::vector<double> output = reference_linear(notebook.output_layer, rounded(middle));
  result.reference_difference =
      std::max(max_difference(result.output, output), max_difference(result.weights, weights));
  result.golden_difference = std::max(max_difference(result.output, notebook.literal_output),
                                      max_difference(result.weights, notebook.literal_weights));
  return result;
}

}  // namespace mha::cli
