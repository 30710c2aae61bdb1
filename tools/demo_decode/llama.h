// SPDX-License-Identifier: Apache-2.0
// A Llama-style decoder on top of libmha: per layer attention with rotary positions and a cache (mha_layer) and a
// SwiGLU feed-forward (mha_linear). Reads the weights of a .safetensors file in Llama's naming, and its sizes from the
// entry "config" of the file's metadata. Errors are std::runtime_error with one line for a person.
#ifndef MHA_TOOLS_DEMO_DECODE_LLAMA_H
#define MHA_TOOLS_DEMO_DECODE_LLAMA_H

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tools/demo_common/handles.h"

namespace mha::demo {

struct LlamaConfig {
  int64_t vocabulary = 0, hidden = 0, intermediate = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0;
  float epsilon = 0;
  double rope_base = 0;
};

/// Keys and values of every layer: one cache each, of the same shape.
using Caches = std::vector<Cache>;

/// New tokens of some sequences, packed one sequence after the other.
struct Step {
  std::vector<int64_t> sequences;
  std::vector<int64_t> offsets = {0};  // tokens [offsets[b], offsets[b+1]) belong to sequences[b]
  std::vector<int64_t> ids;

  void add(int64_t sequence, const int64_t* tokens, int64_t count);
};

class Llama {
 public:
  /// `context` must outlive this. In BF16 the weights are kept in bf16; what is between products stays in floats.
  Llama(const Context& context, const std::string& weights_path, mha_arithmetic arithmetic = MHA_ARITHMETIC_F32);

  const LlamaConfig& config() const { return config_; }
  Caches make_caches(mha_cache_config shape) const;

  /// Appends the step's tokens to its sequences and returns the logits [sequences, vocabulary] behind the last of each.
  /// `window` > 0: every token sees that many, itself included. Not thread-safe (it keeps its buffers between calls).
  std::vector<float> forward(const Caches& caches, const Step& step, int64_t window = 0);

 private:
  struct Block {
    Layer attention;
    Linear gate_up, down;
    std::vector<float> attention_norm, feed_forward_norm;
  };

  std::vector<float> tensor(const std::string& name, const std::vector<int64_t>& shape) const;
  Linear linear(const std::vector<float>& weight, int64_t in, int64_t out) const;
  Linear gate_up(const std::string& name) const;
  Layer attention(const std::string& name) const;
  void check(const Step& step) const;
  void attend(const Block& layer, mha_cache* cache, const Step& step, int64_t window);
  void feed_forward(const Block& layer, int64_t rows);

  const Context& context_;
  mha_arithmetic arithmetic_;
  int threads_;
  io::Safetensors file_;
  LlamaConfig config_;
  mha_rope rope_ = {};
  std::vector<float> embeddings_, final_norm_;
  Linear head_;
  std::vector<Block> layers_;
  std::vector<float> state_, normed_, update_;  // [rows, hidden] each
  std::vector<float> inner_, gated_;            // [block of rows, 2 * intermediate], [block of rows, intermediate]
  std::vector<std::byte> workspace_;
};

}  // namespace mha::demo

#endif  // MHA_TOOLS_DEMO_DECODE_LLAMA_H
