// SPDX-License-Identifier: Apache-2.0
// The encoder's forward pass, and the reading of its weights.
#include "tools/demo_model/bert.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "tools/demo_model/elementwise.h"
#include "tools/io/projection.h"

namespace mha::demo {
namespace {

// Rows that pass through the feed-forward together: their inner activations (1536 floats each in MiniLM) stay in the
// second-level cache between the two products. A row's bits do not depend on its block.
constexpr int64_t kBlockRows = 384;

}  // namespace

BertConfig BertConfig::read(const std::string& path) {
  std::ifstream stream(path);
  if (!stream) fail(path + ": cannot be opened");
  try {
    const auto json = nlohmann::json::parse(stream);
    if (json.at("hidden_act") != "gelu") fail("hidden_act is not gelu");
    if (json.value("position_embedding_type", "absolute") != "absolute") fail("positions are not absolute");
    BertConfig config;
    config.hidden = json.at("hidden_size");
    config.intermediate = json.at("intermediate_size");
    config.layers = json.at("num_hidden_layers");
    config.heads = json.at("num_attention_heads");
    config.vocabulary = json.at("vocab_size");
    config.positions = json.at("max_position_embeddings");
    config.epsilon = json.at("layer_norm_eps");
    return config;
  } catch (const std::exception& error) {
    fail(path + ": " + error.what());
  }
}

TokenBatch TokenBatch::item(int64_t b) const {
  const auto first = ids.begin() + b * width;
  return {1, lengths[b], {first, first + lengths[b]}, {lengths[b]}};
}

Bert::Bert(const Context& context, const BertConfig& config, const std::string& weights_path,
           const ProductFormat& format)
    : context_(context),
      config_(config),
      format_(format),
      threads_(static_cast<int>(context.num_threads())),
      file_(open_weights(weights_path)) {
  words_ = tensor("embeddings.word_embeddings.weight", {config_.vocabulary, config_.hidden});
  positions_ = tensor("embeddings.position_embeddings.weight", {config_.positions, config_.hidden});
  type_ = tensor("embeddings.token_type_embeddings.weight", {2, config_.hidden});
  embedding_norm_ = norm("embeddings.LayerNorm");
  for (int64_t n = 0; n < config_.layers; ++n) {
    const std::string name = "encoder.layer." + std::to_string(n) + ".";
    Block layer;
    layer.attention = attention(name + "attention.");
    layer.attention_norm = norm(name + "attention.output.LayerNorm");
    layer.up = linear(name + "intermediate.dense", config_.hidden, config_.intermediate);
    layer.down = linear(name + "output.dense", config_.intermediate, config_.hidden);
    layer.output_norm = norm(name + "output.LayerNorm");
    layers_.push_back(std::move(layer));
  }
  inner_.resize(static_cast<size_t>(kBlockRows * config_.intermediate));
}

std::vector<float> Bert::tensor(const std::string& name, const std::vector<int64_t>& shape) const {
  return read_tensor(file_, name, shape);
}

Bert::Norm Bert::norm(const std::string& name) const {
  return {tensor(name + ".weight", {config_.hidden}), tensor(name + ".bias", {config_.hidden})};
}

Linear Bert::linear(const std::string& name, int64_t in, int64_t out) const {
  const std::vector<float> weight = tensor(name + ".weight", {out, in}), bias = tensor(name + ".bias", {out});
  return make_linear(context_, in, out, weight.data(), bias.data(), format_);
}

Layer Bert::attention(const std::string& name) const {
  const int64_t hidden = config_.hidden;
  const auto dense = [&](const std::string& part) {
    return io::Projection{tensor(name + part + ".weight", {hidden, hidden}), tensor(name + part + ".bias", {hidden})};
  };
  const io::Projection query = dense("self.query"), key = dense("self.key"), value = dense("self.value");
  const io::Projection output = dense("output.dense");
  mha_layer_config config = {};
  config.embed_dim = hidden;
  config.num_heads = config_.heads;
  config.arithmetic = format_.arithmetic, config.packed = format_.packed();
  const mha_layer_weights weights = io::layer_weights(query, key, value, output);
  return require(Layer::create(context_, config, weights));
}

void Bert::check(const TokenBatch& tokens) const {
  if (tokens.width > config_.positions)
    fail(std::to_string(tokens.width) + " tokens in a row; the model has " + std::to_string(config_.positions) +
         " positions");
  for (const int64_t length : tokens.lengths)
    if (length < 1 || length > tokens.width)
      fail("length " + std::to_string(length) + " is not in [1, " + std::to_string(tokens.width) + "]");
  for (const int64_t id : tokens.ids)
    if (id < 0 || id >= config_.vocabulary)
      fail("token id " + std::to_string(id) + " is not in [0, " + std::to_string(config_.vocabulary) + ")");
}

void Bert::embed(const TokenBatch& tokens) {
  const int64_t hidden = config_.hidden, rows = tokens.batch * tokens.width;
  for (int64_t row = 0; row < rows; ++row) {
    const float* word = words_.data() + tokens.ids[static_cast<size_t>(row)] * hidden;
    const float* position = positions_.data() + row % tokens.width * hidden;
    float* state = state_.data() + row * hidden;
    for (int64_t n = 0; n < hidden; ++n) state[n] = word[n] + position[n] + type_[static_cast<size_t>(n)];
  }
  add_and_normalise(state_.data(), nullptr, embedding_norm_.weight.data(), embedding_norm_.bias.data(), config_.epsilon,
                    rows, hidden, threads_);
}

/// state = norm(state + attention(state)); keys beyond an item's length are not seen.
void Bert::attend(const Block& layer, const TokenBatch& tokens) {
  LayerCall args;
  args.batch = tokens.batch;
  args.query_len = tokens.width;
  args.query = view(state_.data());
  args.items.key_lengths = tokens.lengths.data();
  args.arithmetic = format_.over_floats();
  args.output = mut_view(update_.data());
  const size_t bytes = require(layer.attention.workspace_bytes(context_, args));
  if (workspace_.size() < bytes) workspace_.resize(bytes);
  args.resources.workspace = workspace_.data();
  args.resources.workspace_bytes = workspace_.size();
  require(layer.attention.forward(context_, args));
  add_and_normalise(state_.data(), update_.data(), layer.attention_norm.weight.data(), layer.attention_norm.bias.data(),
                    config_.epsilon, tokens.batch * tokens.width, config_.hidden, threads_);
}

/// state = norm(state + down(gelu(up(state)))), a block of rows at a time.
void Bert::feed_forward(const Block& layer, int64_t rows) {
  for (int64_t row = 0; row < rows; row += kBlockRows) {
    const int64_t count = std::min(kBlockRows, rows - row);
    float* state = state_.data() + row * config_.hidden;
    float* update = update_.data() + row * config_.hidden;
    apply(context_, layer.up, count, state, inner_.data());
    gelu(inner_.data(), count, config_.intermediate, threads_);
    apply(context_, layer.down, count, inner_.data(), update);
    add_and_normalise(state, update, layer.output_norm.weight.data(), layer.output_norm.bias.data(), config_.epsilon,
                      count, config_.hidden, threads_);
  }
}

std::vector<float> Bert::encode(const TokenBatch& tokens) {
  check(tokens);
  const int64_t rows = tokens.batch * tokens.width, hidden = config_.hidden;
  state_.resize(std::max(state_.size(), static_cast<size_t>(rows * hidden)));
  update_.resize(state_.size());
  embed(tokens);
  for (const Block& layer : layers_) {
    attend(layer, tokens);
    feed_forward(layer, rows);
  }
  std::vector<float> embeddings(static_cast<size_t>(tokens.batch * hidden));
  for (int64_t b = 0; b < tokens.batch; ++b)
    mean_pool(state_.data() + b * tokens.width * hidden, tokens.lengths[static_cast<size_t>(b)], hidden,
              embeddings.data() + b * hidden);
  return embeddings;
}

}  // namespace mha::demo
