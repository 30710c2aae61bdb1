// SPDX-License-Identifier: Apache-2.0
// A BERT encoder on top of libmha: embeddings, then per layer attention (mha_layer) and a GELU feed-forward
// (mha_linear). Reads the weights of a .safetensors file in the naming of Hugging Face's BertModel. Errors are
// std::runtime_error with one line for a person.
#ifndef MHA_TOOLS_DEMO_MODEL_BERT_H
#define MHA_TOOLS_DEMO_MODEL_BERT_H

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tools/demo_common/handles.h"

namespace mha::demo {

/// What config.json says, as far as the encoder needs it.
struct BertConfig {
  int64_t hidden = 0, intermediate = 0, layers = 0, heads = 0, vocabulary = 0, positions = 0;
  float epsilon = 0;

  static BertConfig read(const std::string& path);
};

/// Token ids [batch, width], of which item b has lengths[b] in [1, width]; the rest is padding.
struct TokenBatch {
  int64_t batch = 0, width = 0;
  std::vector<int64_t> ids, lengths;

  /// Item `b` on its own, without padding.
  TokenBatch item(int64_t b) const;
};

class Bert {
 public:
  /// `context` must outlive this. In BF16 the weights are kept in bf16; what is between products stays in floats.
  Bert(const Context& context, const BertConfig& config, const std::string& weights_path, const ProductFormat& format);

  /// One embedding of Euclidean length 1 per item, [batch, hidden]: the mean over its tokens. Not thread-safe (it keeps
  /// its buffers between calls).
  std::vector<float> encode(const TokenBatch& tokens);

 private:
  struct Norm {
    std::vector<float> weight, bias;
  };
  struct Block {
    Layer attention;
    Linear up, down;
    Norm attention_norm, output_norm;
  };

  std::vector<float> tensor(const std::string& name, const std::vector<int64_t>& shape) const;
  Norm norm(const std::string& name) const;
  Linear linear(const std::string& name, int64_t in, int64_t out) const;
  Layer attention(const std::string& name) const;
  void check(const TokenBatch& tokens) const;
  void embed(const TokenBatch& tokens);
  void attend(const Block& layer, const TokenBatch& tokens);
  void feed_forward(const Block& layer, int64_t rows);

  const Context& context_;
  BertConfig config_;
  ProductFormat format_;
  int threads_;
  io::Safetensors file_;
  std::vector<float> words_, positions_, type_;
  Norm embedding_norm_;
  std::vector<Block> layers_;
  std::vector<float> state_, update_, inner_;  // [rows, hidden] twice, [block of rows, intermediate]
  std::vector<std::byte> workspace_;
};

}  // namespace mha::demo

#endif  // MHA_TOOLS_DEMO_MODEL_BERT_H
