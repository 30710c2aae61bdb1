// SPDX-License-Identifier: Apache-2.0
// attention_int8, linear_int8, linear_int4: calls over codes in INT8 arithmetic, timed in turn with the call over floats
// in F32. attention_int8: keys and values as int8 rows with a float scale each, queries and results floats. linear_int8:
// weights with a float scale for each output; linear_int4: with f16 scales of 32 inputs; inputs and results floats.
// Checked against the reference over the floats that codes stand for.
#include <cmath>

#include "bench/attention_case.h"
#include "bench/elements.h"
#include "bench/twin.h"

namespace mha::bench {
namespace {

constexpr int64_t kRowsBoundByReading = 8;  // as in linear_f32

class AttentionInt8Case : public Case {
 public:
  AttentionInt8Case(const Context& context, const AttentionShape& s)
      : context_(context),
        query_(s.query_len * s.num_heads * s.head_dim, kUnitVariance, 1),
        key_(context, MHA_I8, s.key_len, s.num_kv_heads, s.head_dim, kUnitVariance, 2),
        value_(context, MHA_I8, s.key_len, s.num_kv_heads, s.head_dim, kUnitVariance, 3),
        output_(query_.size()) {
    output_.fill(std::nanf(""));
    args_.batch = 1;
    args_.num_heads = s.num_heads;
    args_.num_kv_heads = s.num_kv_heads;
    args_.query_len = s.query_len;
    args_.key_len = s.key_len;
    args_.head_dim = s.head_dim;
    args_.causal = s.causal ? 1 : 0;
    args_.arithmetic = MHA_ARITHMETIC_INT8;
    args_.query = view(query_.data());
    args_.key = key_.view();
    args_.value = value_.view();
    args_.output = mut_view(output_.data());
    workspace_.resize(require(context.attention_workspace_bytes(args_)));
    args_.resources.workspace = workspace_.data();
    args_.resources.workspace_bytes = workspace_.size();
    ready_ = args_.raw();
    flops = 4.0 * static_cast<double>(s.head_dim * s.num_heads) * visible_pairs(args_);
    bytes = 4.0 * static_cast<double>(query_.size() + output_.size()) + key_.bytes + value_.bytes;
    is_integer = true;
  }
  mha_status run() override { return mha_attention(context_.get(), &ready_, nullptr); }
  std::string check() override { return check_attention(widened(), output_.data(), nullptr); }
  double naive_seconds(int threads) override { return naive_attention_seconds(widened(), threads, false); }

 private:
  AttentionCall widened() const {
    AttentionCall wide = args_;
    wide.key = view(key_.wide.data());
    wide.value = view(value_.wide.data());
    return wide;
  }

  const Context& context_;
  Floats query_;
  Coded key_, value_;
  Floats output_;
  std::vector<unsigned char> workspace_;
  AttentionCall args_;
  mha_attention_args ready_ = {};  // points into args_
};

class LinearCodesCase : public Case {
 public:
  LinearCodesCase(const Context& context, int64_t M, int64_t N, int64_t K, mha_dtype dtype)
      : context_(context),
        input_(M * K, kUnitVariance, 1),
        weight_(context, dtype, N, 1, K, kUnitVariance / std::sqrt(static_cast<float>(K)), 2),
        bias_(N, 1, 3),
        output_(M * N),
        problem_{M, K, N, input_.data(), weight_.wide.data(), bias_.data()} {
    output_.fill(std::nanf(""));
    mha_linear_config config = {};
    config.in_features = K;
    config.out_features = N;
    config.weight = weight_.view();
    config.bias = bias_.data();
    config.arithmetic = MHA_ARITHMETIC_INT8;
    linear_ = require(Linear::create(context, config));
    args_.rows = M;
    args_.input = view(input_.data());
    args_.output = mut_view(output_.data());
    workspace_.resize(require(linear_.workspace_bytes(context, args_)));
    resources_.workspace = workspace_.data();
    resources_.workspace_bytes = workspace_.size();
    args_.resources = &resources_;
    flops = 2.0 * static_cast<double>(M) * static_cast<double>(N) * static_cast<double>(K);
    bytes = 4.0 * static_cast<double>(M * K + N + M * N) + weight_.bytes;
    is_integer = true;
    // The packed weights are inside the library; the given codes are as many bytes.
    if (M <= kRowsBoundByReading) streamed = {weight_.region()};
  }
  mha_status run() override { return mha_linear_forward(context_.get(), linear_.get(), &args_, nullptr); }
  std::string check() override { return check_linear(problem_, output_.data(), MHA_ARITHMETIC_INT8); }
  double naive_seconds(int threads) override { return naive_linear_seconds(problem_, threads); }

 private:
  const Context& context_;
  Floats input_;
  Coded weight_;
  Floats bias_, output_;
  LinearProblem problem_;
  Linear linear_;
  std::vector<unsigned char> workspace_;
  mha_resources resources_ = {};
  mha_linear_args args_ = {};
};

/// The name of the case over floats, with `family` instead of its own.
std::string renamed(const CaseSpec& plain, const std::string& family) {
  return family + plain.name.substr(plain.name.find('/'));
}

}  // namespace

CaseSpec attention_int8_case(const AttentionShape& shape, int threads) {
  const CaseSpec plain = attention_case(shape, threads);
  return {renamed(plain, "attention_int8"), "", threads, [=](const Context& context) {
            return std::make_unique<TwinCase>(std::make_unique<AttentionInt8Case>(context, shape), plain.make(context),
                                              "f32_ratio");
          }};
}

CaseSpec linear_codes_case(int64_t M, int64_t N, int64_t K, mha_dtype dtype, int threads) {
  const CaseSpec plain = linear_case(M, N, K, threads);
  return {renamed(plain, std::string("linear_") + name_of(dtype)), "", threads, [=](const Context& context) {
            return std::make_unique<TwinCase>(std::make_unique<LinearCodesCase>(context, M, N, K, dtype),
                                              plain.make(context), "f32_ratio");
          }};
}

}  // namespace mha::bench
