// SPDX-License-Identifier: Apache-2.0
// Extreme but finite numbers: masks down to -FLT_MAX, sinks, softcaps, scales and scores of any size, on every way that
// a score can take (packed, streamed, split over threads, in parts that are merged, weights on the way and by a second
// pass), against the reference in double. Denormal arguments are refused.
#include <cfloat>
#include <cstdio>

#include "core/run_attention.h"
#include "core/validate.h"
#include "simd/float_mode.h"
#include "support/layers.h"
#include "support/partials.h"

using namespace mha::test;

namespace {

/// Bounds on output and weights, and on the log-sum-exp.
struct Bounds {
  double values, log_sum_exp;
};
constexpr Bounds kOrdinary = {2e-6, 2e-6};

double within_float(double x) { return std::isinf(x) ? x : std::clamp<double>(x, -FLT_MAX, FLT_MAX); }

struct Want {
  AttentionReference plain;  // with weights per head
  std::vector<double> averaged, key_sums, last_row;

  explicit Want(AttentionCall args) {
    args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
    plain = reference_attention(args);
    for (double& lse : plain.results.log_sum_exp) lse = within_float(lse);
    const int64_t H = args.num_heads, Tq = args.query_len, Tk = args.key_len;
    averaged.resize(static_cast<size_t>(args.batch * Tq * Tk));
    key_sums.resize(static_cast<size_t>(args.batch * H * Tk));
    last_row.resize(key_sums.size());
    for (size_t n = 0; n < plain.weights.size(); ++n) {
      const int64_t at = static_cast<int64_t>(n), j = at % Tk, i = at / Tk % Tq, h = at / Tk / Tq % H;
      const int64_t b = at / Tk / Tq / H;
      averaged[static_cast<size_t>((b * Tq + i) * Tk + j)] += plain.weights[n] / static_cast<double>(H);
      key_sums[static_cast<size_t>((b * H + h) * Tk + j)] += plain.weights[n];
      if (i == Tq - 1) last_row[static_cast<size_t>((b * H + h) * Tk + j)] = plain.weights[n];
    }
  }
};

void check_weights(const mha_context* context, AttentionCall args, const std::string& what,
                   const std::vector<double>& want, double bound) {
  std::vector<float> output = poisoned(args.batch * args.query_len * args.num_heads * args.value_head_dim);
  std::vector<float> weights = poisoned(static_cast<int64_t>(want.size()));
  args.output = mut_view(output.data());
  args.results.weights = mut_view(weights.data());
  call_attention(context, args);
  check_close(what, weights, want, {bound, bound});
}

/// The call on every target, by one thread and by three, with every kind of weights and in parts.
void check_everywhere(const std::string& what, const AttentionProblem& p, AttentionCall args, Bounds bounds) {
  const Want want(args);
  const double rows = static_cast<double>(args.query_len);
  INFO(what << ": " << describe(p.shape));
  for_each_target([&](const std::string& target, const mha_context* one) {
    const AttentionResult got = run_attention(one, args);
    check_close("output", got.output, want.plain.output, {bounds.values, bounds.values});
    check_close("log-sum-exp", got.log_sum_exp, want.plain.results.log_sum_exp, {bounds.log_sum_exp, bounds.log_sum_exp});
    for (const int64_t threads : {1, 3}) {
      const mha_context* context = shared_context(target, threads);
      check_same_results("by threads", run_attention(context, args), got);
      AttentionCall with = args;
      with.weights_mode = MHA_WEIGHTS_PER_HEAD;
      check_weights(context, with, "weights", want.plain.weights, bounds.values);
      with.weights_mode = MHA_WEIGHTS_AVERAGED;
      check_weights(context, with, "weights averaged", want.averaged, bounds.values);
      with.weights_mode = MHA_WEIGHTS_KEY_SUMS;
      check_weights(context, with, "key sums", want.key_sums, bounds.values * rows);
      const int64_t last = args.query_len - 1;
      with.weights_mode = MHA_WEIGHTS_PER_HEAD, with.weight_rows = {&last, 1};
      check_weights(context, with, "weights of the last row", want.last_row, bounds.values);
    }
    std::vector<float> partials;
    for (int64_t begin = 0; begin < p.shape.Tk; begin += 256) {
      const int64_t count = std::min<int64_t>(256, p.shape.Tk - begin);
      const std::vector<float> part = partial(one, part_of(p, args, begin, count));
      partials.insert(partials.end(), part.begin(), part.end());
    }
    const AttentionResult parts = merged(one, p.shape, partials, args.score_mods.sink_logits);
    check_same_bits("merged output", parts.output, got.output);
    check_same_bits("merged log-sum-exp", parts.results.log_sum_exp, got.log_sum_exp);
  });
}

/// Packed, streamed, and both in chunks that threads share.
constexpr AttentionShape kShapes[] = {
    {1, 4, 2, 40, 600, 8, 20}, {2, 2, 2, 1, 300, 24, 16}, {1, 2, 1, 1, 5000, 64, 64}, {1, 1, 1, 20, 1500, 64, 64}};

float next_up(float x) { return std::nextafter(x, kInf); }

/// Values that an additive mask, a sink or a bias may have: rows of one take a few of these.
const float kHuge[] = {
    -FLT_MAX, next_up(-FLT_MAX), -3.3e38f, -3e38f, next_up(-3e38f), -2.4e38f, -2.3e38f, -1e38f, -7e36f, -1e30f, 0.0f,
    1e38f,    2.5e38f,           3e38f,    FLT_MAX};
constexpr int64_t kHugeCount = sizeof(kHuge) / sizeof(float);

/// Row by row one to three values; every eighth of some rows hidden.
void draw_huge_mask(uint64_t seed, AttentionProblem* p) {
  Random random(seed);
  p->set_add_mask(seed);
  const int64_t rows = p->shape.B * p->shape.Tq;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t first = random.below(kHugeCount), values = 1 + random.below(3), hidden = random.below(2);
    for (int64_t j = 0; j < p->shape.Tk; ++j) {
      float& m = p->add_mask[static_cast<size_t>(row * p->shape.Tk + j)];
      m = kHuge[(first + random.below(values)) % kHugeCount];
      if (hidden == 1 && random.below(8) == 0) m = -kInf;
    }
  }
}

std::vector<float> huge_sinks(int64_t count, uint64_t seed) {
  Random random(seed);
  std::vector<float> sinks(static_cast<size_t>(count));
  for (float& sink : sinks) sink = kHuge[random.below(kHugeCount)];
  return sinks;
}

}  // namespace

TEST_CASE("extremes: the shapes of this file are packed, streamed and split", "[extremes]") {
  const mha_context* context = shared_context(supported_targets()[0], 3);
  const char* const kernels[] = {"attention kernel: fused", "attention kernel: streamed", "attention kernel: streamed",
                                 "attention kernel: fused"};
  for (int n = 0; n < 4; ++n) {
    const AttentionProblem p(kShapes[n], MaskKind::kNone, 1);
    char text[4096];
    mha_error error = {};
    const AttentionCall args = p.args();
    require_ok(attention_explain(context, args, text, sizeof(text), nullptr, &error), error);
    INFO(text);
    CHECK(std::string(text).find(kernels[n]) != std::string::npos);
    CHECK((std::string(text).find("partial results") != std::string::npos) == (n >= 2));
  }
}

TEST_CASE("extremes: additive masks down to -FLT_MAX and up to FLT_MAX, sinks of any size", "[extremes]") {
  for (const AttentionShape& s : kShapes) {
    for (uint64_t seed = 0; seed < (s.Tq > 1 ? 3 : 12); ++seed) {
      AttentionProblem p(s, MaskKind::kNone, 300 + seed);
      if (seed % 4 != 3) draw_huge_mask(400 + seed, &p);
      const std::vector<float> sinks = huge_sinks(s.H, 500 + seed);
      AttentionCall args = p.args();
      check_everywhere("mask", p, args, kOrdinary);
      args.score_mods.sink_logits = sinks.data();
      check_everywhere("mask and sinks", p, args, kOrdinary);
      if (seed == 0) p.set_bool_mask(600), args.masks = p.masks, check_everywhere("two masks", p, args, kOrdinary);
    }
  }
}

TEST_CASE("extremes: a row of one mask value shares its weight; the log-sum-exp is that value", "[extremes]") {
  for (const AttentionShape& s : kShapes) {
    for (const float value : kHuge) {
      if (std::fabs(value) < 1e37f) continue;
      AttentionProblem p(s, MaskKind::kNone, 310);
      p.set_add_mask(1);
      std::fill(p.add_mask.begin(), p.add_mask.end(), value);
      const std::vector<float> sinks(static_cast<size_t>(s.H), value);
      for_each_target([&](const std::string&, const mha_context* context) {
        INFO("mask " << value);
        AttentionCall args = p.args();
        AttentionResult got = run_attention(context, args);
        for (const float lse : got.log_sum_exp) CHECK(lse == value);
        args.score_mods.sink_logits = sinks.data(), args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
        got = run_attention(context, args);
        for (const float lse : got.log_sum_exp) CHECK(lse == value);
        const float share = 1 / static_cast<float>(s.Tk + 1);
        CHECK(std::all_of(got.weights.begin(), got.weights.end(),
                          [&](float w) { return std::fabs(w - share) <= 2e-7f * share; }));
      });
    }
  }
}

TEST_CASE("extremes: neighbours among masks do not tie", "[extremes]") {
  Random random(320);
  for (int n = 0; n < 200; ++n) {
    // The greater of two neighbours at any place of any chunk takes all.
    const AttentionShape s = {1, 1, 1, n % 2 == 0 ? 1 : 20, 600, 8, 8};
    AttentionProblem p(s, MaskKind::kNone, 321);
    p.set_add_mask(1);
    const float size = 1e37f + static_cast<float>(random.below(1 << 24)) / (1 << 24) * 3.3e38f;
    const float value = n % 3 == 0 ? size : -size, greater = next_up(value);
    std::fill(p.add_mask.begin(), p.add_mask.end(), value);
    const int64_t at = random.below(s.Tk);
    for (int64_t i = 0; i < s.Tq; ++i) p.add_mask[static_cast<size_t>(i * s.Tk + at)] = greater;
    for_each_target([&](const std::string&, const mha_context* context) {
      INFO("mask " << value << ", key " << at);
      const AttentionResult got = run_attention(context, p.args());
      for (const float lse : got.log_sum_exp) CHECK(lse == greater);
      for (int64_t i = 0; i < s.Tq; ++i) {
        const std::vector<float> row(p.value.begin() + at * s.Dv, p.value.begin() + (at + 1) * s.Dv);
        check_same_bits("row", output_row(s, got.output, 0, i, 0), row);
      }
    });
  }
}

TEST_CASE("extremes: any sink beside ordinary scores, and alone", "[extremes]") {
  for (const float sink :
       {-FLT_MAX, -2.4e38f, -1e38f, -1e30f, -1e5f, 0.0f, 1e5f, 1e30f, 2.3e38f, 2.4e38f, 3e38f, FLT_MAX}) {
    for (const AttentionShape& s : kShapes) {
      AttentionProblem p(s, MaskKind::kNone, 330);
      const std::vector<float> sinks(static_cast<size_t>(s.H), sink);
      AttentionCall args = p.args();
      args.score_mods.sink_logits = sinks.data();
      check_everywhere("sink", p, args, kOrdinary);
      const std::vector<uint8_t> closed(static_cast<size_t>(s.Tk), 0);
      for_each_target([&](const std::string&, const mha_context* context) {
        args.masks.bool_mask.data = closed.data();
        const AttentionResult got = run_attention(context, args);
        CHECK(all_zero(got.output));
        for (const float lse : got.log_sum_exp) CHECK(std::fabs(lse - sink) <= 2e-7f * std::fabs(sink));
      });
    }
  }
}

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

TEST_CASE("extremes: the reports", "[extremes]") {
  const float q = 1, k[] = {1, -1}, v[] = {1, -1}, zeros[] = {0, 0};
  AttentionCall args;
  args.batch = args.num_heads = args.query_len = 1, args.key_len = 2, args.head_dim = 1, args.scale = 1;
  args.query = view(&q), args.key = view(k), args.value = view(v);
  for_each_target([&](const std::string&, const mha_context* context) {
    for (const float cap : {1e10f, 1e20f, 1e30f, 1e36f, 1e38f, FLT_MAX}) {
      args.score_mods.softcap = cap;
      CHECK(std::fabs(run_attention(context, args).output[0] - 0.7615942f) <= 2e-7f);
    }
    args.score_mods.softcap = 0;
    const float sink = 3e38f, lowest[] = {-FLT_MAX, -FLT_MAX}, low[] = {-3e38f, -2.5e38f};
    args.score_mods.sink_logits = &sink;
    AttentionResult got = run_attention(context, args);
    CHECK(got.output[0] == 0);
    CHECK(got.log_sum_exp[0] == sink);
    args.score_mods.sink_logits = nullptr;
    args.key = view(zeros);
    args.masks.add_mask.data = lowest;
    CHECK(run_attention(context, args).log_sum_exp[0] == -FLT_MAX);
    args.masks.add_mask.data = low;
    got = run_attention(context, args);
    CHECK(got.output[0] == -1);
    CHECK(got.log_sum_exp[0] == -2.5e38f);
    args.masks.add_mask.data = nullptr;
    args.key = view(k);
  });
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
      LayerProblem layer(config, 2, 9, 300, Biases::kNone, 390);
      const float root = std::sqrt(1 / std::fabs(scale));
      for (float& w : layer.query_weight) w *= root;
      for (float& w : layer.key_weight) w *= root;
      AttentionProblem masked({2, 4, 2, 9, 300, 8, 8}, MaskKind::kAdd, 391);
      for (int64_t row = 0; row < 2 * 9; row += 2) {
        std::fill_n(masked.add_mask.begin() + row * 300, 300, -FLT_MAX);
      }
      LayerCall args = layer.args();
      args.masks = masked.masks, args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
      const LayerReference want = reference_layer(config, layer.separate_weights(), args);
      for_each_target([&](const std::string&, const mha_context* context) {
        INFO("scale " << scale << " zeros " << zeros);
        const LayerResult got = run_layer(context, layer.make(context).get(), args, zeros);
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
        CHECK(attention_workspace_bytes(context, bad, &bytes, &error) == MHA_ERR_ARGUMENT);
        std::vector<float> partials = poisoned(10000);
        CHECK(attention_partial(context, bad, partials.data(), 10000, &error) == MHA_ERR_ARGUMENT);
        CHECK(std::all_of(output.begin(), output.end(), is_poison));
        CHECK(std::all_of(partials.begin(), partials.end(), is_poison));
      };
      AttentionCall bad = args;
      bad.scale = denormal;
      refused("scale", bad);
      bad = args, bad.mods.softcap = denormal;
      refused("mods.softcap", bad);
      mha_norm norm = {};
      norm.epsilon = denormal;
      bad = args, bad.norm = &norm;
      mha_error error = {};
      CHECK(attention(context, bad, &error) == MHA_ERR_ARGUMENT);
      CHECK(mentions(error, std::string("norm.epsilon") + value));

      mha_layer_config config = {};
      config.embed_dim = 8, config.num_heads = 2;
      const LayerProblem layer(config, 1, 3, 3, Biases::kNone, 398);
      const mha_layer_weights weights = layer.separate_weights();
      config.scale = denormal;
      mha_layer* none = nullptr;
      CHECK(mha_layer_create(context, &config, &weights, &none, &error) == MHA_ERR_ARGUMENT);
      CHECK(mentions(error, std::string("scale") + value));
      const LayerPtr made = layer.make(context);
      LayerCall forward = layer.args();
      forward.output = mut_view(output.data()), forward.score_mods.softcap = denormal;
      CHECK(layer_forward(context, made.get(), forward, &error) == MHA_ERR_ARGUMENT);
      CHECK(mentions(error, std::string("mods.softcap") + value));

      mha_rows_args rope_args = {};
      rope_args.batch = 1, rope_args.length = 3, rope_args.num_heads = 2, rope_args.head_dim = 8;
      rope_args.input = view(p.query.data()), rope_args.output = mut_view(output.data());
      rope_args.norm_epsilon = denormal;
      CHECK(mha_rows_prepare(context, &rope_args, &error) == MHA_ERR_ARGUMENT);
      CHECK(mentions(error, std::string("norm_epsilon") + value));
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

TEST_CASE("extremes: values near FLT_MAX under masks of -FLT_MAX give the same bits together and apart", "[extremes]") {
  for (const AttentionShape& s : kShapes) {
    // Chunks of -FLT_MAX before and after the one that counts; their values overflow when they are added up.
    AttentionProblem p(s, MaskKind::kNone, 399);
    p.set_add_mask(1);
    for (size_t n = 0; n < p.add_mask.size(); ++n) {
      const int64_t j = static_cast<int64_t>(n) % s.Tk;
      p.add_mask[n] = j >= 256 && j < 280 ? 0.0f : -FLT_MAX;
    }
    for (float& v : p.value) v = v < 0 ? -3e38f : 3e38f;
    for_each_target([&](const std::string& target, const mha_context* one) {
      const AttentionResult got = run_attention(one, p.args());
      check_same_results("by threads", run_attention(shared_context(target, 3), p.args()), got);
      std::vector<float> partials;
      for (int64_t begin = 0; begin < s.Tk; begin += 256) {
        const int64_t count = std::min<int64_t>(256, s.Tk - begin);
        const std::vector<float> part = partial(one, part_of(p, p.args(), begin, count));
        partials.insert(partials.end(), part.begin(), part.end());
      }
      check_same_bits("merged", merged(one, s, partials, nullptr).output, got.output);
    });
  }
}

TEST_CASE("extremes: finished results of any log-sum-exp merge", "[extremes][merge]") {
  const float ones[] = {1, 1}, twos[] = {2, 2};
  const float* const outputs[] = {ones, twos};
  struct Case {
    float first, second, output, log_sum_exp;
  };
  const Case cases[] = {{-FLT_MAX, -FLT_MAX, 1.5f, -FLT_MAX}, {FLT_MAX, FLT_MAX, 1.5f, FLT_MAX},
                        {-FLT_MAX, -3e38f, 2, -3e38f},        {-kInf, -FLT_MAX, 2, -FLT_MAX},
                        {FLT_MAX, -FLT_MAX, 1, FLT_MAX},      {2.5e38f, 0, 1, 2.5e38f}};
  for_each_target([&](const std::string&, const mha_context* context) {
    for (const Case& c : cases) {
      const float* const sums[] = {&c.first, &c.second};
      float output[2], log_sum_exp = kNan;
      mha_error error = {};
      require_ok(mha_attention_merge(context, 2, 1, 2, outputs, sums, output, &log_sum_exp, &error), error);
      CHECK(output[0] == c.output);
      CHECK(output[1] == c.output);
      CHECK(log_sum_exp == c.log_sum_exp);
    }
  });
}

TEST_CASE("extremes: an output of width 0 whose strides say so is refused", "[extremes][status]") {
  const AttentionProblem p({1, 2, 2, 3, 20, 8, 8}, MaskKind::kNone, 400);
  for_each_target([&](const std::string&, const mha_context* context) {
    float nothing = 7;
    mha_attention_args args = p.args();
    args.value_head_dim = 0;
    args.output = {&nothing, 0, 0, 0, 1};
    mha_error error = {};
    CHECK(mha_attention(context, &args, &error) == MHA_ERR_STRIDE);
    CHECK(mentions(error, "output.stride_b, _t, _h are 0, 0, 0"));
    mha_merge_args merge = {};
    merge.batch = merge.num_heads = merge.query_len = 1;
    merge.output = {&nothing, 0, 0, 0, 1};
    CHECK(mha_attention_merge_partials(context, &merge, &error) == MHA_ERR_ARGUMENT);
    CHECK(mentions(error, "value_head_dim is 0"));
    CHECK(mha_attention_merge(context, 0, 1, 0, nullptr, nullptr, &nothing, nullptr, &error) == MHA_ERR_ARGUMENT);
    CHECK(mentions(error, "value_head_dim is 0"));
    CHECK(nothing == 7);
  });
}
