// SPDX-License-Identifier: Apache-2.0
// A call of attention on dense [B, T, H, D], plain or as a `configure` changes its arguments.
#ifndef MHA_BENCH_ATTENTION_CASE_H
#define MHA_BENCH_ATTENTION_CASE_H

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "bench/case.h"
#include "bench/naive.h"
#include "bench/support.h"

namespace mha::bench {

/// What the values are multiplied by.
struct Scales {
  float query, key, value;
};
constexpr Scales kOrdinary = {1, 1, 1};

class AttentionCase : public Case {
 public:
  /// Changes the arguments before the size of the workspace is queried. It owns what they point to.
  using Configure = std::function<void(AttentionCall&)>;

  AttentionCase(const Context& context, const AttentionShape& shape, const Scales& scales = kOrdinary,
                Configure configure = nullptr)
      : context_(context),
        query_(shape.batch * shape.query_len * shape.num_heads * shape.head_dim, kUnitVariance * scales.query, 1),
        key_(shape.batch * shape.key_len * shape.num_kv_heads * shape.head_dim, kUnitVariance * scales.key, 2),
        value_(key_.size(), kUnitVariance * scales.value, 3),
        output_(query_.size()),
        configure_(std::move(configure)) {
    output_.fill(std::nanf(""));
    args_.batch = shape.batch;
    args_.num_heads = shape.num_heads;
    args_.num_kv_heads = shape.num_kv_heads;
    args_.query_len = shape.query_len;
    args_.key_len = shape.key_len;
    args_.head_dim = shape.head_dim;
    args_.query = view(query_.data());
    args_.key = view(key_.data());
    args_.value = view(value_.data());
    args_.output = mut_view(output_.data());
    args_.causal = shape.causal ? 1 : 0;
    if (configure_) configure_(args_);
    if (args_.results.weights_mode == MHA_WEIGHTS_PER_HEAD) {
      weights_ = Floats(shape.batch * shape.num_heads * shape.query_len * shape.key_len);
      weights_.fill(std::nanf(""));
      args_.results.weights = mut_view(weights_.data());
    }
    workspace_.resize(require(context.attention_workspace_bytes(args_)));
    args_.resources.workspace = workspace_.data();
    args_.resources.workspace_bytes = workspace_.size();
    ready_ = args_.raw();

    flops = 4.0 * static_cast<double>(shape.batch * shape.head_dim * shape.num_heads) * visible_pairs(args_);
    bytes = 4.0 * static_cast<double>(query_.size() + key_.size() + value_.size() + output_.size() + weights_.size());
    if (shape.query_len == 1) streamed = {last_keys(key_), last_keys(value_)};
  }
  mha_status run() override { return mha_attention(context_.get(), &ready_, nullptr); }
  std::string check() override { return check_attention(args_, output_.data(), weights_.data()); }
  double naive_seconds(int threads) override {
    return naive_attention_seconds(args_, threads, weights_.data() != nullptr);
  }

 private:
  /// All keys, or those that the window of the single query leaves.
  Region last_keys(const Floats& rows) const {
    const int64_t width = rows.size() / args_.key_len, window = args_.masks.window_left;
    const int64_t seen = window > 0 && window < args_.key_len ? window : args_.key_len;
    return {rows.data() + (args_.key_len - seen) * width, static_cast<size_t>(seen * width) * sizeof(float)};
  }

  const Context& context_;
  Floats query_, key_, value_, output_, weights_;
  std::vector<unsigned char> workspace_;
  Configure configure_;  // owns what it has put into args_
  AttentionCall args_;
  mha_attention_args ready_ = {};  // points into args_
};

}  // namespace mha::bench

#endif  // MHA_BENCH_ATTENTION_CASE_H
