// SPDX-License-Identifier: Apache-2.0
// attention_f32 and attention_weights_f32: scaled dot-product attention on its own, everything dense [B, T, H, D].
#include <cmath>
#include <vector>

#include "bench/case.h"
#include "bench/naive.h"
#include "bench/support.h"

namespace mha::bench {
namespace {

class AttentionCase : public Case {
 public:
  AttentionCase(const mha_context* context, const AttentionShape& shape, bool with_weights)
      : context_(context),
        query_(shape.query_len * shape.num_heads * shape.head_dim, kUnitVariance, 1),
        key_(shape.key_len * shape.num_kv_heads * shape.head_dim, kUnitVariance, 2),
        value_(key_.size(), kUnitVariance, 3),
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

CaseSpec make_case(const char* kind, const AttentionShape& s, int threads, bool with_weights) {
  std::string name = kind;
  for (const auto& [key, number] : {std::pair<const char*, int64_t>{"/Tq:", s.query_len},
                                    {"/Tk:", s.key_len},
                                    {"/H:", s.num_heads},
                                    {"/Hkv:", s.num_kv_heads},
                                    {"/D:", s.head_dim},
                                    {"/causal:", s.causal},
                                    {"/threads:", threads}})
    name += key + std::to_string(number);
  return {name, "", threads,
          [=](const mha_context* context) { return std::make_unique<AttentionCase>(context, s, with_weights); }};
}

}  // namespace

CaseSpec attention_case(const AttentionShape& shape, int threads) {
  return make_case("attention_f32", shape, threads, false);
}

CaseSpec attention_weights_case(const AttentionShape& shape, int threads) {
  return make_case("attention_weights_f32", shape, threads, true);
}

}  // namespace mha::bench
