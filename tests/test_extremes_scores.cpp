// SPDX-License-Identifier: Apache-2.0
// Softcaps, scales, biases and scores of any finite size; a scale of exactly 0 and negative ones.
#include "core/run_attention.h"
#include "core/validate.h"
#include "simd/float_mode.h"
#include "support/extremes.h"

using namespace mha::test;

TEST_CASE("extremes: softcaps of any size with scales and scores of any size", "[extremes]") {
  const float kCaps[] = {FLT_MIN, 1e-37f, 1e-36f, 1e-30f, 1e-20f, 1e-10f, 1e-3f, 1.0f,   50.0f,
                         1e10f,   1e19f,  2e19f,  1e20f,  1e30f,  1e36f,  1e38f, FLT_MAX};
  const float kScales[] = {FLT_MIN, 1e-30f, 1e-20f, 1.0f, -1.0f, 1e19f, 1e20f, -1e30f, FLT_MAX};
  for (const AttentionShape& s : {AttentionShape{1, 2, 1, 20, 300, 8, 8}, AttentionShape{1, 2, 2, 1, 520, 20, 16}}) {
    for (const float cap : kCaps) {
      for (const float scale : kScales) {
        // Scores of some units, since queries and keys make up for the scale.
        AttentionProblem p(s, MaskKind::kNone, 340);
        const float root = std::sqrt(1 / std::fabs(scale));
        for (float& q : p.query) q *= 2 * root;
        for (float& k : p.key) k *= root;
        p.scale = scale;
        AttentionCall args = p.args();
        args.score_mods.softcap = cap;
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
        args.score_mods.softcap = cap;
        INFO("cap " << cap << " scale " << scale);
        check_everywhere("softcap", p, args, kOrdinary);
      }
    }
  }
}

TEST_CASE("extremes: scores of any finite size", "[extremes]") {
  for (const AttentionShape& s : kShapes) {
    for (const float scale : {FLT_MIN, 1e-25f, 1e-10f, 1.0f, -1.0f, 1e10f, 1e25f, FLT_MAX}) {
      for (const float size : {1.0f, 1e20f, 1e36f, 3e38f}) {
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
        INFO("scale " << scale << " size " << size);
        check_everywhere("scores", p, p.args(), kOrdinary);
      }
    }
  }
}

TEST_CASE("extremes: relative biases and ALiBi of any size, beside masks and softcap", "[extremes]") {
  for (const AttentionShape& s : kShapes) {
    for (uint64_t seed = 0; seed < 6; ++seed) {
      AttentionProblem p(s, MaskKind::kCausal, 370 + seed);
      Random random(380 + seed);
      AttentionCall args = p.args();
      // No two sums of a bias and a mask are near each other.
      const float biases[] = {-3.1e38f, -2.41e38f, -0.7e38f, 0.5f, 1.3e38f, 3.3e38f};
      std::vector<float> bias;
      for (int64_t n = 0; n < s.H * (2 * 40 + 1); ++n)
        bias.push_back(biases[random.below(2 + static_cast<int64_t>(seed))]);
      args.score_mods.relative_bias = bias.data(), args.score_mods.relative_left = args.score_mods.relative_right = 40;
      check_everywhere("biases", p, args, kOrdinary);
      if (seed % 2 == 0) {
        p.set_add_mask(1);
        const float masks[] = {-3.4e38f, -1.02e38f, 0.0f};
        for (float& m : p.add_mask) m = masks[random.below(3)];
        args.masks = p.masks;
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
      config.scale = scale, config.add_zero_attn = zeros;
      LayerProblem layer(config, 2, 9, 304, Biases::kNone, 390);
      const float root = std::sqrt(1 / std::fabs(scale));
      for (float& w : layer.query_weight) w *= root;
      for (float& w : layer.key_weight) w *= root;
      AttentionProblem masked({2, 4, 2, 9, 304, 8, 8}, MaskKind::kAdd, 391);
      for (int64_t row = 0; row < 2 * 9; row += 2) {
        std::fill_n(masked.add_mask.begin() + row * 304, 304, -FLT_MAX);
      }
      LayerCall args = layer.args();
      args.masks = masked.masks, args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
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

TEST_CASE("extremes: a scale of exactly 0, inside, is no default: every score is 0 before biases and masks",
          "[extremes]") {
  for (const AttentionShape& s : kShapes) {
    for (int n = 0; n < 4; ++n) {
      AttentionProblem p(s, n == 2 ? MaskKind::kCausal : MaskKind::kAdd, 395);
      const float slopes[] = {0.5f, 0.25f, 0.1f, 0.01f};
      AttentionCall args = p.args();
      if (n == 1) args.score_mods.softcap = 3;
      if (n == 3) args.score_mods.softcap = 1e30f;
      if (n == 2) args.score_mods.alibi_slopes = slopes;
      const std::vector<float> zero(p.query.size(), 0.0f);
      AttentionCall same = args;
      same.query = view(zero.data()), same.scale = 1;
      const AttentionReference want = reference_attention(same);
      for (const float scale : {0.0f, -0.0f}) {
        for_each_target([&](const std::string&, const mha_context* context) {
          std::vector<float> output = poisoned(s.output().count()), lse = poisoned(s.B * s.H * s.Tq);
          args.output = mut_view(output.data()), args.results.log_sum_exp = lse.data();
          const mha::FloatMode mode;
          mha::AttentionJob job = {};
          mha_error error = {};
          job.table = context->table;
          require_ok(mha::validate_attention(&args, mha::Check::kAll, &job.problem, &error), error);
          job.problem.scale = scale;
          require_ok(mha::plan_attention(*context->table, 1, job.problem, false, &job.plan, &error), error);
          require_ok(mha::run_attention(*context, args, &job, &error), error);
          check_close("output", output, want.output, {4e-7, 4e-7});
          check_close("log-sum-exp", lse, want.log_sum_exp, {8e-7, 8e-7});
        });
      }
    }
  }
}

TEST_CASE("extremes: a negative scale is what it says", "[extremes]") {
  const float slopes[] = {0.5f, 0.25f, 0.1f, 0.01f};
  for (const AttentionShape& s : kShapes) {
    for (const float cap : {0.0f, 2.0f, 1e30f}) {
      AttentionProblem p(s, MaskKind::kAdd, 396);
      p.scale = -0.7f;
      AttentionCall args = p.args();
      args.score_mods.softcap = cap;
      check_everywhere("negative scale", p, args, kOrdinary);
      args.causal = 1, args.score_mods.alibi_slopes = slopes;
      check_everywhere("negative scale and ALiBi", p, args, kOrdinary);
    }
  }
}
