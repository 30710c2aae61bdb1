// SPDX-License-Identifier: Apache-2.0
// The model of toy_engine/model.h in C++ over mha.hpp: the same sizes and weights, and so the same tokens. Errors are
// std::runtime_error.
#ifndef MHA_TOOLS_EXAMPLES_TOY_ENGINE_CPP_MODEL_H
#define MHA_TOOLS_EXAMPLES_TOY_ENGINE_CPP_MODEL_H

#include <cstdint>
#include <mha/mha.hpp>
#include <stdexcept>
#include <utility>
#include <vector>

namespace toy {

using Token = std::int32_t;

inline constexpr std::int64_t kLayers = 2, kWidth = 64, kHeads = 4, kKvHeads = 2, kInner = 128, kVocabulary = 256;

inline void require(const mha::Status& status) {
  if (!status) throw std::runtime_error(status.message());
}
template <class T>
T require(mha::Result<T> result) {
  require(result.status());
  return std::move(*result);
}

/// One for each layer.
using Caches = std::vector<mha::Cache>;
Caches make_caches(const mha::Context& context, std::int64_t sequences, std::int64_t tokens);

/// Tokens that are appended to a sequence; the last `wanted` of them get logits.
struct Item {
  std::int64_t sequence = 0;
  std::vector<Token> tokens;
  std::int64_t wanted = 0;
};

/// A row for each wanted token, item after item.
struct Rows {
  std::vector<float> hidden, logits;
};

class Model {
 public:
  /// `context` must outlive the model.
  Model(const mha::Context& context, std::uint64_t seed);
  /// Runs the first `layers` layers on all items in one call each.
  Rows run(const Caches& caches, const std::vector<Item>& items, std::int64_t layers) const;

 private:
  struct Block {
    mha::Layer attention;
    mha::Linear up, down;
  };
  std::vector<float> apply(const mha::Linear& linear, const std::vector<float>& input) const;
  std::vector<float> attend(const Block& block, mha_cache* cache, const std::vector<Item>& items,
                            const std::vector<float>& input) const;

  const mha::Context& context_;
  std::vector<float> embeddings_;
  std::vector<Block> blocks_;
  mha::Linear head_;
};

}  // namespace toy

#endif  // MHA_TOOLS_EXAMPLES_TOY_ENGINE_CPP_MODEL_H
