// SPDX-License-Identifier: Apache-2.0
// The options of `mha explain`, by the groups of mha.h; see explain_options.h.
#include "tools/cli/explain_options.h"

namespace mha::cli {
namespace {

constexpr const char* kNumbers = "N[,N...]";

// An option whose value may be left out: CLI11 then gives an empty word, which becomes `missing`.
void add_optional_word(CLI::App& app, const std::string& name, std::string& word, const std::string& missing,
                       const std::string& help) {
  app.add_option_function<std::vector<std::string>>(
         name,
         [&word, missing](const std::vector<std::string>& given) {
           word = given.empty() || given[0].empty() ? missing : given[0];
         },
         help)
      ->expected(0, 1);
}

// Puts every option that `add` adds under one heading of the help.
template <class Add>
void in_group(CLI::App& app, const std::string& name, const Add& add) {
  app.option_defaults()->group(name);
  add();
  app.option_defaults()->group("Options");
}

// Those of `names` are refused without `needed`, which says what they are of.
void need(CLI::App& app, const std::vector<std::string>& names, const std::string& needed) {
  for (const std::string& name : names) {
    if (CLI::Option* option = app.get_option_no_throw(name)) option->needs(app.get_option(needed));
  }
}

void add_items(CLI::App& app, ItemOptions& o) {
  app.add_option("--batch", o.batch, "B (default 1)");
  app.add_option("--query-len", o.query_len, "Tq");
  app.add_option("--key-len", o.key_len, "Tk; with a cache: the tokens of a sequence after the call");
  app.add_option("--query-lengths", o.query_lengths, "Packed queries: the number of each item, instead of B and Tq")
      ->type_name(kNumbers);
  app.add_option("--packed-key-lengths", o.packed_key_lengths, "Packed keys: the number of each item, instead of Tk")
      ->type_name(kNumbers);
  add_optional_word(app, "--key-lengths", o.key_lengths, "all",
                    "How many keys of a padded tensor count, for each item (alone: Tk of each)");
  app.add_option("--sequences", o.sequences, "The sequence of the cache of each item (default 0, 1, ...)")
      ->type_name(kNumbers);
}

void add_positions(CLI::App& app, ExplainCall call, PositionOptions& o) {
  add_causal_option(app, o.causal);
  app.add_option("--align", o.align, "Where queries stand, causal or not: start, end, offset")->type_name("NAME");
  app.add_option("--offset", o.offset, "With --align offset: query i stands at i + N");
  app.add_option("--offsets", o.offsets, "With --align offset: an offset for each item")->type_name(kNumbers);
  app.add_flag("--query-positions", o.query, "Positions for rope are given for each query");
  if (call == ExplainCall::kLayer) app.add_flag("--key-positions", o.key, "The same for each key");
}

void add_masks(CLI::App& app, MaskOptions& o) {
  app.add_flag("--bool-mask", o.bool_mask, "With a boolean mask");
  add_optional_word(app, "--add-mask", o.add_mask, "f32", "With an additive mask of f32, f16 or bf16 (alone: f32)");
  add_optional_word(app, "--add-mask2", o.add_mask2, "f32", "With a second one");
  app.add_flag("--mask-factors", o.factors, "The first one's entries times a factor of each head");
  app.add_flag("--bit-mask", o.bit_mask, "With a mask of one bit for each key");
  app.add_option("--block-mask", o.block_mask, "With a block-sparse mask of QUERY,KEY blocks")->type_name("N,N");
  app.add_flag("--segments", o.segments, "With segments of queries and keys");
  app.add_option("--prefix-lengths", o.prefix_lengths, "Keys of each item that causality does not hide")
      ->type_name(kNumbers);
  app.add_option("--window-left", o.window_left, "Keys a query sees up to its own (default 0: no limit)");
  app.add_option("--window-right", o.window_right, "The same from its own on");
  app.add_option("--sink-tokens", o.sink_tokens, "First keys that stay visible beside the window");
}

void add_scores(CLI::App& app, ScoreOptions& o) {
  app.add_option("--scale", o.scale, "Factor of the scores (default: 1 / sqrt(D))");
  app.add_flag("--scale-is-exact", o.scale_is_exact, "--scale is used as given, also if it is 0 or negative");
  app.add_option("--softcap", o.softcap, "Cap of the scores");
  app.add_flag("--alibi", o.alibi, "With ALiBi's slopes");
  app.add_option("--relative-bias", o.relative_bias, "With a bias of the distances from -LEFT to RIGHT")
      ->type_name("LEFT,RIGHT");
  app.add_flag("--sink-logits", o.sinks, "With a learned logit of each head that takes attention weight");
}

void add_rows(CLI::App& app, RowOptions& o) {
  app.add_flag("--qk-norm", o.qk_norm, "With RMS norm of queries (a layer: and keys)");
  app.add_option("--norm-epsilon", o.norm_epsilon, "Its epsilon (default 1e-6)");
  app.add_flag("--norm-weight", o.norm_weight, "It has a weight for each element");
  add_optional_word(app, "--rope", o.rope, "half", "With rotary positions: half or interleaved (alone: half)");
  mha_rope& r = o.rotation;
  app.add_option("--rope-dims", r.dims, "Elements of a row that are rotated (default: D)");
  app.add_option("--rope-base", r.base, "Base of the angles (default 10000)");
  app.add_option("--rope-scaling", o.rope_scaling, "none, linear, llama3, yarn")->type_name("NAME");
  app.add_option("--rope-factor", r.factor, "Factor of the scaling");
  app.add_option("--rope-low-freq-factor", r.low_freq_factor, "llama3 (default 1)");
  app.add_option("--rope-high-freq-factor", r.high_freq_factor, "llama3 (default 4)");
  app.add_option("--rope-beta-fast", r.beta_fast, "yarn (default 32)");
  app.add_option("--rope-beta-slow", r.beta_slow, "yarn (default 1)");
  app.add_option("--rope-attention-factor", r.attention_factor, "yarn (default 0.1 ln(factor) + 1)");
  app.add_option("--rope-original-positions", r.original_positions, "llama3, yarn: length the model was trained on");
  app.add_option("--rope-table", r.table_positions, "The caller's own table of sines, of that many positions");
}

void add_cache(CLI::App& app, ExplainCall call, CacheOptions& o) {
  app.add_option("--cache", o.kind, "Keys and values are in a cache: contiguous, ring or paged")->type_name("KIND");
  app.add_option("--cache-lengths", o.lengths,
                 "Tokens that each sequence has before the call (default: what --key-len says)")
      ->type_name(kNumbers);
  app.add_option("--cache-key", o.key, "How it stores keys (default f32)")->type_name(kFormatType);
  app.add_option("--cache-value", o.value, "How it stores values (default f32)")->type_name(kFormatType);
  app.add_option("--page-size", o.page_size, "Tokens in a page of a paged cache (default 64), or of --pages");
  app.add_option("--capacity", o.capacity, "Tokens it has room for (default: what is needed)");
  app.add_option("--max-sequences", o.max_sequences, "Sequences it has room for (default: what is needed)");
  app.add_option("--cache-sink-tokens", o.sink_tokens, "First tokens that a ring keeps (default: --sink-tokens)");
  app.add_option("--shared-tokens", o.shared_tokens,
                 "First tokens that all sequences share, in a paged cache or --pages");
  app.add_flag("--value-in-key", o.value_in_key, "Values are the first elements of keys (MLA)");
  if (call == ExplainCall::kLayer) {
    app.add_option("--cache-use", o.use, "append (default): new tokens are appended; read: they only read the cache")
        ->type_name("NAME");
  } else {
    app.add_flag("--pages", o.pages, "Keys and values are in the caller's own pages");
  }
}

void add_results(CLI::App& app, ResultOptions& o) {
  app.add_flag("--log-sum-exp", o.log_sum_exp, "The log-sum-exp of each row is wanted");
  app.add_option("--weights-mode", o.weights_mode,
                 "Attention weights wanted: none (default), per-head, averaged, key-sums")
      ->type_name("NAME");
  app.add_option("--weights-dtype", o.weights_dtype, "Their element type (default f32)")->type_name("DTYPE");
  app.add_option("--weights-rows", o.weights_rows, "Only the weights of these queries")->type_name(kNumbers);
}

void add_tensors(CLI::App& app, ExplainCall call, CallOptions& o) {
  app.add_option("--query-dtype", o.query, "Element type of the query (default f32)")->type_name("DTYPE");
  const bool codes = call == ExplainCall::kAttention;  // a layer projects its key and value, which are floats
  app.add_option("--key-dtype", o.key,
                 codes ? "Of the key (default f32); codes with their scales" : "Of the key (default f32)")
      ->type_name(codes ? kFormatType : "DTYPE");
  app.add_option("--value-dtype", o.value, "Of the value (default f32)")->type_name(codes ? kFormatType : "DTYPE");
  app.add_option("--output-dtype", o.output, "Of the output (default f32)")->type_name("DTYPE");
  if (codes) {
    app.add_flag("--heads-first", o.heads_first, "Tensors are [B, H, T, D], as torch has them, not [B, T, H, D]");
  }
}

}  // namespace

void add_max_threads_option(CLI::App& app, std::int64_t& max_threads) {
  app.add_option("--max-threads", max_threads, "Threads of the context that the call may use (default 0: all)");
}

void add_call_options(CLI::App& app, ExplainCall call, CallOptions& o) {
  in_group(app, "Items", [&] { add_items(app, o.items); });
  in_group(app, "Positions", [&] { add_positions(app, call, o.positions); });
  in_group(app, "Masks", [&] { add_masks(app, o.masks); });
  in_group(app, "Scores", [&] { add_scores(app, o.scores); });
  in_group(app, "Norm and rotation", [&] { add_rows(app, o.rows); });
  in_group(app, "Cache and pages", [&] { add_cache(app, call, o.cache); });
  in_group(app, "Results", [&] { add_results(app, o.results); });
  in_group(app, "Tensors and arithmetic", [&] {
    add_tensors(app, call, o);
    add_arithmetic_option(app, o.arithmetic);
  });
  in_group(app, "Resources", [&] {
    add_max_threads_option(app, o.max_threads);
    add_context_options(app, o.context);
  });
  app.get_option("--query-lengths")->excludes("--query-len")->excludes("--batch");
  app.get_option("--packed-key-lengths")->excludes("--key-len");
  need(app, {"--norm-epsilon", "--norm-weight"}, "--qk-norm");
  need(app,
       {"--rope-dims", "--rope-base", "--rope-scaling", "--rope-factor", "--rope-low-freq-factor",
        "--rope-high-freq-factor", "--rope-beta-fast", "--rope-beta-slow", "--rope-attention-factor",
        "--rope-original-positions", "--rope-table"},
       "--rope");
  need(app,
       {"--cache-lengths", "--cache-key", "--cache-value", "--capacity", "--max-sequences", "--cache-sink-tokens",
        "--value-in-key", "--cache-use", "--sequences"},
       "--cache");
  need(app, {"--weights-dtype", "--weights-rows"}, "--weights-mode");
  for (const char* name : {"--key-dtype", "--value-dtype"}) app.get_option("--cache")->excludes(name);
}

}  // namespace mha::cli
