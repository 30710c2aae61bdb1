// SPDX-License-Identifier: Apache-2.0
// `mha explain`: what mha_attention, mha_linear_forward or mha_layer_forward would do with given sizes, and why, in
// the library's own words.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tools/cli/commands.h"
#include "tools/cli/support.h"
#include "tools/io/tensor.h"

namespace mha::cli {
namespace {

struct Options {
  AttentionCall attention;
  mha_linear_args linear{};
  std::int64_t in_features = 0, out_features = 0;
  mha_layer_config config{};
  LayerCall forward;
  mha_arithmetic arithmetic = MHA_ARITHMETIC_F32;
  std::vector<std::string> causal;
  std::string weights_mode = "none";
  bool bool_mask = false, add_mask = false, key_lengths = false, rope = false, qk_norm = false;
  std::int64_t window_left = 0, window_right = 0, sink_tokens = 0;
  float softcap = 0;
  std::vector<std::int64_t> lengths;  // what key_lengths points to
  std::string cache;                  // its kind; empty: none
  std::int64_t page_size = 0;
  ContextFlags context;
};

// The library looks only at whether these pointers are null.
constexpr float kFloat = 0;
constexpr std::uint8_t kByte = 0;
constexpr mha_rope kRope{};
constexpr mha_norm kNorm{1e-6F, 0, nullptr, {}};

using Explain = std::function<Result<std::size_t>(Span<char> text)>;

void print(const Explain& explain) {
  std::vector<char> text(take(explain({})) + 1);
  take(explain(text));
  std::fputs(text.data(), stdout);
}

template <class Args>
void set_choices(const CLI::App& command, Options& options, Args& args) {
  args.arithmetic = options.arithmetic;
  args.results.weights_mode = parse_weights_mode(options.weights_mode);
  const Causal causal = parse_causal(command, options.causal);
  args.causal = causal.causal;
  args.positions = causal.positions;
  mha_masks& masks = args.masks;
  if (options.bool_mask) masks.bool_mask.data = &kByte;
  if (options.add_mask) masks.add_mask.data = &kFloat;
  if (options.key_lengths) {
    constexpr std::int64_t kLimit = std::int64_t{1} << 27;
    if (args.batch < 0 || args.batch > kLimit) {
      throw Failure("--batch beside --key-lengths is " + std::to_string(args.batch) + ", must be in [0, " +
                    std::to_string(kLimit) + "]");
    }
    options.lengths.assign(static_cast<std::size_t>(args.batch) + 1, args.key_len);
    args.items.key_lengths = options.lengths.data();
    if (args.positions.align == MHA_ALIGN_DEFAULT) args.positions.align = MHA_ALIGN_END;  // which they all share
  }
  masks.window_left = options.window_left, masks.window_right = options.window_right;
  masks.sink_tokens = options.sink_tokens;
  args.score_mods.softcap = options.softcap;
  if (options.rope) args.rope = &kRope;
  if (options.qk_norm) args.query_norm = &kNorm;
}

mha_cache_kind parse_cache(const std::string& word) {
  if (word == "contiguous") return MHA_CACHE_CONTIGUOUS;
  if (word == "ring") return MHA_CACHE_RING;
  if (word == "paged") return MHA_CACHE_PAGED;
  throw Failure("--cache is '" + word + "': must be contiguous, ring or paged");
}

// A cache whose sequences hold so many tokens of zeros, with room for `more`: explain looks at lengths and pages.
Cache make_cache(const Context& context, const Options& options, const mha_layer_config& heads, std::int64_t batch,
                 std::int64_t held, std::int64_t more) {
  constexpr std::int64_t kLimit = std::int64_t{1} << 30;
  if (held < 0 || more < 0 || batch < 0) throw Failure("--cache needs --key-len >= --query-len >= 0 and --batch >= 0");
  mha_cache_config config{};
  config.kind = parse_cache(options.cache);
  config.num_kv_heads = heads.num_kv_heads != 0 ? heads.num_kv_heads : heads.num_heads;
  config.head_dim = heads.head_dim, config.value_head_dim = heads.value_head_dim;
  config.max_sequences = batch, config.page_size = options.page_size;
  if (config.kind == MHA_CACHE_RING) config.sink_tokens = options.sink_tokens;
  config.capacity = std::max<std::int64_t>(held + more, 1);
  if (config.kind == MHA_CACHE_RING && options.window_left > 0) {
    config.capacity = std::min(options.window_left, held) + std::max<std::int64_t>(more, 1);
  }
  const auto check_bytes = [&] {
    const auto bytes = take(Cache::memory_bytes(config));
    if (bytes > static_cast<std::size_t>(kLimit))
      throw Failure("explain makes the cache, and one of these sizes is beyond its limit of 1 GiB");
  };
  check_bytes();
  if (config.kind == MHA_CACHE_PAGED) {  // pages for each sequence
    const std::int64_t page = std::max<std::int64_t>(options.page_size, 64);
    config.capacity = (config.capacity + page) * std::min<std::int64_t>(std::max<std::int64_t>(batch, 1), kLimit);
    check_bytes();
  }
  Cache cache = take(Cache::create(context, config));
  const std::vector<float> zeros(static_cast<std::size_t>(std::max(config.head_dim, config.value_head_dim)));
  mha_append_args append{};
  append.batch = batch, append.length = held;
  append.key = append.value = view(zeros.data(), {MHA_BROADCAST, MHA_BROADCAST, MHA_BROADCAST});
  check(cache.append(context, append));
  return cache;
}

void explain_attention(const CLI::App& command, Options& options) {
  const Context context = make_context(options.context);
  AttentionCall& args = options.attention;
  set_choices(command, options, args);
  Cache cache;
  if (!options.cache.empty()) {
    mha_layer_config heads{};
    heads.num_heads = args.num_heads, heads.num_kv_heads = args.num_kv_heads;
    heads.head_dim = args.head_dim, heads.value_head_dim = args.value_head_dim;
    cache = make_cache(context, options, heads, args.batch, args.key_len, 0);
    args.cache = cache.get();
    args.key_len = 0;
  }
  print([&](Span<char> text) { return context.attention_explain(args, text); });
}

// Weights of zero that serve for every projection of the object that `what` packs.
std::vector<float> shared_zeros(const std::string& what, const std::vector<std::vector<std::int64_t>>& shapes) {
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
  return std::vector<float>(static_cast<std::size_t>(most));
}

void explain_linear(Options& options) {
  const Context context = make_context(options.context);
  if (options.in_features < 1 || options.out_features < 1) {
    throw Failure("--in-features and --out-features must be at least 1");
  }
  const std::vector<float> zeros = shared_zeros("linear", {{options.out_features, options.in_features}});
  mha_linear_config config{};
  config.in_features = options.in_features, config.out_features = options.out_features;
  config.weight = view(zeros.data());
  config.arithmetic = options.arithmetic;
  const Linear linear = take(Linear::create(context, config));
  print([&](Span<char> text) { return linear.explain(context, options.linear, text); });
}

// A layer of that configuration, with weights of zero: explain needs one.
Layer make_layer(const Context& context, const mha_layer_config& given) {
  mha_layer_config c = given;
  if (c.embed_dim < 1 || c.num_heads < 1) throw Failure("--embed-dim and --num-heads must be at least 1");
  if (c.num_kv_heads == 0) c.num_kv_heads = c.num_heads;
  if (c.head_dim == 0) c.head_dim = c.embed_dim / c.num_heads;
  if (c.value_head_dim == 0) c.value_head_dim = c.head_dim;
  const auto width = [&](std::int64_t dim) { return dim == 0 ? c.embed_dim : dim; };
  const std::vector<float> zeros = shared_zeros("layer", {{c.num_heads, c.head_dim, c.embed_dim},
                                                          {c.num_kv_heads, c.head_dim, width(c.kdim)},
                                                          {c.num_kv_heads, c.value_head_dim, width(c.vdim)},
                                                          {width(c.out_dim), c.num_heads, c.value_head_dim}});
  mha_layer_weights weights{};
  weights.query_weight = weights.key_weight = weights.value_weight = weights.output_weight = view(zeros.data());
  return take(Layer::create(context, given, weights));
}

void explain_layer(const CLI::App& command, Options& options) {
  const Context context = make_context(options.context);
  LayerCall& args = options.forward;
  set_choices(command, options, args);
  if (options.qk_norm) args.key_norm = &kNorm;
  options.config.arithmetic = options.arithmetic;
  const Layer layer = make_layer(context, options.config);
  Cache cache;
  if (!options.cache.empty()) {
    const std::int64_t held = args.key_len - args.query_len;
    cache = make_cache(context, options, layer.config(), args.batch, held, args.query_len);
    args.cache = cache.get();
    args.key_len = 0;
  } else {  // tensors of their own, as wide as kdim and vdim
    args.key = args.value = view(&kFloat);
  }
  print([&](Span<char> text) { return layer.explain(context, args, text); });
}

template <class Args>
void add_call_options(CLI::App& command, Options& options, Args& args) {
  args.batch = 1;
  command.add_option("--batch", args.batch, "B (default 1)");
  command.add_option("--query-len", args.query_len, "Tq")->required();
  command.add_option("--key-len", args.key_len, "Tk")->required();
  add_weights_mode_option(command, options.weights_mode, "Attention weights wanted (default: none)");
  add_arithmetic_option(command, options.arithmetic);
  add_causal_option(command, options.causal);
  command.add_flag("--bool-mask", options.bool_mask, "With a boolean mask");
  command.add_flag("--add-mask", options.add_mask, "With an additive mask");
  command.add_flag("--key-lengths", options.key_lengths, "With key lengths, each of them Tk");
  command.add_option("--window-left", options.window_left, "Keys a query sees up to its own (default 0: no limit)");
  command.add_option("--window-right", options.window_right, "The same from its own on");
  command.add_option("--sink-tokens", options.sink_tokens, "First keys that stay visible beside the window");
  command.add_option("--softcap", options.softcap, "Cap of the scores");
  command.add_flag("--rope", options.rope, "With rotary positions");
  command.add_flag("--qk-norm", options.qk_norm, "With RMS norm of queries and keys");
  command.add_option("--cache", options.cache, "Keys and values are in a cache: contiguous, ring or paged");
  command.add_option("--page-size", options.page_size, "Tokens in a page of a paged cache (default 64)");
  add_context_options(command, options.context);
}

}  // namespace

void add_explain(CLI::App& app, int& /*status*/) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("explain", "Say what a call with given sizes would do, and why");
  command->require_subcommand(1);
  command->footer(
      "Example: mha explain attention --query-len 1 --key-len 4096 --num-heads 32 --num-kv-heads 8 --head-dim 128");

  CLI::App* attention = command->add_subcommand("attention", "mha_attention");
  attention->add_option("--num-heads", options->attention.num_heads, "H")->required();
  attention->add_option("--num-kv-heads", options->attention.num_kv_heads, "Hkv (default: H)");
  attention->add_option("--head-dim", options->attention.head_dim, "D")->required();
  attention->add_option("--value-head-dim", options->attention.value_head_dim, "Dv (default: D)");
  add_call_options(*attention, *options, options->attention);
  attention->callback([=] { explain_attention(*attention, *options); });

  CLI::App* linear = command->add_subcommand("linear", "mha_linear_forward");
  linear->add_option("--rows", options->linear.rows, "M")->required();
  linear->add_option("--in-features", options->in_features, "K")->required();
  linear->add_option("--out-features", options->out_features, "N")->required();
  add_arithmetic_option(*linear, options->arithmetic);
  add_context_options(*linear, options->context);
  linear->callback([=] { explain_linear(*options); });

  CLI::App* layer = command->add_subcommand("layer", "mha_layer_forward");
  layer->add_option("--embed-dim", options->config.embed_dim, "E")->required();
  layer->add_option("--num-heads", options->config.num_heads, "H")->required();
  layer->add_option("--num-kv-heads", options->config.num_kv_heads, "Hkv (default: H)");
  layer->add_option("--head-dim", options->config.head_dim, "D (default: E / H)");
  layer->add_option("--value-head-dim", options->config.value_head_dim, "Dv (default: D)");
  layer->add_option("--kdim", options->config.kdim, "Width of the key (default: E)");
  layer->add_option("--vdim", options->config.vdim, "Width of the value (default: E)");
  layer->add_option("--out-dim", options->config.out_dim, "Width of the output (default: E)");
  add_call_options(*layer, *options, options->forward);
  layer->callback([=] { explain_layer(*layer, *options); });
}

}  // namespace mha::cli
