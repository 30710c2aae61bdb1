// SPDX-License-Identifier: Apache-2.0
// forward_int8: the layer with int8 weights and INT8 projections, timed in turn with the one over floats in F32. Its
// attention is in BF16 arithmetic where the target has instructions for it, else in F32. Tokens and results are floats.
#include <cmath>

#include "bench/elements.h"
#include "bench/naive.h"
#include "bench/twin.h"

namespace mha::bench {
namespace {

/// Other targets have BF16 arithmetic too (all but sse2), but emulate it.
bool has_bf16(const std::string& target) { return target == "amx" || target.find("bf16") != std::string::npos; }

class ForwardInt8Case : public Case {
 public:
  ForwardInt8Case(const Context& context, int64_t B, int64_t tokens, int64_t E, int64_t H)
      : context_(context),
        query_(B * tokens * E, kUnitVariance, 1),
        in_weight_(context, MHA_I8, 3 * E, 1, E, kUnitVariance / std::sqrt(static_cast<float>(E)), 4),
        out_weight_(context, MHA_I8, E, 1, E, kUnitVariance / std::sqrt(static_cast<float>(E)), 6),
        in_bias_(3 * E, 0.1f, 5),
        out_bias_(E, 0.1f, 7),
        output_(query_.size()) {
    output_.fill(std::nanf(""));
    config_.embed_dim = E;
    config_.num_heads = H;
    config_.arithmetic = MHA_ARITHMETIC_INT8;
    layer_ = require(Layer::create(context, config_, weights(in_weight_.view(), out_weight_.view())));
    args_.batch = B;
    args_.query_len = args_.key_len = tokens;
    args_.arithmetic = has_bf16(context.target()) ? MHA_ARITHMETIC_BF16 : MHA_ARITHMETIC_F32;
    args_.query = view(query_.data());
    args_.output = mut_view(output_.data());
    workspace_.resize(require(layer_.workspace_bytes(context, args_)));
    args_.resources.workspace = workspace_.data();
    args_.resources.workspace_bytes = workspace_.size();
    ready_ = args_.raw();
    const auto length = static_cast<double>(tokens), width = static_cast<double>(E);
    flops = static_cast<double>(B) * (8 * length * width * width + 4 * width * length * length);
    bytes = 4.0 * static_cast<double>(2 * query_.size() + in_bias_.size() + out_bias_.size()) + in_weight_.bytes +
            out_weight_.bytes;
    is_integer = true;
  }
  mha_status run() override { return mha_layer_forward(context_.get(), layer_.get(), &ready_, nullptr); }
  std::string check() override {
    const mha_layer_weights wide = weights(view(in_weight_.wide.data()), view(out_weight_.wide.data()));
    return check_forward(config_, wide, args_, output_.data(), nullptr);
  }
  double naive_seconds(int /*threads*/) override { return 0; }  // the twin's count

 private:
  mha_layer_weights weights(const mha_view& in, const mha_view& out) const {
    mha_layer_weights w = {};
    w.in_proj_weight = in;
    w.in_proj_bias = in_bias_.data();
    w.output_weight = out;
    w.output_bias = out_bias_.data();
    return w;
  }

  const Context& context_;
  Floats query_;
  Coded in_weight_, out_weight_;
  Floats in_bias_, out_bias_, output_;
  std::vector<unsigned char> workspace_;
  mha_layer_config config_ = {};
  Layer layer_;
  LayerCall args_;
  mha_layer_args ready_ = {};  // points into args_
};

}  // namespace

CaseSpec forward_int8_case(int64_t B, int64_t tokens, int64_t E, int64_t H, int threads) {
  const CaseSpec plain = forward_case(B, tokens, E, H, threads);
  std::string name = plain.name;
  name.replace(name.find("f32"), 3, "int8");
  return {name, "", threads, [=](const Context& context) {
            return std::make_unique<TwinCase>(std::make_unique<ForwardInt8Case>(context, B, tokens, E, H),
                                              plain.make(context), "f32_ratio");
          }};
}

}  // namespace mha::bench
