// SPDX-License-Identifier: Apache-2.0
// The notebook's own problem (query 1x20, key and value 10x20, 4 heads) against PyTorch: the standard attention that
// its text describes, through the layer, and what its code computes literally, through the same attention call on other
// strides.
#include "core/mha.h"
#include "core/reference/reference.h"
#include "tests/support/golden.h"
#include "tests/support/layers.h"

using namespace mha::test;

namespace {

constexpr int64_t kEmbed = 20, kHeads = 4, kHeadDim = 5, kPositions = 10;

// Measured on avx512, avx2 and sse2 (MHA_TEST_MEASURE=1 mha_tests "[notebook]" prints each): output 1.5e-7,
// median 2.3e-8; weights 1.2e-7 (two units in the last place), 1.5e-8.
const Bound kOutputBound = {2.5e-7, 4e-8};
const Bound kWeightsBound = {2e-7, 2.5e-8};

struct Notebook {
  GoldenFile file{"notebook"};
  std::vector<float> query = file.floats("query"), key = file.floats("key"), value = file.floats("value");
  std::vector<float> query_weight = file.floats("query_layer.weight"), query_bias = file.floats("query_layer.bias");
  std::vector<float> key_weight = file.floats("key_layer.weight"), key_bias = file.floats("key_layer.bias");
  std::vector<float> value_weight = file.floats("value_layer.weight"), value_bias = file.floats("value_layer.bias");
  std::vector<float> output_weight = file.floats("output_layer.weight"), output_bias = file.floats("output_layer.bias");

  mha_layer_config config() const {
    mha_layer_config config = {};
    config.embed_dim = kEmbed;
    config.num_heads = kHeads;
    return config;
  }
  mha_layer_weights weights() const { return separate_weights_of(*this); }
  LayerCall forward_args() const {
    LayerCall args;
    args.batch = 1;
    args.query_len = 1;
    args.key_len = kPositions;
    args.query = view(query.data());
    args.key = view(key.data());
    args.value = view(value.data());
    args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
    return args;
  }
};

/// What the code computes literally: at each of the 10 positions its 4 heads attend to one another. So the positions
/// are the batch, the heads are the sequence, and the one query row is there for every position (MHA_BROADCAST).
AttentionCall literal_args(const float* query, const float* key, const float* value) {
  AttentionCall args;
  args.batch = kPositions;
  args.num_heads = 1;
  args.query_len = kHeads;
  args.key_len = kHeads;
  args.head_dim = kHeadDim;
  args.query = view(query, {MHA_BROADCAST, kHeadDim, 0});
  args.key = view(key, {kEmbed, kHeadDim, 0});
  args.value = view(value, {kEmbed, kHeadDim, 0});
  args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
  return args;
}

/// rows x 20 through one of the notebook's linear layers.
std::vector<float> linear(const mha_context* context, const std::vector<float>& input, const std::vector<float>& weight,
                          const std::vector<float>& bias) {
  mha_error error = {};
  mha_linear_config config = {};
  config.in_features = config.out_features = kEmbed;
  config.weight = view(weight.data()), config.bias = bias.data();
  mha_linear* handle = nullptr;
  require_ok(mha_linear_create(context, &config, &handle, &error), error);
  const LinearPtr owner(handle);
  std::vector<float> output(input.size());
  mha_linear_args args = {};
  args.rows = static_cast<int64_t>(input.size()) / kEmbed;
  args.input = view(input.data());
  args.output = mut_view(output.data());
  require_ok(mha_linear_forward(context, handle, &args, &error), error);
  return output;
}

}  // namespace

TEST_CASE("notebook: standard attention is torch's nn.MultiheadAttention", "[notebook][golden]") {
  const Notebook notebook;
  REQUIRE(notebook.file.shape("standard.output") == std::vector<std::int64_t>{1, kEmbed});
  REQUIRE(notebook.file.shape("standard.weights") == std::vector<std::int64_t>{kHeads, 1, kPositions});
  const std::vector<double> want_output = notebook.file.doubles("standard.output");
  const std::vector<double> want_weights = notebook.file.doubles("standard.weights");
  const mha_layer_config config = notebook.config();
  const mha_layer_weights weights = notebook.weights();
  LayerCall args = notebook.forward_args();

  std::vector<double> reference_output(want_output.size()), reference_weights(want_weights.size());
  mha::reference::forward<double>(config, weights, args.raw(), reference_output.data(), reference_weights.data());
  check_rounds_to("reference output", reference_output, want_output);
  check_rounds_to("reference weights", reference_weights, want_weights);

  for_each_target([&](const std::string& target, const mha_context* context) {
    mha_error error = {};
    mha_layer* layer = nullptr;
    require_ok(mha_layer_create(context, &config, &weights, &layer, &error), error);
    const LayerPtr owner(layer);
    std::vector<float> output = poisoned(kEmbed), attention_weights = poisoned(kHeads * kPositions);
    args.output = mut_view(output.data());
    args.results.weights = mut_view(attention_weights.data());
    require_ok(layer_forward(context, layer, args, &error), error);
    check_close("standard output " + target, output, want_output, kOutputBound);
    check_close("standard weights " + target, attention_weights, want_weights, kWeightsBound);
  });
}

TEST_CASE("notebook: its code as written is a strided view of the same attention", "[notebook][golden]") {
  const Notebook notebook;
  REQUIRE(notebook.file.shape("literal.output") == std::vector<std::int64_t>{1, kPositions, kEmbed});
  REQUIRE(notebook.file.shape("literal.weights") == std::vector<std::int64_t>{1, kPositions, kHeads, kHeads});
  const std::vector<double> want_output = notebook.file.doubles("literal.output");
  const std::vector<double> want_weights = notebook.file.doubles("literal.weights");

  for_each_target([&](const std::string& target, const mha_context* context) {
    const std::vector<float> query = linear(context, notebook.query, notebook.query_weight, notebook.query_bias);
    const std::vector<float> key = linear(context, notebook.key, notebook.key_weight, notebook.key_bias);
    const std::vector<float> value = linear(context, notebook.value, notebook.value_weight, notebook.value_bias);

    AttentionCall args = literal_args(query.data(), key.data(), value.data());
    std::vector<float> heads = poisoned(kPositions * kEmbed), weights = poisoned(kPositions * kHeads * kHeads);
    args.output = mut_view(heads.data());  // dense [10, 4, 1, 5]: the concatenated heads of each position
    args.results.weights = mut_view(weights.data());
    mha_error error = {};
    require_ok(attention(context, args, &error), error);

    const std::vector<float> output = linear(context, heads, notebook.output_weight, notebook.output_bias);
    check_close("literal output " + target, output, want_output, kOutputBound);
    check_close("literal weights " + target, weights, want_weights, kWeightsBound);
  });
}

TEST_CASE("notebook: the literal form through the reference", "[notebook][golden]") {
  const Notebook notebook;
  // The reference reads float inputs, so its projections are rounded to float once on the way.
  const auto project = [](const std::vector<float>& input, const std::vector<float>& weight,
                          const std::vector<float>& bias) {
    std::vector<double> output(input.size());
    mha::reference::linear<double>(input.data(), kEmbed, static_cast<int64_t>(input.size()) / kEmbed, kEmbed,
                                   weight.data(), bias.data(), kEmbed, output.data());
    return output;
  };
  const auto rounded = [](const std::vector<double>& values) {
    return std::vector<float>(values.begin(), values.end());
  };
  const std::vector<float> query = rounded(project(notebook.query, notebook.query_weight, notebook.query_bias));
  const std::vector<float> key = rounded(project(notebook.key, notebook.key_weight, notebook.key_bias));
  const std::vector<float> value = rounded(project(notebook.value, notebook.value_weight, notebook.value_bias));

  std::vector<double> heads(kPositions * kEmbed), weights(kPositions * kHeads * kHeads);
  const AttentionCall args = literal_args(query.data(), key.data(), value.data());
  mha::reference::attention<double>(args.raw(), heads.data(), weights.data(), nullptr);
  const std::vector<double> output = project(rounded(heads), notebook.output_weight, notebook.output_bias);
  check_close("literal reference output", rounded(output), notebook.file.doubles("literal.output"), kOutputBound);
  check_close("literal reference weights", rounded(weights), notebook.file.doubles("literal.weights"), kWeightsBound);
}
