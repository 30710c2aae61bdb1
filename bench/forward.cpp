// SPDX-License-Identifier: Apache-2.0
// forward_f32 and notebook_f32: the whole layer, projections included.
#include <cmath>
#include <vector>

#include "bench/case.h"
#include "bench/naive.h"
#include "bench/support.h"

namespace mha::bench {
namespace {

constexpr int64_t kTokensBoundByReading = 8;  // as in linear.cpp

/// Self-attention where key_len is 0, else cross-attention; key and value are E wide too.
struct ForwardShape {
  int64_t batch, query_len, key_len, embed_dim, num_heads;
  bool with_weights;
};

class ForwardCase : public Case {
 public:
  ForwardCase(const Context& context, const ForwardShape& shape)
      : context_(context),
        shape_(shape),
        is_self_(shape.key_len == 0),
        key_len_(is_self_ ? shape.query_len : shape.key_len),
        query_(shape.batch * shape.query_len * shape.embed_dim, kUnitVariance, 1),
        in_weight_(3 * shape.embed_dim * shape.embed_dim, weight_bound(), 4),
        in_bias_(3 * shape.embed_dim, 0.1f, 5),
        out_weight_(shape.embed_dim * shape.embed_dim, weight_bound(), 6),
        out_bias_(shape.embed_dim, 0.1f, 7),
        output_(query_.size()) {
    output_.fill(std::nanf(""));
    if (!is_self_) {
      key_ = Floats(shape.batch * key_len_ * shape.embed_dim, kUnitVariance, 2);
      value_ = Floats(key_.size(), kUnitVariance, 3);
    }
    if (shape.with_weights) {
      weights_ = Floats(shape.batch * shape.num_heads * shape.query_len * key_len_);
      weights_.fill(std::nanf(""));
    }
    make_layer();
    make_args();
    if (is_self_) make_parts();
    count_work();
  }
  mha_status run() override { return mha_layer_forward(context_.get(), layer_.get(), &ready_, nullptr); }
  std::string check() override {
    std::string verdict = check_forward(config_, layer_weights_, args_, output_.data(), weights_.data());
    if (!verdict.empty() || !has_parts()) return verdict;
    // The parts must compute the same result, or their time would mean nothing.
    if (run_parts() != MHA_OK) return "a part failed";
    return check_forward(config_, layer_weights_, args_, part_output_.data(), nullptr);
  }
  double naive_seconds(int threads) override {
    const int64_t E = shape_.embed_dim, rows = shape_.batch * shape_.query_len, key_rows = shape_.batch * key_len_;
    const float* weight = in_weight_.data();
    const float* key = is_self_ ? query_.data() : key_.data();
    // The numbers do not change the time of attention, so the inputs stand for the projected tensors.
    AttentionCall attention;
    attention.batch = shape_.batch;
    attention.num_heads = shape_.num_heads;
    attention.query_len = shape_.query_len;
    attention.key_len = key_len_;
    attention.head_dim = E / shape_.num_heads;
    attention.query = view(query_.data());
    attention.key = view(key);
    attention.value = view(is_self_ ? query_.data() : value_.data());
    return 2 * naive_linear_seconds({rows, E, E, query_.data(), weight, in_bias_.data()}, threads) +
           2 * naive_linear_seconds({key_rows, E, E, key, weight, in_bias_.data()}, threads) +
           naive_attention_seconds(attention, threads, shape_.with_weights);
  }
  bool has_parts() const override { return static_cast<bool>(part_in_); }
  mha_status run_parts() override {
    mha_status status = mha_linear_forward(context_.get(), part_in_.get(), &part_in_args_, nullptr);
    if (status == MHA_OK) status = mha_attention(context_.get(), &part_attention_ready_, nullptr);
    if (status == MHA_OK) status = mha_linear_forward(context_.get(), part_out_.get(), &part_out_args_, nullptr);
    return status;
  }

 private:
  float weight_bound() const { return kUnitVariance / std::sqrt(static_cast<float>(shape_.embed_dim)); }

  void make_layer() {
    config_.embed_dim = shape_.embed_dim;
    config_.num_heads = shape_.num_heads;
    layer_weights_.in_proj_weight = view(in_weight_.data());
    layer_weights_.in_proj_bias = in_bias_.data();
    layer_weights_.output_weight = view(out_weight_.data());
    layer_weights_.output_bias = out_bias_.data();
    layer_ = require(Layer::create(context_, config_, layer_weights_));
  }

  void make_args() {
    args_.batch = shape_.batch;
    args_.query_len = shape_.query_len;
    args_.key_len = key_len_;
    args_.query = view(query_.data());
    args_.key = view(key_.data());  // none: self-attention
    args_.value = view(value_.data());
    args_.output = mut_view(output_.data());
    args_.results.weights_mode = shape_.with_weights ? MHA_WEIGHTS_PER_HEAD : MHA_WEIGHTS_NONE;
    args_.results.weights = mut_view(weights_.data());
    workspace_.resize(require(layer_.workspace_bytes(context_, args_)));
    args_.resources.workspace = workspace_.data();
    args_.resources.workspace_bytes = workspace_.size();
    ready_ = args_.raw();
  }

  /// One linear for query, key and value, attention on its packed result, one linear for the output.
  void make_parts() {
    const int64_t E = shape_.embed_dim, rows = shape_.batch * shape_.query_len, D = E / shape_.num_heads;
    part_in_ = make_linear(context_, E, 3 * E, in_weight_.data(), in_bias_.data());
    part_out_ = make_linear(context_, E, E, out_weight_.data(), out_bias_.data());
    part_qkv_ = Floats(rows * 3 * E);
    part_attended_ = Floats(rows * E);
    part_output_ = Floats(rows * E);
    part_in_args_.rows = part_out_args_.rows = rows;
    part_in_args_.input = view(query_.data());
    part_in_args_.output = mut_view(part_qkv_.data());
    part_out_args_.input = view(part_attended_.data());
    part_out_args_.output = mut_view(part_output_.data());
    part_attention_.batch = shape_.batch;
    part_attention_.num_heads = shape_.num_heads;
    part_attention_.query_len = part_attention_.key_len = shape_.query_len;
    part_attention_.head_dim = D;
    const auto part = [&](int64_t n) { return view(part_qkv_.data() + n * E, {shape_.query_len * 3 * E, 3 * E, D}); };
    part_attention_.query = part(0);
    part_attention_.key = part(1);
    part_attention_.value = part(2);
    part_attention_.output = mut_view(part_attended_.data());
    part_workspace_.resize(require(context_.attention_workspace_bytes(part_attention_)));
    part_attention_.resources.workspace = part_workspace_.data();
    part_attention_.resources.workspace_bytes = part_workspace_.size();
    part_attention_ready_ = part_attention_.raw();
  }

  void count_work() {
    const auto E = static_cast<double>(shape_.embed_dim), B = static_cast<double>(shape_.batch);
    const auto Tq = static_cast<double>(shape_.query_len), Tk = static_cast<double>(key_len_);
    flops = 4 * B * (Tq + Tk) * E * E + 4 * E * B * Tq * Tk;
    bytes = 4.0 * static_cast<double>(in_weight_.size() + in_bias_.size() + out_weight_.size() + out_bias_.size() +
                                      query_.size() + key_.size() + value_.size() + output_.size() + weights_.size());
    if (is_self_ && shape_.batch * shape_.query_len <= kTokensBoundByReading)
      streamed = {in_weight_.region(), out_weight_.region()};
  }

  const Context& context_;
  ForwardShape shape_;
  bool is_self_;
  int64_t key_len_;
  Floats query_, key_, value_, in_weight_, in_bias_, out_weight_, out_bias_, output_, weights_;
  std::vector<unsigned char> workspace_;
  mha_layer_config config_ = {};
  mha_layer_weights layer_weights_ = {};
  Layer layer_;
  LayerCall args_;
  mha_layer_args ready_ = {};  // points into args_

  Linear part_in_, part_out_;
  Floats part_qkv_, part_attended_, part_output_;
  std::vector<unsigned char> part_workspace_;
  mha_linear_args part_in_args_ = {}, part_out_args_ = {};
  AttentionCall part_attention_;
  mha_attention_args part_attention_ready_ = {};  // points into it
};

CaseSpec make_case(const std::string& name, const ForwardShape& shape, int threads) {
  return {name, "", threads, [=](const Context& context) { return std::make_unique<ForwardCase>(context, shape); }};
}

}  // namespace

CaseSpec forward_case(int64_t B, int64_t tokens, int64_t E, int64_t H, int threads) {
  return make_case("forward_f32/B:" + std::to_string(B) + "/T:" + std::to_string(tokens) + "/E:" + std::to_string(E) +
                       "/H:" + std::to_string(H) + "/threads:" + std::to_string(threads),
                   {B, tokens, 0, E, H, false}, threads);
}

// The notebook's own call: one query, ten keys and values, output and weights: 18400 useful operations.
CaseSpec notebook_case() { return make_case("notebook_f32", {1, 1, 10, 20, 4, true}, 1); }

}  // namespace mha::bench
