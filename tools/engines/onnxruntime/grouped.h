// SPDX-License-Identifier: Apache-2.0
// GroupQueryAttention of com.microsoft: its attributes, and what a call brings.
#pragma once

#include "attention.h"

namespace host {
namespace grouped {

enum Input {
  kQuery,
  kKey,
  kValue,
  kPastKey,
  kPastValue,
  kLengths,  // seqlens_k: tokens after this call, minus 1
  kTotal,
  kCos,
  kSin,
  kPositions,
  kBias,
  kSink,
  kKeyScale,
  kValueScale,
  kQueryNorm,
  kKeyNorm,
  kQueryLengths,
  kInputs
};
enum Output { kOutput, kPresentKey, kPresentValue, kProducts, kOutputs };

struct Settings {
  explicit Settings(const Node& node);
  std::int64_t heads, key_heads, causal, window, rotary, interleaved, smooth, bits;
  float scale, softcap, query_epsilon, key_epsilon;
  std::string key_type, value_type;
};

struct Operands {
  Rows queries, keys;
  mha_view query, key, value;
  mha_dtype type, stored;  // stored: of the cache
};
Operands read_operands(const Call& call, const Settings& of);

// What each item of the batch has in this call.
struct Lengths {
  std::int64_t before, fresh;  // tokens in the cache, and new ones
};
std::vector<Lengths> read_lengths(const Call& call, const Rows& queries);

// The tokens that the present tensors have room for.
std::int64_t room_for(const Call& call, const Settings& of, const Operands& operands,
                      const std::vector<Lengths>& lengths);

// The scales of a cache of codes: one, or one for each channel of each head.
struct Codes {
  mha_quant quant = {};
  mha_storage storage = {};
  bool used = false;
};
// type: PER_TENSOR or PER_CHANNEL. name: of keys or values, for messages.
Codes codes(const Tensor& scale, mha_dtype stored, const std::string& type, const char* name, const Rows& rows);

}  // namespace grouped
}  // namespace host
