// SPDX-License-Identifier: Apache-2.0
// The decoder's forward pass, and the reading of its weights.
#include "tools/demo_decode/llama.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "tools/demo_decode/elementwise.h"

namespace mha::demo {
namespace {

// Rows that pass through the feed-forward together, so that their inner activations stay in the second-level cache. A
// row's bits do not depend on its block.
constexpr int64_t kBlockRows = 192;

LlamaConfig read_config(const io::Safetensors& file) {
  const auto found = file.metadata().find("config");
  if (found == file.metadata().end()) fail(file.label() + ": no metadata entry \"config\"");
  try {
    const auto json = nlohmann::json::parse(found->second);
    LlamaConfig config;
    config.vocabulary = json.at("vocabulary");
    config.hidden = json.at("hidden");
    config.intermediate = json.at("intermediate");
    config.layers = json.at("layers");
    config.heads = json.at("heads");
    config.kv_heads = json.at("kv_heads");
    config.head_dim = json.at("head_dim");
    config.epsilon = json.at("epsilon");
    config.rope_base = json.at("rope_base");
    return config;
  } catch (const std::exception& error) {
    fail(file.label() + ": config: " + error.what());
  }
}

}  // namespace

void Step::add(int64_t sequence, const int64_t* tokens, int64_t count) {
  sequences.push_back(sequence);
  ids.insert(ids.end(), tokens, tokens + count);
  offsets.push_back(static_cast<int64_t>(ids.size()));
}

Llama::Llama(const Context& context, const std::string& weights_path, mha_arithmetic arithmetic)
    : context_(context),
      arithmetic_(arithmetic),
      threads_(static_cast<int>(context.num_threads())),
      file_(open_weights(weights_path)),
      config_(read_config(file_)) {
  const LlamaConfig& c = config_;
  rope_.style = MHA_ROPE_HALF;
  rope_.base = c.rope_base;
  embeddings_ = tensor("embed_tokens.weight", {c.vocabulary, c.hidden});
  final_norm_ = tensor("norm.weight", {c.hidden});
  head_ = linear(tensor("lm_head.weight", {c.vocabulary, c.hidden}), c.hidden, c.vocabulary);
  for (int64_t n = 0; n < c.layers; ++n) {
    const std::string name = "layers." + std::to_string(n) + ".";
    Block layer;
    layer.attention_norm = tensor(name + "input_layernorm.weight", {c.hidden});
    layer.attention = attention(name + "self_attn.");
    layer.feed_forward_norm = tensor(name + "post_attention_layernorm.weight", {c.hidden});
    layer.gate_up = gate_up(name + "mlp.");
    layer.down = linear(tensor(name + "mlp.down_proj.weight", {c.hidden, c.intermediate}), c.intermediate, c.hidden);
    layers_.push_back(std::move(layer));
  }
  inner_.resize(static_cast<size_t>(kBlockRows * 2 * c.intermediate));
  gated_.resize(static_cast<size_t>(kBlockRows * c.intermediate));
}

std::vector<float> Llama::tensor(const std::string& name, const std::vector<int64_t>& shape) const {
  return read_tensor(file_, name, shape);
}

Linear Llama::linear(const std::vector<float>& weight, int64_t in, int64_t out) const {
  return make_linear(context_, in, out, weight.data(), nullptr, {arithmetic_, {}});
}

/// Both in one product: rows of gate_proj, then of up_proj.
Linear Llama::gate_up(const std::string& name) const {
  const std::vector<int64_t> shape = {config_.intermediate, config_.hidden};
  std::vector<float> weight = tensor(name + "gate_proj.weight", shape);
  const std::vector<float> up = tensor(name + "up_proj.weight", shape);
  weight.insert(weight.end(), up.begin(), up.end());
  return linear(weight, config_.hidden, 2 * config_.intermediate);
}

Layer Llama::attention(const std::string& name) const {
  const LlamaConfig& c = config_;
  const int64_t query_width = c.heads * c.head_dim, key_width = c.kv_heads * c.head_dim;
  const std::vector<float> query = tensor(name + "q_proj.weight", {query_width, c.hidden});
  const std::vector<float> key = tensor(name + "k_proj.weight", {key_width, c.hidden});
  const std::vector<float> value = tensor(name + "v_proj.weight", {key_width, c.hidden});
  const std::vector<float> output = tensor(name + "o_proj.weight", {c.hidden, query_width});
  mha_layer_config config = {};
  config.embed_dim = c.hidden;
  config.num_heads = c.heads;
  config.num_kv_heads = c.kv_heads;
  config.head_dim = c.head_dim;
  config.arithmetic = arithmetic_;
  mha_layer_weights weights = {};
  weights.query_weight = view(query.data());
  weights.key_weight = view(key.data());
  weights.value_weight = view(value.data());
  weights.output_weight = view(output.data());
  return require(Layer::create(context_, config, weights));
}

Caches Llama::make_caches(mha_cache_config shape) const {
  shape.num_kv_heads = config_.kv_heads;
  shape.head_dim = config_.head_dim;
  Caches caches;
  for (int64_t n = 0; n < config_.layers; ++n) caches.push_back(require(Cache::create(context_, shape)));
  return caches;
}

void Llama::check(const Step& step) const {
  for (const int64_t id : step.ids)
    if (id < 0 || id >= config_.vocabulary)
      fail("token id " + std::to_string(id) + " is not in [0, " + std::to_string(config_.vocabulary) + ")");
}

/// state += attention(norm(state)); one call projects, rotates, appends to the cache and attends.
void Llama::attend(const Block& layer, mha_cache* cache, const Step& step, int64_t window) {
  const int64_t rows = step.offsets.back();
  rms_normalise(state_.data(), layer.attention_norm.data(), config_.epsilon, rows, config_.hidden, normed_.data(),
                threads_);
  LayerCall args;
  args.batch = static_cast<int64_t>(step.sequences.size());
  args.query_len = rows;
  args.items.query_offsets = step.offsets.data();
  args.query = view(normed_.data());
  args.causal = 1;
  args.arithmetic = arithmetic_;
  args.masks.window_left = window;
  args.rope = &rope_;
  args.cache = cache;
  args.items.sequences = step.sequences.data();
  args.output = mut_view(update_.data());
  const size_t bytes = require(layer.attention.workspace_bytes(context_, args));
  if (workspace_.size() < bytes) workspace_.resize(bytes);
  args.resources.workspace = workspace_.data();
  args.resources.workspace_bytes = workspace_.size();
  require(layer.attention.forward(context_, args));
  add(state_.data(), update_.data(), rows * config_.hidden);
}

/// state += down(silu(gate(norm(state))) * up(norm(state))), a block of rows at a time.
void Llama::feed_forward(const Block& layer, int64_t rows) {
  for (int64_t row = 0; row < rows; row += kBlockRows) {
    const int64_t count = std::min(kBlockRows, rows - row);
    float* state = state_.data() + row * config_.hidden;
    float* normed = normed_.data() + row * config_.hidden;
    float* update = update_.data() + row * config_.hidden;
    rms_normalise(state, layer.feed_forward_norm.data(), config_.epsilon, count, config_.hidden, normed, threads_);
    apply(context_, layer.gate_up, count, normed, inner_.data());
    swiglu(inner_.data(), count, config_.intermediate, gated_.data(), threads_);
    apply(context_, layer.down, count, gated_.data(), update);
    add(state, update, count * config_.hidden);
  }
}

std::vector<float> Llama::forward(const Caches& caches, const Step& step, int64_t window) {
  check(step);
  const int64_t rows = step.offsets.back(), hidden = config_.hidden;
  const auto batch = static_cast<int64_t>(step.sequences.size());
  for (std::vector<float>* buffer : {&state_, &normed_, &update_})
    buffer->resize(std::max(buffer->size(), static_cast<size_t>(rows * hidden)));
  for (int64_t row = 0; row < rows; ++row)
    std::copy_n(embeddings_.data() + step.ids[static_cast<size_t>(row)] * hidden, hidden, state_.data() + row * hidden);
  for (size_t n = 0; n < layers_.size(); ++n) {
    attend(layers_[n], caches[n].get(), step, window);
    feed_forward(layers_[n], rows);
  }
  for (int64_t b = 0; b < batch; ++b)
    rms_normalise(state_.data() + (step.offsets[static_cast<size_t>(b) + 1] - 1) * hidden, final_norm_.data(),
                  config_.epsilon, 1, hidden, normed_.data() + b * hidden, threads_);
  std::vector<float> logits(static_cast<size_t>(batch * config_.vocabulary));
  apply(context_, head_, batch, normed_.data(), logits.data());
  return logits;
}

}  // namespace mha::demo
