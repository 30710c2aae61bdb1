// SPDX-License-Identifier: Apache-2.0
// Softcaps, scales, biases and scores of any finite size; exact scales of 0 and negative ones.
#include "tests/support/extremes.h"
#include "tests/support/seeds.h"

using namespace mha::test;

TEST_CASE("extremes: softcaps of any size with scales and scores of any size", "[extremes]") {
  const float kCaps[] = {FLT_MIN, 1e-37f, 1e-36f, 1e-30f, 1e-20f, 1e-10f, 1e-3f, 1.0f,   50.0f,
                         1e10f,   1e19f,  2e19f,  1e20f,  1e30f,  1e36f,  1e38f, FLT_MAX};
  const float kScales[] = {FLT_MIN, 1e-30f, 1e-20f, 1.0f, -1.0f, 1e19f, 1e20f, -1e30f, FLT_MAX};
  Taken cases;
  for (const AttentionShape& s : {AttentionShape{1, 2, 1, 20, 300, 8, 8}, AttentionShape{1, 2, 2, 1, 520, 20, 16}}) {
    for (const float cap : kCaps) {
      for (const float scale : kScales) {
        if (!cases.next()) continue;
        // Scores of some units, since queries and keys make up for the scale.
        AttentionProblem p(s, MaskKind::kNone, 340);
        const float root = std::sqrt(1 / std::fabs(scale));
        for (float& q : p.query) q *= 2 * root;
        for (float& k : p.key) k *= root;
        p.scale = scale;
        AttentionCall args = p.args();
        args.scale_is_exact = scale < 0, args.score_mods.softcap = cap;
        INFO("cap " << cap << " scale " << scale);
        check_everywhere("softcap", p, args, {4e-6, 4e-6});
      }
    }
  }
}

TEST_CASE("extremes: scores beyond any softcap take all of it", "[extremes]") {
  for (const float cap : {FLT_MIN, 1e-30f, 1.0f, 20.0f, 1e10f, 1e30f, 1e36f}) {
    for (const float scale : {1e-20f, 1.0f, 1e20f}) {
      // Every score is +-1e38 or so, all at least 20 times the cap.
      const AttentionShape s = {1, 2, 1, 20, 600, 1, 8};
      AttentionProblem p(s, MaskKind::kNone, 350);
      const float root = std::sqrt(1e38f / scale);
      for (float& q : p.query) q = (q < 0 ? -1 : 1) * root * (1 + q * q) / 2;
      for (float& k : p.key) k = (k < 0 ? -1 : 1) * root * (1 + k * k) / 2;
      p.scale = scale;
      AttentionCall args = p.args();
      args.score_mods.softcap = cap;
      INFO("cap " << cap << " scale " << scale);
      // tanh is 1 - 2.3e-7 there.
      check_everywhere("softcap", p, args,
                       {2e-5, 4e-7 * std::max(1.0, static_cast<double>(cap)) / std::max(1.0f, cap)});
    }
  }
}

TEST_CASE("extremes: huge scores beside a cap as huge", "[extremes]") {
  for (const float cap : {1e18f, 1e20f, 1e30f, 1e37f, 1e38f, FLT_MAX}) {
    for (const float scale : {FLT_MIN, 1e-20f, 1.0f, -1e20f}) {
      for (const AttentionShape& s :
           {AttentionShape{1, 2, 1, 20, 300, 8, 8}, AttentionShape{1, 2, 2, 1, 520, 20, 16}}) {
        AttentionProblem p(s, MaskKind::kNone, 355);
        const double root = std::sqrt(static_cast<double>(cap) / std::fabs(static_cast<double>(scale)) / 20);
        for (float& q : p.query) q *= static_cast<float>(root);
        for (float& k : p.key) k *= static_cast<float>(root);
        p.scale = scale;
        AttentionCall args = p.args();
        args.scale_is_exact = scale < 0, args.score_mods.softcap = cap;
        INFO("cap " << cap << " scale " << scale);
        check_everywhere("softcap", p, args, kOrdinary);
      }
    }
  }
}

TEST_CASE("extremes: scores of any finite size", "[extremes]") {
  Taken cases;
  for (const AttentionShape& s : kShapes) {
    for (const float scale : {FLT_MIN, 1e-25f, 1e-10f, 1.0f, -1.0f, 1e10f, 1e25f, FLT_MAX}) {
      for (const float size : {1.0f, 1e20f, 1e36f, 3e38f}) {
        if (!cases.next()) continue;
        // Keys come from a list of few, so that equal scores share; the sizes of query and key make the score's.
        AttentionProblem p(s, MaskKind::kNone, 360);
        const double root = std::sqrt(size / std::fabs(static_cast<double>(scale)) / static_cast<double>(s.D));
        Random random(361);
        for (float& x : p.query) x = static_cast<float>(root) * (1 + x) / 2;
        for (int64_t j = 0; j < s.B * s.Tk; ++j) {
          const int64_t like = random.below(5);
          for (int64_t n = 0; n < s.Hkv * s.D; ++n) {
            float& x = p.key[static_cast<size_t>(j * s.Hkv * s.D + n)];
            x = j < 5 ? static_cast<float>(root) * (1 + x) / 2 : p.key[static_cast<size_t>(like * s.Hkv * s.D + n)];
          }
        }
        p.scale = scale;
        AttentionCall args = p.args();
        args.scale_is_exact = scale < 0;
        INFO("scale " << scale << " size " << size);
        check_everywhere("scores", p, args, kOrdinary);
      }
    }
  }
}

TEST_CASE("extremes: relative biases and ALiBi of any size, beside masks and softcap", "[extremes]") {
  for (const AttentionShape& s : kShapes) {
    for (const uint64_t seed : seeds(0, 6)) {
      AttentionProblem p(s, MaskKind::kCausal, 370 + seed);
      Random random(380 + seed);
      AttentionCall args = p.args();
      // No two sums of a bias and a mask are near each other.
      const float biases[] = {-3.1e38f, -2.41e38f, -0.7e38f, 0.5f, 1.3e38f, 3.3e38f};
      std::vector<float> bias;
      for (int64_t n = 0; n < s.H * (2 * 40 + 1); ++n)
        bias.push_back(biases[random.below(2 + static_cast<int64_t>(seed) % 5)]);
      args.score_mods.relative_bias = bias.data(), args.score_mods.relative_left = args.score_mods.relative_right = 40;
      check_everywhere("biases", p, args, kOrdinary);
      if (seed % 2 == 0) {
        p.set_add_mask(1);
        const float masks[] = {-3.4e38f, -1.02e38f, 0.0f};
        for (float& m : p.add_mask) m = masks[random.below(3)];
        p.masks.put_into(&args);
        check_everywhere("biases and mask", p, args, kOrdinary);
        args.score_mods.softcap = 3e38f;
        check_everywhere("biases, mask and softcap", p, args, kOrdinary);
      }
      if (seed > 2) continue;
      args = p.args();
      args.masks.add_mask = {};
      const float slopes[] = {FLT_MAX, 1e36f, 2.5e38f, 1e-38f};
      args.score_mods.alibi_slopes = slopes;
      check_everywhere("ALiBi", p, args, kOrdinary);
    }
  }
}

TEST_CASE("extremes: a layer's scale of any size, with keys that it adds and masks of -FLT_MAX", "[extremes][layer]") {
  for (const float scale : {1e-30f, 1e-25f, 1.0f, -1e25f}) {
    for (const int zeros : {0, 1}) {
      mha_layer_config config = {};
      config.embed_dim = 24, config.num_heads = 4, config.num_kv_heads = 2, config.head_dim = 8;
      config.scale = scale, config.scale_is_exact = scale < 0, config.add_zero_attn = zeros;
      LayerProblem layer(config, 2, 9, 304, Biases::kNone, 390);
      const float root = std::sqrt(1 / std::fabs(scale));
      for (float& w : layer.query_weight) w *= root;
      for (float& w : layer.key_weight) w *= root;
      AttentionProblem masked({2, 4, 2, 9, 304, 8, 8}, MaskKind::kAdd, 391);
      for (int64_t row = 0; row < 2 * 9; row += 2) {
        std::fill_n(masked.add_mask.begin() + row * 304, 304, -FLT_MAX);
      }
      LayerCall args = layer.args();
      masked.masks.put_into(&args), args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
      // A learned key of the keys' size, which every query sees, in 16 keys of its own.
      const std::vector<float> bias_key = random_floats(16, 392, root), bias_value = random_floats(16, 393);
      mha_layer_weights weights = layer.separate_weights();
      weights.bias_key = bias_key.data(), weights.bias_value = bias_value.data();
      const LayerReference want = reference_layer(config, weights, args);
      for_each_target([&](const std::string&, const mha_context* context) {
        INFO("scale " << scale << " zeros " << zeros);
        const LayerResult got = run_layer(context, layer.make_from(context, weights).get(), args, 1 + zeros);
        check_close("output", got.output, want.output, {2e-6, 2e-6});
        check_close("weights", got.weights, want.weights, {2e-6, 2e-6});
      });
    }
  }
}

TEST_CASE("extremes: an exact scale of 0 is no default: every score is 0 before biases and masks", "[extremes]") {
  const float slopes[] = {0.5f, 0.25f, 0.1f, 0.01f};
  Taken cases(2);
  for (const AttentionShape& s : kShapes) {
    for (int n = 0; n < 4; ++n) {
      if (!cases.next()) continue;
      AttentionProblem p(s, n == 2 ? MaskKind::kCausal : MaskKind::kAdd, 395);
      const std::vector<float> sinks = random_floats(s.H, 394);
      AttentionCall args = p.args();
      if (n == 1) args.score_mods.softcap = 3;
      if (n == 3) args.score_mods.softcap = 1e30f;
      if (n == 2) args.score_mods.alibi_slopes = slopes;
      const std::vector<float> zero(p.query.size(), 0.0f);
      AttentionCall same = args;
      same.query = view(zero.data()), same.scale = 1;
      for (const bool sink : {false, true}) {
        same.score_mods.sink_logits = args.score_mods.sink_logits = sink ? sinks.data() : nullptr;
        const AttentionReference want = reference_attention(same);
        for (const float scale : {0.0f, -0.0f}) {
          args.scale_is_exact = 1, args.scale = scale;
          INFO("case " << n << " sink " << sink << " scale " << scale);
          check_everywhere("scale 0", p, args, kOrdinary);
          for_each_target([&](const std::string&, const mha_context* context) {
            const AttentionResult got = run_attention(context, args);
            check_close("output", got.output, want.output, {4e-7, 4e-7});
            check_close("log-sum-exp", got.log_sum_exp, want.log_sum_exp, {8e-7, 8e-7});
          });
        }
      }
    }
  }
}

TEST_CASE("extremes: an exact scale of a layer, 0 and negative, also of one that was saved and mapped",
          "[extremes][layer]") {
  for (const float scale : {0.0f, -0.0f, -0.7f, 1.5f}) {
    mha_layer_config config = {};
    config.embed_dim = 24, config.num_heads = 4, config.num_kv_heads = 2, config.head_dim = 8;
    config.scale = scale, config.scale_is_exact = 1;
    LayerProblem layer(config, 2, 9, 304, Biases::kAll, 396);
    const AttentionProblem masked({2, 4, 2, 9, 304, 8, 8}, MaskKind::kAdd, 397);
    LayerCall args = layer.args();
    masked.masks.put_into(&args), args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
    const mha_layer_weights weights = layer.separate_weights();
    // The reference of a layer whose queries are 0: what a scale of 0 comes to, by another way.
    LayerProblem still(config, 2, 9, 304, Biases::kAll, 396);
    still.config.scale = scale == 0 ? 1 : scale;
    if (scale == 0) {
      std::fill(still.query_weight.begin(), still.query_weight.end(), 0.0f);
      std::fill(still.query_bias.begin(), still.query_bias.end(), 0.0f);
    }
    const LayerReference want = reference_layer(still.config, still.separate_weights(), args);
    for_each_target([&](const std::string&, const mha_context* context) {
      INFO("scale " << scale);
      const LayerPtr made = layer.make_from(context, weights);
      const LayerResult got = run_layer(context, made.get(), args);
      check_close("output", got.output, want.output, {2e-6, 2e-6});
      check_close("weights", got.weights, want.weights, {2e-6, 2e-6});
      mha_layer_config full = {};
      mha_layer_get_config(made.get(), &full);
      CHECK(full.scale_is_exact == 1);
      CHECK(bits_of(full.scale) == bits_of(scale));
      size_t bytes = 0;
      mha_error error = {};
      require_ok(mha_layer_save_bytes(made.get(), &bytes, &error), error);
      std::vector<float> blob(bytes / sizeof(float));
      require_ok(mha_layer_save(made.get(), blob.data(), bytes, &error), error);
      mha_layer* handle = nullptr;
      require_ok(mha_layer_map(context, blob.data(), bytes, &handle, &error), error);
      const LayerPtr mapped(handle);
      const LayerResult again = run_layer(context, mapped.get(), args);
      check_same_bits("output of the mapped layer", again.output, got.output);
      check_same_bits("weights of the mapped layer", again.weights, got.weights);
    });
  }
}

TEST_CASE("extremes: a negative scale is what it says", "[extremes]") {
  const float slopes[] = {0.5f, 0.25f, 0.1f, 0.01f};
  for (const AttentionShape& s : kShapes) {
    for (const float cap : {0.0f, 2.0f, 1e30f}) {
      AttentionProblem p(s, MaskKind::kAdd, 396);
      p.scale = -0.7f;
      AttentionCall args = p.args();
      args.scale_is_exact = 1, args.score_mods.softcap = cap;
      check_everywhere("negative scale", p, args, kOrdinary);
      args.causal = 1, args.score_mods.alibi_slopes = slopes;
      check_everywhere("negative scale and ALiBi", p, args, kOrdinary);
    }
  }
}
