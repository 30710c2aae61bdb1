// SPDX-License-Identifier: Apache-2.0
// forward_bf16: the layer over bf16 in BF16 arithmetic, timed in turn with the one over floats in F32.
#include <cmath>

#include "bench/elements.h"
#include "bench/naive.h"
#include "bench/twin.h"

namespace mha::bench {
namespace {

/// A self-attention layer in BF16 arithmetic: tokens, weights and results in bf16.
class ForwardBf16Case : public Case {
 public:
  ForwardBf16Case(const Context& context, int64_t B, int64_t tokens, int64_t E, int64_t H)
      : context_(context),
        query_(context, MHA_BF16, B * tokens * E, kUnitVariance, 1),
        in_weight_(context, MHA_BF16, 3 * E * E, kUnitVariance / std::sqrt(static_cast<float>(E)), 4),
        out_weight_(context, MHA_BF16, E * E, kUnitVariance / std::sqrt(static_cast<float>(E)), 6),
        in_bias_(3 * E, 0.1f, 5),
        out_bias_(E, 0.1f, 7),
        output_(MHA_BF16, query_.wide.size()),
        wide_output_(query_.wide.size()) {
    config_.embed_dim = E;
    config_.num_heads = H;
    config_.arithmetic = MHA_ARITHMETIC_BF16;
    layer_ = require(Layer::create(context, config_, weights(in_weight_.narrow.view(), out_weight_.narrow.view())));
    args_.batch = B;
    args_.query_len = args_.key_len = tokens;
    args_.arithmetic = MHA_ARITHMETIC_BF16;
    args_.query = query_.narrow.view();
    args_.output = output_.mut_view();
    workspace_.resize(require(layer_.workspace_bytes(context, args_)));
    args_.resources.workspace = workspace_.data();
    args_.resources.workspace_bytes = workspace_.size();
    ready_ = args_.raw();
    const auto length = static_cast<double>(tokens), width = static_cast<double>(E);
    flops = static_cast<double>(B) * (8 * length * width * width + 4 * width * length * length);
    bytes = static_cast<double>(2 * query_.narrow.region().bytes + in_weight_.narrow.region().bytes +
                                out_weight_.narrow.region().bytes + in_bias_.region().bytes + out_bias_.region().bytes);
  }
  mha_status run() override { return mha_layer_forward(context_.get(), layer_.get(), &ready_, nullptr); }
  std::string check() override {
    const mha_layer_weights wide = weights(view(in_weight_.wide.data()), view(out_weight_.wide.data()));
    const Layer layer = require(Layer::create(context_, config_, wide));
    LayerCall args = args_;
    args.query = view(query_.wide.data());
    args.output = mut_view(wide_output_.data());
    args.resources = {};
    if (const Status status = layer.forward(context_, args); !status) return status.message();
    const std::string wrong = check_forward(config_, wide, args, wide_output_.data(), nullptr);
    return wrong.empty() ? check_rounded(context_, MHA_BF16, wide_output_, output_) : wrong;
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
  Stored query_, in_weight_, out_weight_;
  Floats in_bias_, out_bias_;
  Elements output_;
  Floats wide_output_;
  std::vector<unsigned char> workspace_;
  mha_layer_config config_ = {};
  Layer layer_;
  LayerCall args_;
  mha_layer_args ready_ = {};  // points into args_
};

}  // namespace

CaseSpec forward_bf16_case(int64_t B, int64_t tokens, int64_t E, int64_t H, int threads) {
  const CaseSpec plain = forward_case(B, tokens, E, H, threads);
  std::string name = plain.name;
  name.replace(name.find("f32"), 3, "bf16");
  return {name, "", threads, [=](const Context& context) {
            return std::make_unique<TwinCase>(std::make_unique<ForwardBf16Case>(context, B, tokens, E, H),
                                              plain.make(context), "f32_ratio");
          }};
}

}  // namespace mha::bench
