// SPDX-License-Identifier: Apache-2.0
// `mha explain linear` and `mha explain layer`; see explain.h.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "tools/cli/explain.h"
#include "tools/cli/explain_cache.h"
#include "tools/cli/explain_options.h"
#include "tools/cli/formats.h"
#include "tools/cli/support.h"
#include "tools/io/tensor.h"

namespace mha::cli {
namespace {

mha_weight_layout parse_layout(const std::string& word) {
  if (word == "rows") return MHA_WEIGHT_ROWS;
  if (word == "gptq") return MHA_WEIGHT_GPTQ;
  if (word == "gptq-v2") return MHA_WEIGHT_GPTQ_V2;
  if (word == "awq") return MHA_WEIGHT_AWQ;
  throw Failure("--weight-layout is '" + word + "', must be rows, gptq, gptq-v2 or awq");
}

// How weights are given and how they are packed.
struct WeightOptions {
  std::string dtype = "f32", packed, layout = "rows";
};
void add_weight_options(CLI::App& app, WeightOptions& o) {
  app.add_option("--weight-dtype", o.dtype, "Element type of the given weights (default f32)")->type_name(kFormatType);
  app.add_option("--weight-layout", o.layout, "Their layout: rows (default), gptq, gptq-v2, awq")->type_name("NAME");
  app.add_option("--packed", o.packed, "How they are packed (default: as they are given)")->type_name(kFormatType);
}

// Weights of zero that serve for every projection of the object that `what` packs.
class ZeroWeights {
 public:
  ZeroWeights(const std::string& what, const WeightOptions& o, const std::vector<std::vector<std::int64_t>>& shapes)
      : format_(parse_format("--weight-dtype", o.dtype)), layout_(parse_layout(o.layout)) {
    constexpr std::int64_t kLimit = std::int64_t{1} << 28;
    std::int64_t most = 0;
    for (const auto& shape : shapes) {
      const std::int64_t bytes = take(io::shape_bytes(shape, sizeof(float)));
      most = std::max(most, bytes / static_cast<std::int64_t>(sizeof(float)));
    }
    if (most > kLimit) {
      throw Failure("explain " + what + " packs weights of these sizes, and one of " + std::to_string(most) +
                    " elements is beyond its limit of " + std::to_string(kLimit));
    }
    zeros_.resize(static_cast<std::size_t>(most));  // scales, too: one for an element is the most there can be
    if (!o.packed.empty()) {
      const Format packed = parse_format("--packed", o.packed);
      storage_ = storage_of(packed);
      packs_ = true;
      if (packed.fixed) throw Failure("--packed '" + o.packed + "': packed weights have no fixed scales");
    }
  }

  // A weight of `columns` inputs. The view is valid as long as this.
  mha_view weight(std::int64_t columns) {
    mha_view made{};
    made.data = zeros_.data(), made.dtype = format_.dtype;
    if (!has_scales(format_.dtype)) return made;
    mha_quant& quant = quants_[used_++];
    quant = quant_of(format_, 1, 1, columns);
    quant.scales = zeros_.data();
    if (format_.zeros) quant.zeros = zeros_.data();
    if (layout_ != MHA_WEIGHT_ROWS) {
      quant.stride_b = quant.stride_t = quant.stride_h = quant.stride_d = 0;
      if (format_.zeros) quant.zero_dtype = MHA_U4;
    }
    quant.stride_b = quant.stride_h = 0;
    made.quant = &quant;
    return made;
  }
  mha_weight_layout layout() const { return layout_; }
  const mha_storage* packed() const { return packs_ ? &storage_ : nullptr; }
  const float* bias() const { return zeros_.data(); }

 private:
  Format format_;
  mha_weight_layout layout_;
  std::vector<float> zeros_;
  mha_storage storage_{};
  bool packs_ = false;
  mha_quant quants_[4] = {};
  std::size_t used_ = 0;
};

struct LinearOptions {
  std::int64_t rows = 0, in_features = 0, out_features = 0;
  WeightOptions weight;
  std::string input = "f32", output = "f32";
  bool bias = false;
  mha_arithmetic arithmetic = MHA_ARITHMETIC_F32;
  std::int64_t max_threads = 0;
  ContextFlags context;
};

void explain_linear(const LinearOptions& o) {
  const Context context = make_context(o.context);
  if (o.in_features < 1 || o.out_features < 1) {
    throw Failure("--in-features and --out-features must be at least 1");
  }
  ZeroWeights weights("linear", o.weight, {{o.out_features, o.in_features}});
  mha_linear_config config{};
  config.in_features = o.in_features, config.out_features = o.out_features;
  config.weight = weights.weight(o.in_features);
  config.layout = weights.layout(), config.packed = weights.packed();
  config.arithmetic = o.arithmetic;
  if (o.bias) config.bias = weights.bias();
  const Linear linear = take(Linear::create(context, config));
  mha_linear_args args{};
  args.rows = o.rows;
  args.input.dtype = parse_dtype("--input-dtype", o.input);
  args.output.dtype = parse_dtype("--output-dtype", o.output);
  mha_resources resources{};
  resources.max_threads = o.max_threads;
  args.resources = &resources;
  print_plan([&](Span<char> text) { return linear.explain(context, args, text); });
}

struct LayerOptions {
  mha_layer_config config{};
  WeightOptions weight;
  CallOptions call;
  std::string attention_arithmetic;
  bool bias = false, bias_kv = false, add_zero_attn = false, self_attention = false;
};

// A layer of that configuration, with weights of zero: explain needs one.
Layer make_layer(const Context& context, const LayerOptions& o) {
  mha_layer_config given = o.config;
  mha_layer_config c = given;
  if (c.embed_dim < 1 || c.num_heads < 1) throw Failure("--embed-dim and --num-heads must be at least 1");
  if (c.num_kv_heads == 0) c.num_kv_heads = c.num_heads;
  if (c.head_dim == 0) c.head_dim = c.embed_dim / c.num_heads;
  if (c.value_head_dim == 0) c.value_head_dim = c.head_dim;
  const auto width = [&](std::int64_t dim) { return dim == 0 ? c.embed_dim : dim; };
  ZeroWeights zeros("layer", o.weight,
                    {{c.num_heads, c.head_dim, c.embed_dim},
                     {c.num_kv_heads, c.head_dim, width(c.kdim)},
                     {c.num_kv_heads, c.value_head_dim, width(c.vdim)},
                     {width(c.out_dim), c.num_heads, c.value_head_dim},
                     {c.num_heads, c.head_dim},
                     {width(c.out_dim)}});
  mha_layer_weights weights{};
  weights.query_weight = zeros.weight(c.embed_dim);
  weights.key_weight = zeros.weight(width(c.kdim));
  weights.value_weight = zeros.weight(width(c.vdim));
  weights.output_weight = zeros.weight(c.num_heads * c.value_head_dim);
  if (o.bias) {
    weights.query_bias = weights.key_bias = weights.value_bias = weights.output_bias = zeros.bias();
  }
  if (o.bias_kv) weights.bias_key = weights.bias_value = zeros.bias();
  given.layout = zeros.layout(), given.packed = zeros.packed();
  given.add_zero_attn = o.add_zero_attn ? 1 : 0;
  given.scale = o.call.scores.scale, given.scale_is_exact = o.call.scores.scale_is_exact ? 1 : 0;
  given.arithmetic = o.call.arithmetic;
  return take(Layer::create(context, given, weights));
}

void explain_layer(const CLI::App& command, const LayerOptions& options) {
  const CallOptions& o = options.call;
  const Context context = make_context(o.context);
  const Layer layer = [&] {
    const Progress progress("packing the layer", 1);
    return make_layer(context, options);
  }();
  LayerCall args;
  CallData data;
  put_options(command, o, data, args);
  args.arithmetic = attention_arithmetic(options.attention_arithmetic, o.arithmetic);
  Cache cache;
  if (!o.cache.kind.empty()) {
    const mha_layer_config config = layer.config();
    std::int64_t longest = data.query_offsets.empty() ? args.query_len : 0;
    for (std::size_t b = 1; b < data.query_offsets.size(); ++b) {
      longest = std::max(longest, data.query_offsets[b] - data.query_offsets[b - 1]);
    }
    args.cache_use = parse_cache_use(o.cache);
    const std::int64_t appended = args.cache_use == MHA_CACHE_APPEND ? longest : 0;
    cache =
        make_cache(context, o, data, args.batch,
                   {config.num_kv_heads, config.head_dim, config.value_head_dim, args.key_len - appended, appended});
    args.cache = cache.get();
    args.key_len = 0;
  } else if (!options.self_attention) {  // tensors of their own, as wide as kdim and vdim
    args.key.data = args.value.data = some_floats();
    args.key.dtype = parse_dtype("--key-dtype", o.key), args.value.dtype = parse_dtype("--value-dtype", o.value);
  }
  print_plan([&](Span<char> text) { return layer.explain(context, args, text); });
}

}  // namespace

void add_explain_linear(CLI::App& parent) {
  auto options = std::make_shared<LinearOptions>();
  CLI::App* command = parent.add_subcommand("linear", "mha_linear_forward");
  command->add_option("--rows", options->rows, "M")->required();
  command->add_option("--in-features", options->in_features, "K")->required();
  command->add_option("--out-features", options->out_features, "N")->required();
  command->add_flag("--bias", options->bias, "With a bias");
  add_weight_options(*command, options->weight);
  command->add_option("--input-dtype", options->input, "Element type of the input (default f32)")->type_name("DTYPE");
  command->add_option("--output-dtype", options->output, "Of the output (default f32)")->type_name("DTYPE");
  add_arithmetic_option(*command, options->arithmetic);
  add_max_threads_option(*command, options->max_threads);
  add_context_options(*command, options->context);
  command->callback([=] { explain_linear(*options); });
}

void add_explain_layer(CLI::App& parent) {
  auto options = std::make_shared<LayerOptions>();
  CLI::App* command = parent.add_subcommand("layer", "mha_layer_forward");
  mha_layer_config& config = options->config;
  command->add_option("--embed-dim", config.embed_dim, "E")->required();
  command->add_option("--num-heads", config.num_heads, "H")->required();
  command->add_option("--num-kv-heads", config.num_kv_heads, "Hkv (default: H)");
  command->add_option("--head-dim", config.head_dim, "D (default: E / H)");
  command->add_option("--value-head-dim", config.value_head_dim, "Dv (default: D)");
  command->add_option("--kdim", config.kdim, "Width of the key (default: E)");
  command->add_option("--vdim", config.vdim, "Width of the value (default: E)");
  command->add_option("--out-dim", config.out_dim, "Width of the output (default: E)");
  command->add_flag("--bias", options->bias, "The projections have biases");
  command->add_flag("--bias-kv", options->bias_kv, "One more key and value, learned (torch's add_bias_kv)");
  command->add_flag("--add-zero-attn", options->add_zero_attn, "One more key and value of zeros");
  command->add_flag("--self-attention", options->self_attention, "Keys and values are those of the query");
  add_weight_options(*command, options->weight);
  add_call_options(*command, ExplainCall::kLayer, options->call);
  add_attention_arithmetic_option(*command, options->attention_arithmetic);
  for (const char* name : {"--key-len", "--key-dtype", "--value-dtype", "--cache"}) {
    command->get_option("--self-attention")->excludes(command->get_option(name));
  }
  command->callback([=] { explain_layer(*command, *options); });
}

}  // namespace mha::cli
