// SPDX-License-Identifier: Apache-2.0
// The notebook's system, computed by the library and by the reference; see notebook_system.h.
#include "tools/cli/notebook_system.h"

#include <algorithm>
#include <cmath>

#include "core/reference.h"
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

std::vector<float> linear(const mha_context* context, const io::Projection& projection,
                          const std::vector<float>& input) {
  mha_error error{};
  mha_linear* raw = nullptr;
  check(mha_linear_create(context, kWidth, kWidth, projection.weight.data(), projection.bias.data(), &raw, &error),
        error);
  const Linear handle(raw);
  std::vector<float> output(input.size());
  mha_linear_args args{};
  args.rows = static_cast<std::int64_t>(input.size()) / kWidth;
  args.input = input.data();
  args.output = output.data();
  check(mha_linear_forward(context, handle.get(), &args, &error), error);
  return output;
}

std::vector<double> reference_linear(const io::Projection& projection, const std::vector<float>& input) {
  std::vector<double> output(input.size());
  reference::linear<double>(input.data(), 0, static_cast<std::int64_t>(input.size()) / kWidth, kWidth,
                            projection.weight.data(), projection.bias.data(), kWidth, output.data());
  return output;
}

std::vector<float> rounded(const std::vector<double>& values) { return {values.begin(), values.end()}; }

// The literal form as a strided view of the same attention call: the batch is the 10 positions (stride 0 for the query,
// which has one and is broadcast), the sequence is the 4 heads, and there is one head of 5.
mha_attention_args literal_args(const float* query, const float* key, const float* value) {
  mha_attention_args args{};
  args.batch = kPositions;
  args.num_heads = 1;
  args.query_len = args.key_len = kHeads;
  args.head_dim = kHeadDim;
  args.query = {query, 0, kHeadDim, 0, 1};
  args.key = {key, kWidth, kHeadDim, 0, 1};
  args.value = {value, kWidth, kHeadDim, 0, 1};
  args.weights_mode = MHA_WEIGHTS_PER_HEAD;
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

mha_forward_args Notebook::forward_args() const {
  mha_forward_args args{};
  args.batch = 1;
  args.query_len = 1;
  args.key_len = kPositions;
  args.query.data = query.data();
  args.key.data = key.data();
  args.value.data = value.data();
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

NotebookResult run_standard(const mha_context* context, const Notebook& notebook) {
  const mha_layer_config config = notebook.config();
  const mha_layer_weights layer_weights = notebook.weights();
  mha_error error{};
  mha_layer* raw = nullptr;
  check(mha_layer_create(context, &config, &layer_weights, &raw, &error), error);
  const Layer layer(raw);

  NotebookResult result;
  result.output.resize(kWidth);
  result.weights.resize(kHeads * kPositions);
  mha_forward_args args = notebook.forward_args();
  args.output.data = result.output.data();
  args.weights_mode = MHA_WEIGHTS_PER_HEAD;
  args.weights.data = result.weights.data();
  check(mha_layer_forward(context, layer.get(), &args, &error), error);

  std::vector<double> output(result.output.size());
  std::vector<double> weights(result.weights.size());
  reference::forward<double>(config, layer_weights, args, output.data(), weights.data());
  result.reference_difference =
      std::max(max_difference(result.output, output), max_difference(result.weights, weights));
  result.golden_difference = std::max(max_difference(result.output, notebook.standard_output),
                                      max_difference(result.weights, notebook.standard_weights));
  return result;
}

NotebookResult run_literal(const mha_context* context, const Notebook& notebook) {
  const std::vector<float> query = linear(context, notebook.query_layer, notebook.query);
  const std::vector<float> key = linear(context, notebook.key_layer, notebook.key);
  const std::vector<float> value = linear(context, notebook.value_layer, notebook.value);
  NotebookResult result;
  std::vector<float> attended(kPositions * kWidth);
  result.weights.resize(kPositions * kHeads * kHeads);
  mha_attention_args args = literal_args(query.data(), key.data(), value.data());
  args.output.data = attended.data();
  args.weights.data = result.weights.data();
  mha_error error{};
  check(mha_attention(context, &args, &error), error);
  result.output = linear(context, notebook.output_layer, attended);

  // The same in double precision, rounded to float between the steps because the reference takes float inputs.
  const std::vector<float> q = rounded(reference_linear(notebook.query_layer, notebook.query));
  const std::vector<float> k = rounded(reference_linear(notebook.key_layer, notebook.key));
  const std::vector<float> v = rounded(reference_linear(notebook.value_layer, notebook.value));
  std::vector<double> middle(attended.size());
  std::vector<double> weights(result.weights.size());
  reference::attention<double>(literal_args(q.data(), k.data(), v.data()), middle.data(), weights.data(), nullptr);
  const std::vector<double> output = reference_linear(notebook.output_layer, rounded(middle));
  result.reference_difference =
      std::max(max_difference(result.output, output), max_difference(result.weights, weights));
  result.golden_difference = std::max(max_difference(result.output, notebook.literal_output),
                                      max_difference(result.weights, notebook.literal_weights));
  return result;
}

}  // namespace mha::cli
