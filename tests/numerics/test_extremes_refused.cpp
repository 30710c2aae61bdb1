// SPDX-License-Identifier: Apache-2.0
// Arguments that would count as 0 though they are not, scales below 0, and a width of 0, are refused by name and value.
#include <cstdio>

#include "tests/support/extremes.h"

using namespace mha::test;

TEST_CASE("extremes: denormal arguments are refused by name and value", "[extremes][status]") {
  const AttentionShape s = {1, 2, 2, 3, 20, 8, 8};
  const AttentionProblem p(s, MaskKind::kNone, 397);
  const float denormals[] = {1e-40f, -1e-40f, std::nextafter(FLT_MIN, 0.0f), std::nextafter(0.0f, 1.0f)};
  for_each_target([&](const std::string&, const mha_context* context) {
    for (const float denormal : denormals) {
      char value[32];
      std::snprintf(value, sizeof(value), " is %g:", static_cast<double>(denormal));
      std::vector<float> output = poisoned(s.output().count());
      AttentionCall args = p.args();
      args.output = mut_view(output.data());
      const auto refused = [&](const std::string& name, const AttentionCall& bad) {
        mha_error error = {};
        size_t bytes = 0;
        CHECK(attention(context, bad, &error) == MHA_ERR_ARGUMENT);
        CHECK(mentions(error, name + value));
        error = {};
        CHECK(attention_workspace_bytes(context, bad, &bytes, &error) == MHA_ERR_ARGUMENT);
        CHECK(mentions(error, name + value));
        std::vector<float> partials = poisoned(10000);
        AttentionCall part = bad;
        part.output = {};
        error = {};
        CHECK(attention_partial(context, part, partials.data(), 40000, &error) == MHA_ERR_ARGUMENT);
        CHECK(mentions(error, name + value));
        CHECK(std::all_of(output.begin(), output.end(), is_poison));
        CHECK(std::all_of(partials.begin(), partials.end(), is_poison));
      };
      AttentionCall bad = args;
      for (const int exact : {0, 1}) {
        bad.scale = denormal, bad.scale_is_exact = exact;
        refused("scale", bad);
      }
      bad = args, bad.score_mods.softcap = denormal;
      refused("score_mods.softcap", bad);
      mha_norm norm = {};
      norm.epsilon = denormal;
      bad = args, bad.query_norm = &norm;
      refused("query_norm.epsilon", bad);
      mha_error error = {};

      mha_layer_config config = {};
      config.embed_dim = 8, config.num_heads = 2;
      const LayerProblem layer(config, 1, 3, 3, Biases::kNone, 398);
      const mha_layer_weights weights = layer.separate_weights();
      config.scale = denormal;
      for (const int exact : {0, 1}) {
        config.scale_is_exact = exact;
        mha_layer* none = nullptr;
        error = {};
        CHECK(mha_layer_create(context, &config, &weights, &none, &error) == MHA_ERR_ARGUMENT);
        CHECK(mentions(error, std::string("scale") + value));
        CHECK(none == nullptr);
      }
      const LayerPtr made = layer.make(context);
      LayerCall forward = layer.args();
      forward.output = mut_view(output.data()), forward.score_mods.softcap = denormal;
      CHECK(layer_forward(context, made.get(), forward, &error) == MHA_ERR_ARGUMENT);
      CHECK(mentions(error, std::string("score_mods.softcap") + value));

      mha_rows_args rope_args = {};
      rope_args.batch = 1, rope_args.length = 3, rope_args.num_heads = 2, rope_args.head_dim = 8;
      rope_args.input = view(p.query.data()), rope_args.output = mut_view(output.data());
      rope_args.norm = &norm;
      CHECK(mha_rows_prepare(context, &rope_args, &error) == MHA_ERR_ARGUMENT);
      CHECK(mentions(error, std::string("norm.epsilon") + value));
      CHECK(std::all_of(output.begin(), output.end(), is_poison));
    }
  });
}

TEST_CASE("extremes: denormal numbers of rope are refused by name", "[extremes][status][rope]") {
  const std::vector<float> input(48, 1.0f);
  for_each_target([&](const std::string&, const mha_context* context) {
    const auto refused = [&](const std::string& name, mha_rope rope) {
      std::vector<float> output = poisoned(48);
      mha_rows_args args = {};
      args.batch = 1, args.length = 3, args.num_heads = 2, args.head_dim = 8;
      args.input = view(input.data()), args.output = mut_view(output.data()), args.rope = &rope;
      mha_error error = {};
      CHECK(mha_rows_prepare(context, &args, &error) == MHA_ERR_ARGUMENT);
      INFO(error.message);
      CHECK(mentions(error, "rope." + name + " is 1e-310"));
      CHECK(std::all_of(output.begin(), output.end(), is_poison));
    };
    mha_rope rope = {};
    rope.base = 1e-310;
    refused("base", rope);
    rope.base = 0, rope.factor = 2, rope.original_positions = 100, rope.scaling = MHA_ROPE_SCALING_LLAMA3;
    rope.low_freq_factor = 1e-310;
    refused("low_freq_factor", rope);
    rope.low_freq_factor = 0, rope.high_freq_factor = 1e-310;
    refused("high_freq_factor", rope);
    rope.high_freq_factor = 0, rope.scaling = MHA_ROPE_SCALING_YARN;
    rope.beta_fast = 1e-310;
    refused("beta_fast", rope);
    rope.beta_fast = 0, rope.beta_slow = 1e-310;
    refused("beta_slow", rope);
    rope.beta_slow = 0, rope.attention_factor = 1e-310;
    refused("attention_factor", rope);
  });
}

TEST_CASE("extremes: a scale below 0 is refused unless it is exact", "[extremes][status]") {
  const AttentionProblem p({1, 2, 2, 3, 20, 8, 8}, MaskKind::kNone, 399);
  const struct {
    float scale;
    const char* text;
  } cases[] = {{-1.0f, "scale is -1: below 0, so set scale_is_exact"},
               {-FLT_MIN, "scale is -1.17549e-38: below 0"},
               {-0.0f, "scale is -0: below 0"}};
  const float unusable[] = {kNan, kInf, -kInf};
  mha_layer_config config = {};
  config.embed_dim = 8, config.num_heads = 2;
  const LayerProblem layer(config, 1, 3, 3, Biases::kNone, 398);
  const mha_layer_weights weights = layer.separate_weights();
  for_each_target([&](const std::string&, const mha_context* context) {
    std::vector<float> output = poisoned(3 * 2 * 8);
    AttentionCall args = p.args();
    args.output = mut_view(output.data());
    const auto refused = [&](float scale, int exact, const std::string& text) {
      INFO("scale " << scale << " exact " << exact);
      args.scale = config.scale = scale, args.scale_is_exact = config.scale_is_exact = exact;
      mha_error error = {};
      CHECK(attention(context, args, &error) == MHA_ERR_ARGUMENT);
      CHECK(mentions(error, text));
      CHECK(std::all_of(output.begin(), output.end(), is_poison));
      mha_layer* none = nullptr;
      error = {};
      CHECK(mha_layer_create(context, &config, &weights, &none, &error) == MHA_ERR_ARGUMENT);
      CHECK(mentions(error, text));
      CHECK(none == nullptr);
    };
    for (const auto& c : cases) refused(c.scale, 0, c.text);
    for (const float scale : unusable) {
      for (const int exact : {0, 1}) refused(scale, exact, "must be finite");
    }
  });
}

TEST_CASE("extremes: a width of 0 is that of query in a call, and refused by a merge", "[extremes][status]") {
  const AttentionProblem p({1, 2, 2, 3, 20, 8, 8}, MaskKind::kNone, 400);
  for_each_target([&](const std::string&, const mha_context* context) {
    float nothing = 7;
    AttentionCall args = p.args();
    const AttentionResult want = run_attention(context, args);
    args.value_head_dim = 0;
    check_same_results("width 0", run_attention(context, args), want);
    mha_error error = {};
    mha_merge_partials_args merge = {};
    merge.batch = merge.num_heads = merge.query_len = 1;
    merge.output = mut_view(&nothing);
    CHECK(mha_attention_merge_partials(context, &merge, &error) == MHA_ERR_ARGUMENT);
    CHECK(mentions(error, "value_head_dim is 0"));
    mha_merge_args finished = {};
    finished.rows = 1, finished.output = &nothing;
    error = {};
    CHECK(mha_attention_merge(context, &finished, &error) == MHA_ERR_ARGUMENT);
    CHECK(mentions(error, "value_head_dim is 0"));
    CHECK(nothing == 7);
  });
}
