// SPDX-License-Identifier: Apache-2.0
// `mha explain`: what mha_attention, mha_linear_forward or mha_layer_forward would do with given sizes, and why, in
// the library's own words.
#include "tools/cli/explain.h"

#include <cstdio>
#include <memory>
#include <vector>

#include "tools/cli/commands.h"
#include "tools/cli/explain_cache.h"
#include "tools/cli/explain_options.h"
#include "tools/cli/formats.h"
#include "tools/cli/support.h"

namespace mha::cli {
namespace {

struct AttentionOptions {
  std::int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0, value_head_dim = 0;
  CallOptions call;
};

// Strides of [B, heads, T, width] that is read as [B, T, heads, width].
Strides heads_first(std::int64_t tokens, std::int64_t heads, std::int64_t width) {
  std::int64_t item = 0;
  if (__builtin_mul_overflow(tokens, width, &item) || __builtin_mul_overflow(item, heads, &item)) {
    throw Failure("--heads-first: a tensor of " + std::to_string(tokens) + " tokens is beyond 63 bits");
  }
  return {item, width, tokens * width};
}

template <class View>
void set_strides(View& view, const Strides& strides) {
  view.stride_b = strides.b, view.stride_t = strides.t, view.stride_h = strides.h;
}

void explain_attention(const CLI::App& command, const AttentionOptions& options) {
  const CallOptions& o = options.call;
  const Context context = make_context(o.context);
  AttentionCall args;
  CallData data;
  put_options(command, o, data, args);
  args.num_heads = options.num_heads, args.num_kv_heads = options.num_kv_heads;
  args.head_dim = options.head_dim, args.value_head_dim = options.value_head_dim;
  const std::int64_t kv_heads = args.num_kv_heads != 0 ? args.num_kv_heads : args.num_heads;
  const std::int64_t value_dim = args.value_head_dim != 0 ? args.value_head_dim : args.head_dim;

  Pages pages;
  Cache cache;
  mha_quant key_quant{}, value_quant{};
  if (!o.cache.kind.empty()) {
    cache = make_cache(context, o, data, args.batch, {kv_heads, args.head_dim, args.value_head_dim, args.key_len, 0});
    args.cache = cache.get();
    args.key_len = 0;
  } else {
    const Format key = parse_format("--key-dtype", o.key), value = parse_format("--value-dtype", o.value);
    args.key.dtype = key.dtype, args.value.dtype = value.dtype;
    key_quant = quant_of(key, args.key_len, kv_heads, args.head_dim);
    value_quant = quant_of(value, args.key_len, kv_heads, value_dim);
    if (has_scales(key.dtype)) args.key.quant = &key_quant;
    if (has_scales(value.dtype)) args.value.quant = &value_quant;
  }
  if (o.cache.pages) {
    pages = make_pages(o.cache, args.batch, args.key_len);
    args.pages = &pages.pages;
  }
  if (o.heads_first) {
    set_strides(args.query, heads_first(args.query_len, args.num_heads, args.head_dim));
    set_strides(args.output, heads_first(args.query_len, args.num_heads, value_dim));
    if (o.cache.kind.empty() && !o.cache.pages) {
      set_strides(args.key, heads_first(args.key_len, kv_heads, args.head_dim));
      set_strides(args.value, heads_first(args.key_len, kv_heads, value_dim));
    }
  }
  print_plan([&](Span<char> text) { return context.attention_explain(args, text); });
}

void add_attention(CLI::App& parent) {
  auto options = std::make_shared<AttentionOptions>();
  CLI::App* command = parent.add_subcommand("attention", "mha_attention");
  command->add_option("--num-heads", options->num_heads, "H")->required();
  command->add_option("--num-kv-heads", options->num_kv_heads, "Hkv (default: H)");
  command->add_option("--head-dim", options->head_dim, "D")->required();
  command->add_option("--value-head-dim", options->value_head_dim, "Dv (default: D)");
  add_call_options(*command, ExplainCall::kAttention, options->call);
  command->callback([=] { explain_attention(*command, *options); });
}

}  // namespace

void print_plan(const std::function<Result<std::size_t>(Span<char> text)>& explain) {
  std::vector<char> text(take(explain({})) + 1);
  take(explain(text));
  std::fputs(text.data(), stdout);
}

void add_explain(CLI::App& app, int& /*status*/) {
  CLI::App* command = app.add_subcommand("explain", "Say what a call with given sizes would do, and why");
  command->require_subcommand(1);
  command->footer(
      "Example: mha explain attention --query-len 1 --key-len 4096 --num-heads 32 --num-kv-heads 8 --head-dim 128");
  add_attention(*command);
  add_explain_linear(*command);
  add_explain_layer(*command);
}

}  // namespace mha::cli
