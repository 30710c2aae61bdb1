// SPDX-License-Identifier: Apache-2.0
// attention_f32 and attention_weights_f32: scaled dot-product attention on its own, everything dense [B, T, H, D].
// attention_f32_denormal: on values that are, or whose products are, denormal.
#include <cmath>
#include <vector>

#include "bench/case.h"
#include "bench/naive.h"
#include "bench/support.h"
#include "bench/twin.h"

namespace mha::bench {
namespace {

// What the values are multiplied by.
struct Scales {
  float query, key, value;
};
constexpr Scales kOrdinary = {1, 1, 1};
// Every product of query and key is denormal, as are their sums, every value, and the result.
constexpr Scales kDenormal = {1e-20f, 1e-20f, 5e-39f};

class AttentionCase : public Case {
 public:
  AttentionCase(const mha_context* context, const AttentionShape& shape, bool with_weights,
                const Scales& scales = kOrdinary)
      : context_(context),
        query_(shape.query_len * shape.num_heads * shape.head_dim, kUnitVariance * scales.query, 1),
        key_(shape.key_len * shape.num_kv_heads * shape.head_dim, kUnitVariance * scales.key, 2),
        value_(key_.size(), kUnitVariance * scales.value, 3),
        output_(query_.size()) {
    output_.fill(std::nanf(""));
    args_.batch = 1;
    args_.num_heads = shape.num_heads;
    args_.num_kv_heads = shape.num_kv_heads;
    args_.query_len = shape.query_len;
    args_.key_len = shape.key_len;
    args_.head_dim = shape.head_dim;
    args_.query.data = query_.data();
    args_.key.data = key_.data();
    args_.value.data = value_.data();
    args_.output.data = output_.data();
    args_.masks.causal = shape.causal ? MHA_CAUSAL_BOTTOM_RIGHT : MHA_CAUSAL_NONE;
    if (with_weights) {
      weights_ = Floats(shape.num_heads * shape.query_len * shape.key_len);
      weights_.fill(std::nanf(""));
      args_.weights_mode = MHA_WEIGHTS_PER_HEAD;
      args_.weights.data = weights_.data();
    }
    mha_error error = {};
    require(mha_attention_workspace(context, &args_, &args_.workspace_bytes, &error), error);
    workspace_.resize(args_.workspace_bytes);
    args_.workspace = workspace_.data();

    flops = 4.0 * static_cast<double>(shape.head_dim * shape.num_heads) * visible_pairs(args_);
    bytes = 4.0 * static_cast<double>(query_.size() + key_.size() + value_.size() + output_.size() + weights_.size());
    if (shape.query_len == 1) streamed = {key_.region(), value_.region()};
  }
  mha_status run() override { return mha_attention(context_, &args_, nullptr); }
  std::string check() override { return check_attention(args_, output_.data(), weights_.data()); }
  double naive_seconds(int threads) override {
    return naive_attention_seconds(args_, threads, weights_.data() != nullptr);
  }

 private:
  const mha_context* context_;
  Floats query_, key_, value_, output_, weights_;
  std::vector<unsigned char> workspace_;
  mha_attention_args args_ = {};
};

std::string name_of(const char* kind, const AttentionShape& s, int threads) {
  std::string name = kind;
  for (const auto& [key, number] : {std::pair<const char*, int64_t>{"/Tq:", s.query_len},
                                    {"/Tk:", s.key_len},
                                    {"/H:", s.num_heads},
                                    {"/Hkv:", s.num_kv_heads},
                                    {"/D:", s.head_dim},
                                    {"/causal:", s.causal},
                                    {"/threads:", threads}})
    name += key + std::to_string(number);
  return name;
}

}  // namespace

CaseSpec attention_case(const AttentionShape& shape, int threads) {
  return {name_of("attention_f32", shape, threads), "", threads,
          [=](const mha_context* context) { return std::make_unique<AttentionCase>(context, shape, false); }};
}

CaseSpec attention_denormal_case(const AttentionShape& shape, int threads) {
  return {name_of("attention_f32_denormal", shape, threads), "", threads, [=](const mha_context* context) {
            return std::make_unique<TwinCase>(std::make_unique<AttentionCase>(context, shape, false, kDenormal),
                                              std::make_unique<AttentionCase>(context, shape, false), "denormal_ratio");
          }};
}

CaseSpec attention_weights_case(const AttentionShape& shape, int threads) {
  return {name_of("attention_weights_f32", shape, threads), "", threads,
          [=](const mha_context* context) { return std::make_unique<AttentionCase>(context, shape, true); }};
}

}  // namespace mha::bench
