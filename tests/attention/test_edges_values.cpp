// SPDX-License-Identifier: Apache-2.0
// Edge semantics of mha_attention: extreme scores, special values, what scaling the values must do.
#include <cfenv>
#include <cfloat>

#include "tests/support/shapes.h"

using namespace mha::test;

namespace {

bool all_nan(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float value) { return std::isnan(value); });
}

bool none_nan(const std::vector<float>& values) {
  return std::none_of(values.begin(), values.end(), [](float value) { return std::isnan(value); });
}

}  // namespace

TEST_CASE("edges: scores of +-1e4", "[edges][scores]") {
  const AttentionShape s = {1, 1, 1, 4, 600, 1, 8};
  for (float sign : {1.0f, -1.0f}) {
    AttentionProblem problem(s, MaskKind::kNone, 76000);
    problem.scale = 1;
    for (float& q : problem.query) q = 1;
    for (size_t j = 0; j < problem.key.size(); ++j) problem.key[j] = sign * 1e4f + static_cast<float>(j % 7);
    const AttentionReference want = reference_attention(problem.args());
    for_each_target([&](const std::string&, const mha_context* context) {
      const AttentionResult got = run_attention(context, problem.args());
      // A score of 1e4 in units of log2 has a spacing of 2^-10, so weights are right to about 1e-3.
      check_close("output", got.output, want.output, {2e-3, 1e-3});
      check_close("log-sum-exp", got.log_sum_exp, want.log_sum_exp, {2e-7, 1e-7});
    });
  }
}

TEST_CASE("edges: one score far above the rest takes the whole row", "[edges][scores]") {
  for (int64_t winner : {0, 15, 255, 256, 299}) {
    AttentionProblem problem({1, 1, 1, 3, 300, 1, 9}, MaskKind::kNone, 76500);
    problem.scale = 1;
    for (float& q : problem.query) q = 1;
    for (float& k : problem.key) k = -1e4f;
    problem.key[static_cast<size_t>(winner)] = 1e4f;
    for_each_target([&](const std::string&, const mha_context* context) {
      const std::vector<float> output = run_attention(context, problem.args()).output;
      for (size_t n = 0; n < output.size(); ++n)
        CHECK(output[n] == problem.value[static_cast<size_t>(winner) * 9 + n % 9]);
    });
  }
}

TEST_CASE("edges: all scores equal, also where exp alone would overflow or vanish", "[edges][scores]") {
  for (float score : {100.0f, -100.0f, 1e30f, -1e30f, 0.0f}) {
    for (int64_t Tk : kEdges) {
      AttentionProblem problem({1, 1, 1, 2, Tk, 1, 5}, MaskKind::kNone, 77000);
      problem.scale = 1;
      for (float& q : problem.query) q = 1;
      for (float& k : problem.key) k = score;
      const AttentionReference want = reference_attention(problem.args());
      for_each_target([&](const std::string&, const mha_context* context) {
        INFO("score " << score << " Tk " << Tk);
        check_close("output", run_attention(context, problem.args()).output, want.output, {4e-7, 4e-8});
      });
    }
  }
}

TEST_CASE("edges: an additive mask of -FLT_MAX masks nothing", "[edges][scores]") {
  AttentionProblem problem({1, 2, 2, 4, 300, 8, 8}, MaskKind::kNone, 78000);
  std::vector<float> add(300, -FLT_MAX);
  for (bool everywhere : {true, false}) {
    if (!everywhere) std::fill(add.begin() + 100, add.end(), 0.0f);
    AttentionCall args = problem.args();
    args.masks.add_mask = {add.data()};
    const AttentionReference want = reference_attention(args);
    for_each_target([&](const std::string&, const mha_context* context) {
      const AttentionResult got = run_attention(context, args);
      check_close("output", got.output, want.output, {4e-7, 4e-8});
      CHECK(std::none_of(got.log_sum_exp.begin(), got.log_sum_exp.end(), [](float lse) { return std::isnan(lse); }));
      if (everywhere) CHECK_FALSE(all_zero(got.output));
    });
  }
}

TEST_CASE("edges: visible scores that are all -inf give zeros; one +inf gives a NaN row", "[edges][scores]") {
  const AttentionShape s = {1, 1, 1, 3, 300, 2, 4};
  AttentionProblem problem(s, MaskKind::kNone, 79000);
  problem.scale = 1;
  problem.query = {1, 1, 1, 1, 0.5f, -1};
  for (size_t j = 0; j < 300; ++j) problem.key[2 * j] = -kInf;
  AttentionCall args = problem.args();
  args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
  for_each_target([&](const std::string&, const mha_context* context) {
    const AttentionResult got = run_attention(context, args);
    CHECK(all_zero(got.output));
    CHECK(all_zero(got.weights));
    for (float lse : got.log_sum_exp) CHECK(lse == -kInf);
  });
  // Whatever the values are: the weights of 0 must not meet Inf or NaN.
  AttentionProblem special(s, MaskKind::kNone, 79000);
  special.scale = 1;
  special.query = problem.query;
  special.key = problem.key;
  for (size_t n = 0; n < special.value.size(); n += 7) special.value[n] = n % 2 ? kInf : kNan;
  for_each_target([&](const std::string&, const mha_context* context) {
    CHECK(all_zero(run_attention(context, special.args()).output));
  });
  // A single finite score among them takes the row.
  problem.key[2 * 299] = 1;
  for_each_target([&](const std::string&, const mha_context* context) {
    const std::vector<float> output = run_attention(context, args).output;
    for (size_t n = 0; n < output.size(); ++n) CHECK(output[n] == problem.value[299 * 4 + n % 4]);
  });
  for (size_t j : {0, 17, 256, 299}) {
    problem.key = random_floats(600, 79001);
    problem.key[2 * j] = kInf;
    problem.query[2] = -1;  // query 1 sees -inf there, the others +inf
    for_each_target([&](const std::string&, const mha_context* context) {
      const std::vector<float> output = run_attention(context, problem.args()).output;
      CHECK(all_nan(output_row(s, output, 0, 0, 0)));
      CHECK(none_nan(output_row(s, output, 0, 1, 0)));
      CHECK(all_nan(output_row(s, output, 0, 2, 0)));
    });
  }
}

TEST_CASE("edges: zeros of either sign are zeros", "[edges][scores]") {
  const AttentionShape s = {1, 2, 2, 3, 40, 8, 8};
  AttentionProblem positive(s, MaskKind::kNone, 79500), negative(s, MaskKind::kNone, 79500);
  std::fill_n(positive.query.begin(), 20, 0.0f);
  std::fill_n(negative.query.begin(), 20, -0.0f);
  std::fill_n(positive.key.begin(), 100, 0.0f);
  std::fill_n(negative.key.begin(), 100, -0.0f);
  positive.add_mask.assign(40, 0.0f);
  negative.add_mask.assign(40, -0.0f);
  positive.masks.add_mask = {positive.add_mask.data()};
  negative.masks.add_mask = {negative.add_mask.data()};
  for_each_target([&](const std::string&, const mha_context* context) {
    const AttentionResult plain = run_attention(context, AttentionProblem(s, MaskKind::kNone, 79500).args());
    check_same_bits("output", run_attention(context, negative.args()).output,
                    run_attention(context, positive.args()).output);
    CHECK_FALSE(same_bits(plain.output, run_attention(context, positive.args()).output));
  });
}

TEST_CASE("edges: a result that vanishes is +0, with and without masked keys behind it", "[edges][scores]") {
  // 2^-100 * -2^-140 rounds to -0, to which a masked key's 0 * value would add +0.
  AttentionProblem problem({1, 1, 1, 1, 40, 1, 3}, MaskKind::kNone, 79700);
  problem.scale = 1;
  problem.query = {1};
  std::fill(problem.key.begin(), problem.key.end(), 0.0f);
  std::fill(problem.value.begin(), problem.value.end(), 1.0f);
  problem.key[1] = -69.3f;
  for (size_t d = 0; d < 3; ++d) {
    problem.value[d] = 0;
    problem.value[3 + d] = -0x1p-140f;
  }
  const int64_t length = 2;
  for_each_target([&](const std::string&, const mha_context* context) {
    AttentionCall args = problem.args();
    args.items.key_lengths = &length;
    const AttentionResult masked = run_attention(context, args);
    args.items.key_lengths = nullptr;
    args.key_len = 2;
    check_same_results("result", run_attention(context, args), masked);
    std::vector<uint8_t> open(40, 0);
    open[0] = open[1] = 1;
    args.key_len = 40;
    args.masks.bool_mask = {open.data(), 0, 0, 0};
    check_same_results("result", run_attention(context, args), masked);
    for (float value : masked.output) CHECK(bits_of(value) == 0);
  });
}

TEST_CASE("edges: a NaN in a visible query, key or value reaches exactly the rows that see it", "[edges][nan]") {
  const AttentionShape s = {2, 4, 2, 30, 300, 10, 6};
  for (int64_t j : {0, 16, 255, 256, 280, 299}) {
    AttentionProblem clean(s, MaskKind::kCausal, 80000);
    for_each_target([&](const std::string&, const mha_context* context) {
      const std::vector<float> want = run_attention(context, clean.args()).output;
      // which: 0 query 20 of head 1, 1 key j of group 1, 2 element 5 of value j of group 1; all in item 1.
      for (int which = 0; which < 3; ++which) {
        AttentionProblem dirty(s, MaskKind::kCausal, 80000);
        if (which == 0) dirty.query[static_cast<size_t>(((s.Tq + 20) * s.H + 1) * s.D + 9)] = kNan;
        if (which == 1) dirty.key[static_cast<size_t>(((s.Tk + j) * s.Hkv + 1) * s.D + 4)] = kNan;
        if (which == 2) dirty.value[static_cast<size_t>(((s.Tk + j) * s.Hkv + 1) * s.Dv + 5)] = kNan;
        const std::vector<float> got = run_attention(context, dirty.args()).output;
        for (int64_t b = 0; b < s.B; ++b)
          for (int64_t h = 0; h < s.H; ++h)
            for (int64_t i = 0; i < s.Tq; ++i) {
              const bool sees = b == 1 && (which == 0 ? h == 1 && i == 20 : h / 2 == 1 && j <= i + s.Tk - s.Tq);
              const std::vector<float> g = output_row(s, got, b, i, h), w = output_row(s, want, b, i, h);
              INFO("which " << which << " key " << j << " b " << b << " h " << h << " i " << i);
              if (!sees) {
                check_same_bits("row", g, w);
              } else if (which == 2) {
                CHECK(std::isnan(g[5]));
                check_same_bits("other elements", std::vector<float>(g.begin(), g.begin() + 5),
                                std::vector<float>(w.begin(), w.begin() + 5));
              } else {
                CHECK(all_nan(g));
              }
            }
      }
    });
  }
}

TEST_CASE("edges: an additive mask that is NaN at a visible key makes the row NaN", "[edges][nan]") {
  const AttentionShape s = {1, 1, 1, 4, 300, 8, 8};
  AttentionProblem problem(s, MaskKind::kNone, 80500);
  problem.set_add_mask(1);
  problem.add_mask[2 * 300 + 270] = kNan;
  for_each_target([&](const std::string&, const mha_context* context) {
    const std::vector<float> output = run_attention(context, problem.args()).output;
    for (int64_t i = 0; i < 4; ++i) CHECK(all_nan(output_row(s, output, 0, i, 0)) == (i == 2));
  });
}

TEST_CASE("edges: values of one give one; results stay between the least and the greatest value", "[edges][property]") {
  for (int64_t Tk : kEdges) {
    AttentionProblem problem({1, 3, 1, 8, Tk, 24, 24}, MaskKind::kNone, 81000);
    for (float& q : problem.query) q *= 8;
    for_each_target([&](const std::string&, const mha_context* context) {
      INFO("Tk " << Tk);
      const std::vector<float> output = run_attention(context, problem.args()).output;
      for (size_t d = 0; d < 24; ++d) {
        float least = kInf, greatest = -kInf;
        for (size_t j = 0; j < static_cast<size_t>(Tk); ++j) {
          least = std::min(least, problem.value[j * 24 + d]);
          greatest = std::max(greatest, problem.value[j * 24 + d]);
        }
        for (size_t row = 0; row < 24; ++row) {
          CHECK(output[row * 24 + d] >= least - 1e-6f);
          CHECK(output[row * 24 + d] <= greatest + 1e-6f);
        }
      }
      const std::vector<float> ones(problem.value.size(), 1.0f);
      AttentionCall args = problem.args();
      args.value = view(ones.data());
      for (float value : run_attention(context, args).output) CHECK(std::fabs(value - 1) <= 1e-6f);
    });
  }
}

TEST_CASE("edges: values scaled by 2 scale the result by exactly 2", "[edges][property]") {
  AttentionProblem problem({1, 2, 2, 9, 300, 16, 16}, MaskKind::kBool, 82000);
  for_each_target([&](const std::string&, const mha_context* context) {
    std::vector<float> want = run_attention(context, problem.args()).output;
    for (float& value : want) value *= 2;
    std::vector<float> doubled = problem.value;
    for (float& value : doubled) value *= 2;
    AttentionCall args = problem.args();
    args.value = view(doubled.data());
    check_same_bits("output", run_attention(context, args).output, want);
  });
}

TEST_CASE("edges: a single key gives its value exactly, denormals as zero", "[edges][property]") {
  AttentionProblem problem({1, 1, 1, 1, 1, 8, 8}, MaskKind::kNone, 83000);
  problem.value = {0.0f, -0.0f, 1.0f, -1.0f, FLT_MAX, -FLT_MIN, 1e-39f, 0.1f};
  for_each_target([&](const std::string&, const mha_context* context) {
    const std::vector<float> output = run_attention(context, problem.args()).output;
    for (size_t d = 0; d < 8; ++d) CHECK(output[d] == (d == 6 ? 0 : problem.value[d]));
    CHECK(bits_of(output[0]) == 0);
  });
}

TEST_CASE("edges: denormal inputs count as zeros, in calls on one thread and on more", "[edges][property]") {
  const AttentionShape s = {1, 8, 8, 60, 300, 64, 64};
  AttentionProblem tiny(s, MaskKind::kNone, 84000), zero(s, MaskKind::kNone, 84000);
  for (size_t n = 0; n < tiny.query.size(); n += 3) tiny.query[n] = 1e-39f, zero.query[n] = 0;
  for (size_t n = 0; n < tiny.key.size(); n += 5) tiny.key[n] = -1e-40f, zero.key[n] = -0.0f;
  for (size_t n = 0; n < tiny.value.size(); n += 2) tiny.value[n] = 1e-41f, zero.value[n] = 0;
  for (int64_t threads : {1, 3}) {
    for_each_target(
        [&](const std::string&, const mha_context* context) {
          check_same_bits("output", run_attention(context, tiny.args()).output,
                          run_attention(context, zero.args()).output);
        },
        threads);
  }
}

TEST_CASE("edges: denormal inputs count as zeros also in products that are no denormals", "[edges][property]") {
  for (const bool in_query : {true, false}) {
    AttentionProblem tiny({1, 2, 2, 5, 300, 20, 20}, MaskKind::kNone, 84500);
    std::vector<float>& denormal = in_query ? tiny.query : tiny.key;
    for (float& value : denormal) value *= 1e-39f;
    for (float& value : in_query ? tiny.key : tiny.query) value *= 1e30f;
    tiny.scale = 1e10f;
    const std::vector<float> zeros(denormal.size(), 0.0f);
    AttentionCall zero = tiny.args();
    (in_query ? zero.query : zero.key) = view(zeros.data());
    for (int64_t threads : {1, 3}) {
      for_each_target(
          [&](const std::string&, const mha_context* context) {
            check_same_results("result", run_attention(context, tiny.args()), run_attention(context, zero));
          },
          threads);
    }
  }
}

TEST_CASE("edges: the caller's rounding mode does not matter", "[edges][property]") {
  const AttentionProblem problem({1, 4, 2, 30, 300, 40, 40}, MaskKind::kNone, 85000);
  for_each_target([&](const std::string&, const mha_context* context) {
    const std::vector<float> want = run_attention(context, problem.args()).output;
    for (int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
      std::fesetround(mode);
      const std::vector<float> output = run_attention(context, problem.args()).output;
      std::fesetround(FE_TONEAREST);
      check_same_bits("output", output, want);
    }
  });
}

TEST_CASE("edges: a result is never -0, also where it comes out below the least normal number", "[edges]") {
  // Two keys of equal weight: half of -1.2e-38 is a denormal, which counts as zero.
  for (const int64_t Tq : {1, 40}) {
    for (const int64_t Tk : {2, 600, 5000}) {
      for (const int64_t threads : {1, 3}) {
        AttentionProblem problem({1, 1, 1, Tq, Tk, 8, 24}, MaskKind::kNone, 86000);
        std::fill(problem.query.begin(), problem.query.end(), 0.0f);
        std::fill(problem.value.begin(), problem.value.end(), -0.0f);
        std::fill_n(problem.value.begin(), 24, -1.2e-38f);
        for_each_target(
            [&](const std::string&, const mha_context* context) {
              INFO("Tq " << Tq << " Tk " << Tk << " threads " << threads);
              int64_t wrong = 0;
              for (const float value : run_attention(context, problem.args()).output) wrong += bits_of(value) != 0;
              CHECK(wrong == 0);
            },
            threads);
      }
    }
  }
}

TEST_CASE("edges: where every score is -inf the result is zeros, whatever the values are", "[edges]") {
  for (const int64_t Tq : {1, 40}) {
    for (const int64_t Tk : {5, 600, 5000}) {
      for (const int64_t threads : {1, 3}) {
        AttentionProblem problem({1, 2, 1, Tq, Tk, 8, 24}, MaskKind::kNone, 86100);
        std::fill(problem.query.begin(), problem.query.end(), 1.0f);
        for (int64_t j = 0; j < Tk; ++j) problem.key[static_cast<size_t>(j * 8 + 2)] = -kInf;
        std::fill(problem.value.begin(), problem.value.end(), kInf);
        for_each_target(
            [&](const std::string&, const mha_context* context) {
              INFO("Tq " << Tq << " Tk " << Tk << " threads " << threads);
              const AttentionResult got = run_attention(context, problem.args());
              CHECK(all_zero(got.output));
              for (const float lse : got.log_sum_exp) REQUIRE(lse == -kInf);
            },
            threads);
      }
    }
  }
}
