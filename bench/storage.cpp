// SPDX-License-Identifier: Apache-2.0
// attention_bf16_storage, attention_f16_storage, linear_bf16_storage: the calls of attention_f32 and linear_f32 over
// tensors of 16 bits, computed in floats. The same call over the widened numbers is checked against the reference, and
// the result must be that one, rounded once.
// attention_bf16, linear_bf16: the same over bf16 in BF16 arithmetic, timed in turn with the call over floats in F32.
#include <cmath>

#include "bench/attention_case.h"
#include "bench/elements.h"
#include "bench/twin.h"

namespace mha::bench {
namespace {

constexpr int64_t kRowsBoundByReading = 8;  // as in linear_f32

class AttentionStorageCase : public Case {
 public:
  AttentionStorageCase(const Context& context, const AttentionShape& s, mha_dtype dtype,
                       mha_arithmetic arithmetic = MHA_ARITHMETIC_F32)
      : context_(context),
        dtype_(dtype),
        query_(context, dtype, s.batch * s.query_len * s.num_heads * s.head_dim, kUnitVariance, 1),
        key_(context, dtype, s.batch * s.key_len * s.num_kv_heads * s.head_dim, kUnitVariance, 2),
        value_(context, dtype, key_.wide.size(), kUnitVariance, 3),
        output_(dtype, query_.wide.size()),
        wide_output_(query_.wide.size()) {
    args_.batch = s.batch;
    args_.num_heads = s.num_heads;
    args_.num_kv_heads = s.num_kv_heads;
    args_.query_len = s.query_len;
    args_.key_len = s.key_len;
    args_.head_dim = s.head_dim;
    args_.causal = s.causal ? 1 : 0;
    args_.arithmetic = arithmetic;
    args_.query = query_.narrow.view();
    args_.key = key_.narrow.view();
    args_.value = value_.narrow.view();
    args_.output = output_.mut_view();
    workspace_.resize(require(context.attention_workspace_bytes(args_)));
    args_.resources.workspace = workspace_.data();
    args_.resources.workspace_bytes = workspace_.size();
    ready_ = args_.raw();
    flops = 4.0 * static_cast<double>(s.batch * s.head_dim * s.num_heads) * visible_pairs(args_);
    bytes = static_cast<double>(query_.narrow.region().bytes + key_.narrow.region().bytes +
                                value_.narrow.region().bytes + output_.region().bytes);
  }
  mha_status run() override { return mha_attention(context_.get(), &ready_, nullptr); }
  std::string check() override {
    const AttentionCall wide = widened();
    if (const Status status = context_.attention(wide); !status) return status.message();
    const std::string wrong = check_attention(wide, wide_output_.data(), nullptr);
    return wrong.empty() ? check_rounded(context_, dtype_, wide_output_, output_) : wrong;
  }
  double naive_seconds(int threads) override { return naive_attention_seconds(widened(), threads, false); }

 private:
  AttentionCall widened() const {
    AttentionCall wide = args_;
    wide.query = view(query_.wide.data());
    wide.key = view(key_.wide.data());
    wide.value = view(value_.wide.data());
    wide.output = mut_view(wide_output_.data());
    wide.resources = {};
    return wide;
  }

  const Context& context_;
  mha_dtype dtype_;
  Stored query_, key_, value_;
  Elements output_;
  Floats wide_output_;
  std::vector<unsigned char> workspace_;
  AttentionCall args_;
  mha_attention_args ready_ = {};  // points into args_
};

class LinearStorageCase : public Case {
 public:
  LinearStorageCase(const Context& context, int64_t M, int64_t N, int64_t K, mha_dtype dtype,
                    mha_arithmetic arithmetic = MHA_ARITHMETIC_F32)
      : context_(context),
        dtype_(dtype),
        arithmetic_(arithmetic),
        input_(context, dtype, M * K, kUnitVariance, 1),
        weight_(context, dtype, N * K, kUnitVariance / std::sqrt(static_cast<float>(K)), 2),
        bias_(N, 1, 3),
        output_(dtype, M * N),
        wide_output_(M * N),
        linear_(packed(context, N, K)),
        problem_{M, K, N, input_.wide.data(), weight_.wide.data(), bias_.data()} {
    args_.rows = M;
    args_.input = input_.narrow.view();
    args_.output = output_.mut_view();
    workspace_.resize(require(linear_.workspace_bytes(context, args_)));
    resources_.workspace = workspace_.data();
    resources_.workspace_bytes = workspace_.size();
    args_.resources = &resources_;
    flops = 2.0 * static_cast<double>(M) * static_cast<double>(N) * static_cast<double>(K);
    bytes = static_cast<double>(bytes_of(dtype)) * static_cast<double>(M * K + N * K + M * N) +
            4.0 * static_cast<double>(N);
    // The packed weights are inside the library; the given ones are as many bytes.
    if (M <= kRowsBoundByReading) streamed = {weight_.narrow.region()};
  }
  mha_status run() override { return mha_linear_forward(context_.get(), linear_.get(), &args_, nullptr); }
  std::string check() override {
    const Linear wide =
        make_linear(context_, problem_.in_features, problem_.out_features, problem_.weight, bias_.data(), arithmetic_);
    mha_linear_args args = {};
    args.rows = problem_.rows;
    args.input = view(input_.wide.data());
    args.output = mut_view(wide_output_.data());
    if (const Status status = wide.forward(context_, args); !status) return status.message();
    const std::string wrong = check_linear(problem_, wide_output_.data(), arithmetic_);
    return wrong.empty() ? check_rounded(context_, dtype_, wide_output_, output_) : wrong;
  }
  double naive_seconds(int threads) override { return naive_linear_seconds(problem_, threads); }

 private:
  Linear packed(const Context& context, int64_t out_features, int64_t in_features) const {
    mha_linear_config config = {};
    config.in_features = in_features;
    config.out_features = out_features;
    config.weight = weight_.narrow.view();
    config.bias = bias_.data();
    config.arithmetic = arithmetic_;
    return require(Linear::create(context, config));
  }

  const Context& context_;
  mha_dtype dtype_;
  mha_arithmetic arithmetic_;
  Stored input_, weight_;
  Floats bias_;
  Elements output_;
  Floats wide_output_;
  Linear linear_;
  LinearProblem problem_;
  std::vector<unsigned char> workspace_;
  mha_resources resources_ = {};
  mha_linear_args args_ = {};
};

std::string name_of(const AttentionShape& s, int threads) {
  return "/Tq:" + std::to_string(s.query_len) + "/Tk:" + std::to_string(s.key_len) +
         "/H:" + std::to_string(s.num_heads) + "/Hkv:" + std::to_string(s.num_kv_heads) +
         "/D:" + std::to_string(s.head_dim) + "/causal:" + (s.causal ? "1" : "0") +
         "/threads:" + std::to_string(threads);
}

}  // namespace

CaseSpec attention_storage_case(const AttentionShape& s, mha_dtype dtype, int threads) {
  return {std::string("attention_") + name_of(dtype) + "_storage" + name_of(s, threads), "", threads,
          [=](const Context& context) { return std::make_unique<AttentionStorageCase>(context, s, dtype); }};
}

CaseSpec attention_bf16_case(const AttentionShape& s, int threads) {
  return {"attention_bf16" + name_of(s, threads), "", threads, [=](const Context& context) {
            return std::make_unique<TwinCase>(
                std::make_unique<AttentionStorageCase>(context, s, MHA_BF16, MHA_ARITHMETIC_BF16),
                std::make_unique<AttentionCase>(context, s), "f32_ratio");
          }};
}

CaseSpec linear_bf16_case(int64_t M, int64_t N, int64_t K, int threads) {
  return {"linear_bf16/M:" + std::to_string(M) + "/N:" + std::to_string(N) + "/K:" + std::to_string(K) +
              "/threads:" + std::to_string(threads),
          "", threads, [=](const Context& context) {
            return std::make_unique<TwinCase>(
                std::make_unique<LinearStorageCase>(context, M, N, K, MHA_BF16, MHA_ARITHMETIC_BF16),
                std::make_unique<LinearStorageCase>(context, M, N, K, MHA_F32), "f32_ratio");
          }};
}

CaseSpec linear_storage_case(int64_t M, int64_t N, int64_t K, mha_dtype dtype, int threads) {
  const std::string name = std::string("linear_") + name_of(dtype) + "_storage/M:" + std::to_string(M) +
                           "/N:" + std::to_string(N) + "/K:" + std::to_string(K) +
                           "/threads:" + std::to_string(threads);
  return {name, "", threads,
          [=](const Context& context) { return std::make_unique<LinearStorageCase>(context, M, N, K, dtype); }};
}

}  // namespace mha::bench
