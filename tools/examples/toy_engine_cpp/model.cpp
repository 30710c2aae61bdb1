// SPDX-License-Identifier: Apache-2.0
// Weights and forward pass. The elementwise loops have one order of operations, so that they round as those in C do.
#include "tools/examples/toy_engine_cpp/model.h"

#include <algorithm>
#include <cmath>

namespace toy {
namespace {

/// Random weights (splitmix64, doi:10.1145/2660193.2660195).
class Weights {
 public:
  explicit Weights(std::uint64_t seed) : state_(seed) {}

  std::vector<float> draw(std::int64_t count, float scale) {
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) value = static_cast<float>(integer()) * 0x1p-23f * scale;
    return values;
  }

  mha::Linear linear(const mha::Context& context, std::int64_t in, std::int64_t out, float scale) {
    const std::vector<float> weight = draw(in * out, scale * 1.7320508f / std::sqrt(static_cast<float>(in)));
    mha_linear_config config = {};
    config.in_features = in;
    config.out_features = out;
    config.weight = mha::view(weight.data());
    return require(mha::Linear::create(context, config));
  }

  mha::Layer attention(const mha::Context& context, float scale) {
    const std::int64_t rows = (kHeads + 2 * kKvHeads) * (kWidth / kHeads);
    const std::vector<float> in_proj = draw(rows * kWidth, 0.35f), out_proj = draw(kWidth * kWidth, 0.3f * scale);
    mha_layer_config config = {};
    config.embed_dim = kWidth;
    config.num_heads = kHeads;
    config.num_kv_heads = kKvHeads;
    mha_layer_weights weights = {};
    weights.in_proj_weight = mha::view(in_proj.data());
    weights.output_weight = mha::view(out_proj.data());
    return require(mha::Layer::create(context, config, weights));
  }

 private:
  std::int32_t integer() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return static_cast<std::int32_t>((z ^ (z >> 31)) >> 40) - (1 << 23);
  }

  std::uint64_t state_;
};

/// RMS norm of each row.
std::vector<float> norm(const std::vector<float>& rows) {
  std::vector<float> normed(rows.size());
  for (std::size_t begin = 0; begin < rows.size(); begin += kWidth) {
    float sum = 0;
    for (std::size_t i = begin; i < begin + kWidth; ++i) sum += rows[i] * rows[i];
    const float scale = 1.0f / std::sqrt(sum / kWidth + 1e-6f);
    for (std::size_t i = begin; i < begin + kWidth; ++i) normed[i] = rows[i] * scale;
  }
  return normed;
}

void add(std::vector<float>& sum, const std::vector<float>& other) {
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += other[i];
}

}  // namespace

Caches make_caches(const mha::Context& context, std::int64_t sequences, std::int64_t tokens) {
  mha_cache_config config = {};
  config.kind = MHA_CACHE_PAGED;
  config.num_kv_heads = kKvHeads;
  config.head_dim = kWidth / kHeads;
  config.max_sequences = sequences;
  config.capacity = tokens;
  config.page_size = 16;
  config.key.dtype = config.value.dtype = MHA_I8;  // with a scale for each token and head
  Caches caches;
  for (std::int64_t n = 0; n < kLayers; ++n) caches.push_back(require(mha::Cache::create(context, config)));
  return caches;
}

Model::Model(const mha::Context& context, std::uint64_t seed) : context_(context) {
  Weights weights(seed);
  embeddings_ = weights.draw(kVocabulary * kWidth, 1);
  for (std::int64_t n = 0; n < kLayers; ++n) {
    const float scale = n == 0 ? 1.0f : 0.5f;  // the first layer says most, so that it makes good drafts
    Block block;
    block.attention = weights.attention(context, scale);
    block.up = weights.linear(context, kWidth, kInner, 1);
    block.down = weights.linear(context, kInner, kWidth, scale);
    blocks_.push_back(std::move(block));
  }
  head_ = weights.linear(context, kWidth, kVocabulary, 1);
}

std::vector<float> Model::apply(const mha::Linear& linear, const std::vector<float>& input) const {
  const mha_linear_config config = linear.config();
  mha_linear_args args = {};
  args.rows = static_cast<std::int64_t>(input.size()) / config.in_features;
  std::vector<float> output(static_cast<std::size_t>(args.rows * config.out_features));
  args.input = mha::view(input.data());
  args.output = mha::mut_view(output.data());
  require(linear.forward(context_, args));
  return output;
}

std::vector<float> Model::attend(const Block& block, mha_cache* cache, const std::vector<Item>& items,
                                 const std::vector<float>& input) const {
  std::vector<std::int64_t> sequences, offsets = {0};
  for (const Item& item : items) {
    sequences.push_back(item.sequence);
    offsets.push_back(offsets.back() + static_cast<std::int64_t>(item.tokens.size()));
  }
  std::vector<float> output(input.size());
  const mha_rope rope = {};
  mha::LayerCall args;
  args.batch = static_cast<std::int64_t>(items.size());
  args.query_len = offsets.back();
  args.query = mha::view(input.data());
  args.output = mha::mut_view(output.data());
  args.causal = 1;
  args.items.query_offsets = offsets.data();
  args.items.sequences = sequences.data();
  args.rope = &rope;
  args.cache = cache;
  require(block.attention.forward(context_, args));
  return output;
}

Rows Model::run(const Caches& caches, const std::vector<Item>& items, std::int64_t layers) const {
  std::vector<float> state, last;
  for (const Item& item : items)
    for (const Token token : item.tokens)
      state.insert(state.end(), embeddings_.begin() + token * kWidth, embeddings_.begin() + (token + 1) * kWidth);
  for (std::size_t n = 0; n < static_cast<std::size_t>(layers); ++n) {
    add(state, attend(blocks_[n], caches[n].get(), items, norm(state)));
    std::vector<float> inner = apply(blocks_[n].up, norm(state));
    for (float& value : inner) value = std::max(value, 0.0f);
    add(state, apply(blocks_[n].down, inner));
  }
  std::int64_t end = 0;
  for (const Item& item : items) {
    end += static_cast<std::int64_t>(item.tokens.size());
    last.insert(last.end(), state.begin() + (end - item.wanted) * kWidth, state.begin() + end * kWidth);
  }
  Rows rows;
  rows.hidden = norm(last);
  rows.logits = apply(head_, rows.hidden);
  return rows;
}

}  // namespace toy
