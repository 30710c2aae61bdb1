// SPDX-License-Identifier: Apache-2.0
// Additive masks down to -FLT_MAX and up to FLT_MAX, sinks of any size, and the log-sum-exp of both.
#include "tests/support/extremes.h"
#include "tests/support/seeds.h"

using namespace mha::test;

namespace {

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

TEST_CASE("extremes: the shapes of this file are packed, in place and split", "[extremes]") {
  const mha_context* context = shared_context(supported_targets()[0], 3);
  const char* const kernels[] = {"attention kernel: packed", "attention kernel: in place", "attention kernel: in place",
                                 "attention kernel: packed"};
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
    for (const uint64_t seed : seeds(0, s.Tq > 1 ? 3 : 12)) {
      AttentionProblem p(s, MaskKind::kNone, 300 + seed);
      if (seed % 4 != 3) draw_huge_mask(400 + seed, &p);
      const std::vector<float> sinks = huge_sinks(s.H, 500 + seed);
      AttentionCall args = p.args();
      check_everywhere("mask", p, args, kOrdinary);
      args.score_mods.sink_logits = sinks.data();
      check_everywhere("mask and sinks", p, args, kOrdinary);
      if (seed == 0) p.set_bool_mask(600), p.masks.put_into(&args), check_everywhere("two masks", p, args, kOrdinary);
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

TEST_CASE("extremes: the sum of two additive masks counts exactly, also beyond FLT_MAX", "[extremes]") {
  // Multiples of 2^120, whose sums are exact. Of a row all sums are `most` or 2^120 less, each of other terms.
  const float unit = 0x1p120f;
  for (const AttentionShape& s : kShapes) {
    for (uint64_t seed = 0; seed < 4; ++seed) {
      Random random(350 + seed);
      AttentionProblem p(s, MaskKind::kNone, 360 + seed);
      p.set_add_mask(1);
      std::vector<float> second = p.add_mask;
      for (int64_t row = 0; row < s.B * s.Tq; ++row) {
        const int64_t most = (8 + random.below(503)) * (random.below(2) == 0 ? 1 : -1);  // all of it huge
        for (int64_t j = 0; j < s.Tk; ++j) {
          const int64_t sum = std::max<int64_t>(most - random.below(2), -510);
          const int64_t least = std::max<int64_t>(-255, sum - 255), greatest = std::min<int64_t>(255, sum + 255);
          const int64_t first = least + random.below(greatest - least + 1);
          const size_t at = static_cast<size_t>(row * s.Tk + j);
          p.add_mask[at] = static_cast<float>(first) * unit, second[at] = static_cast<float>(sum - first) * unit;
        }
      }
      AttentionCall args = p.args();
      args.masks.add_mask2 = args.masks.add_mask, args.masks.add_mask2.data = second.data();
      const AttentionReference want = reference_attention(args);
      for (const int64_t threads : {1, 3}) {
        for_each_target(
            [&](const std::string& target, const mha_context* context) {
              INFO(target << " " << describe(s) << " seed " << seed);
              const AttentionResult got = run_attention(context, args);
              check_close("output", got.output, want.output, {kOrdinary.values, kOrdinary.values});
              for (size_t row = 0; row < got.log_sum_exp.size(); ++row) {
                const double lse = within_float(want.log_sum_exp[row]);
                CHECK(std::fabs(static_cast<double>(got.log_sum_exp[row]) - lse) <= 2e-7 * std::fabs(lse));
              }
            },
            threads);
      }
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
  Taken cases;
  for (const float sink :
       {-FLT_MAX, -2.4e38f, -1e38f, -1e30f, -1e5f, 0.0f, 1e5f, 1e30f, 2.3e38f, 2.4e38f, 3e38f, FLT_MAX}) {
    for (const AttentionShape& s : kShapes) {
      if (!cases.next()) continue;
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
      mha_merge_args args = {};
      args.num_parts = 2, args.rows = 1, args.value_head_dim = 2;
      args.outputs = outputs, args.log_sum_exps = sums;
      args.output = output, args.log_sum_exp = &log_sum_exp;
      require_ok(mha_attention_merge(context, &args, &error), error);
      CHECK(output[0] == c.output);
      CHECK(output[1] == c.output);
      CHECK(log_sum_exp == c.log_sum_exp);
    }
  });
}
