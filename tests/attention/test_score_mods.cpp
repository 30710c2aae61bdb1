// SPDX-License-Identifier: Apache-2.0
// Score modifications: what each means on small cases, extremes, T5's buckets; arguments that are refused. (Values of
// random combinations: test_masks.cpp; equal bits: test_properties.cpp.)
#include "tests/support/layers.h"
#include "tests/support/shapes.h"

using namespace mha::test;

namespace {

/// One query at the last of `keys` keys, D 1: the product of query and key j is scores[j].
struct Scores {
  std::vector<float> query = {1}, key, value;
  AttentionCall args;

  explicit Scores(std::vector<float> scores) : key(std::move(scores)), value(key.size(), 1.0f) {
    args.batch = args.num_heads = args.query_len = args.head_dim = 1;
    args.key_len = static_cast<int64_t>(key.size());
    args.scale = 1;
    args.query = view(query.data());
    args.key = view(key.data());
    args.value = view(value.data());
    args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
  }
};

}  // namespace

TEST_CASE("mods: softcap bounds every score", "[mods]") {
  for_each_target([](const std::string&, const mha_context* context) {
    Scores s({1e30f, 3.0f, -1e30f, 0.0f});
    s.args.score_mods.softcap = 2;
    const AttentionResult got = run_attention(context, s.args);
    double sum = 0;
    for (float score : s.key) sum += std::exp(2 * std::tanh(score / 2.0));
    for (size_t j = 0; j < 4; ++j)
      CHECK(std::fabs(got.weights[j] - std::exp(2 * std::tanh(s.key[j] / 2.0)) / sum) < 1e-6);
    CHECK(std::fabs(got.log_sum_exp[0] - std::log(sum)) < 1e-6);
  });
}

TEST_CASE("mods: ALiBi and relative bias count from the query's position, also far beyond the keys", "[mods]") {
  for_each_target([](const std::string&, const mha_context* context) {
    for (int64_t position : {int64_t{39}, int64_t{20}, int64_t{-3}, int64_t{1000000}, -(int64_t{1} << 40)}) {
      INFO("position " << position);
      Scores s(std::vector<float>(40, 0.0f));
      s.args.causal = 1;
      s.args.positions.align = MHA_ALIGN_OFFSET, s.args.positions.offset = position;
      const std::vector<int64_t> prefix = {40};  // every key is visible
      s.args.masks.prefix_lengths = prefix.data();
      const float slope = 0.25f;
      s.args.score_mods.alibi_slopes = &slope;
      const std::vector<float> bias = random_floats(8, 5);
      s.args.score_mods.relative_bias = bias.data();
      s.args.score_mods.relative_left = 5, s.args.score_mods.relative_right = 2;
      const AttentionReference want = reference_attention(s.args);
      const AttentionResult got = run_attention(context, s.args);
      if (position > -1000 && position < 1000) check_close("biased weights", got.weights, want.weights, {1e-6, 1e-6});
      check_close("biased log-sum-exp", got.log_sum_exp, want.log_sum_exp, {1e-6, 1e-6});
    }
  });
}

TEST_CASE("mods: first tokens that a window keeps are modified as well, also one alone in a chunk", "[mods][masks]") {
  for (const int64_t Tq : {1, 3, 40}) {
    const AttentionShape shape = {1, 2, 1, Tq, 700, 8, 8};
    const AttentionProblem problem(shape, MaskKind::kCausal, 31);
    const std::vector<float> slopes = {0.01f, 0.002f}, bias = random_floats(2 * 651, 32);
    for (const int64_t sinks : {1, 16, 17, 256, 257, 258, 300}) {
      for (int kind = 0; kind < 3; ++kind) {
        AttentionCall args = problem.args();
        args.masks.window_left = 30, args.masks.sink_tokens = sinks;
        if (kind == 0) args.score_mods.softcap = 0.7f;
        if (kind == 1) args.score_mods.alibi_slopes = slopes.data();
        if (kind == 2) args.score_mods.relative_bias = bias.data(), args.score_mods.relative_left = 650;
        args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
        const AttentionReference want = reference_attention(args);
        for_each_target([&](const std::string& target, const mha_context* context) {
          INFO("Tq " << Tq << " sinks " << sinks << " kind " << kind);
          const AttentionResult got = run_attention(context, args);
          check_close("output " + target, got.output, want.output, {2e-6, 1e-6});
          check_close("weights " + target, got.weights, want.weights, {2e-6, 1e-6});
        });
      }
    }
  }
}

TEST_CASE("mods: a sink takes weight and gives nothing", "[mods]") {
  for_each_target(
      [](const std::string&, const mha_context* context) {
        const AttentionShape shape = {1, 2, 1, 3, 700, 8, 8};
        AttentionProblem problem(shape, MaskKind::kNone, 3);
        AttentionCall args = problem.args();
        args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
        const AttentionResult plain = run_attention(context, args);
        const std::vector<float> sinks = {6.0f, -kInf};
        args.score_mods.sink_logits = sinks.data();
        const AttentionResult sunk = run_attention(context, args);
        for (int64_t i = 0; i < 3; ++i) {
          // Head 0: everything times exp(lse) / (exp(lse) + exp(6)).
          const double lse = plain.log_sum_exp[i], share = 1 / (1 + std::exp(6 - lse));
          CHECK(std::fabs(sunk.log_sum_exp[i] - (lse - std::log(share))) < 2e-6);
          for (int64_t d = 0; d < 8; ++d)
            CHECK(std::fabs(sunk.output[i * 16 + d] - share * plain.output[i * 16 + d]) < 1e-6);
          for (int64_t j = 0; j < 700; ++j)
            CHECK(std::fabs(sunk.weights[i * 700 + j] - share * plain.weights[i * 700 + j]) < 1e-7);
          // Head 1: a sink of -inf is none.
          CHECK(first_bit_difference(&sunk.output[i * 16 + 8], &plain.output[i * 16 + 8], 8) < 0);
          CHECK(bits_of(sunk.log_sum_exp[3 + i]) == bits_of(plain.log_sum_exp[3 + i]));
        }
      },
      3);
}

TEST_CASE("mods: without a visible key the result is zeros and the log-sum-exp the sink's", "[mods][edges]") {
  for (int64_t threads : {1, 4}) {
    for_each_target(
        [](const std::string&, const mha_context* context) {
          for (int64_t Tk : {0, 5, 5000}) {
            const AttentionShape shape = {1, 2, 2, 1, Tk, 64, 64};
            AttentionProblem problem(shape, MaskKind::kNone, 4);
            for (float& value : problem.value) value = kNan;
            AttentionCall args = problem.args();
            const std::vector<int64_t> none = {0};
            args.items.key_lengths = none.data();
            const std::vector<float> sinks = {2.5f, -1.0f};
            args.score_mods.sink_logits = sinks.data();
            args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
            const AttentionResult got = run_attention(context, args);
            CHECK(all_zero(got.output));
            CHECK(all_zero(got.weights));
            check_close("sink", got.log_sum_exp, {2.5, -1.0}, {1e-7, 1e-7});
          }
        },
        threads);
  }
}

TEST_CASE("mods: a NaN reaches the rows that see it, and no others", "[mods][edges]") {
  for_each_target([](const std::string&, const mha_context* context) {
    const AttentionShape shape = {1, 2, 1, 40, 40, 8, 8};
    AttentionProblem problem(shape, MaskKind::kCausal, 6);
    AttentionCall args = problem.args();
    std::vector<float> bias = random_floats(2 * 41, 7);
    bias[41 + 40 - 7] = kNan;  // head 1, seven keys back
    args.score_mods.relative_bias = bias.data();
    args.score_mods.relative_left = 40;
    const AttentionResult biased = run_attention(context, args);
    args.score_mods = {};
    const std::vector<float> sinks = {kNan, 0.0f};
    args.score_mods.sink_logits = sinks.data();
    const AttentionResult sunk = run_attention(context, args);
    for (int64_t i = 0; i < 40; ++i) {
      for (int64_t h = 0; h < 2; ++h) {
        INFO("query " << i << " head " << h);
        CHECK(std::isnan(output_row(shape, biased.output, 0, i, h)[3]) == (h == 1 && i >= 7));
        CHECK(std::isnan(output_row(shape, sunk.output, 0, i, h)[3]) == (h == 0));
      }
    }
  });
}

TEST_CASE("mods: bad arguments name themselves", "[mods][status]") {
  Scores s({1, 2, 3});
  std::vector<float> output = poisoned(1), weights = poisoned(3);
  s.args.output = mut_view(output.data());
  s.args.results.weights = mut_view(weights.data());
  const float nan = kNan;
  const auto check = [&](mha_status want, const std::string& text, auto&& change) {
    AttentionCall args = s.args;
    change(args.score_mods);
    mha_error error = {};
    INFO(text);
    CHECK(attention(shared_context(supported_targets()[0], 1), args, &error) == want);
    CHECK(mentions(error, text));
    CHECK(is_poison(output[0]));
  };
  check(MHA_ERR_ARGUMENT, "score_mods.softcap is -1", [](mha_score_mods& m) { m.softcap = -1; });
  check(MHA_ERR_ARGUMENT, "score_mods.softcap is nan", [](mha_score_mods& m) { m.softcap = kNan; });
  check(MHA_ERR_ARGUMENT, "score_mods.softcap is inf", [](mha_score_mods& m) { m.softcap = kInf; });
  check(MHA_ERR_ARGUMENT, "score_mods.alibi_slopes[0] is nan", [&](mha_score_mods& m) { m.alibi_slopes = &nan; });
  check(MHA_ERR_ARGUMENT, "score_mods.relative_left is -1",
        [&](mha_score_mods& m) { m.relative_bias = &nan, m.relative_left = -1; });
  check(MHA_ERR_ARGUMENT, "score_mods.relative_right is -2",
        [&](mha_score_mods& m) { m.relative_bias = &nan, m.relative_right = -2; });
  check(MHA_ERR_OVERFLOW, "score_mods.relative_left 4611686018427387904",
        [&](mha_score_mods& m) { m.relative_bias = &nan, m.relative_left = m.relative_right = int64_t{1} << 62; });
}

TEST_CASE("t5 bias: a run of distances begins where integers say, also where logarithms come out a little less",
          "[mods]") {
  const auto power = [](int64_t base, int64_t exponent) {
    uint64_t product = 1;
    for (int64_t n = 0; n < exponent; ++n) product *= static_cast<uint64_t>(base);
    return product;
  };
  for (int64_t buckets = 4; buckets <= 12; ++buckets) {
    std::vector<float> table;
    for (int64_t n = 0; n < buckets; ++n) table.push_back(static_cast<float>(n));
    const int64_t exact = buckets / 2, runs = buckets - exact;
    for (int64_t farthest = exact + 1; farthest <= 128; ++farthest) {
      std::vector<float> got = poisoned(2 * farthest + 1);
      mha_error error = {};
      require_ok(mha_t5_bias(table.data(), 1, buckets, farthest, 0, got.data(), &error), error);
      for (int64_t away = 0; away <= farthest; ++away) {
        int64_t want = away;
        if (away >= exact) {
          // The last run k with (away / exact)^runs >= (farthest / exact)^k, all below 2^64.
          int64_t k = 0;
          while (k + 1 < runs && power(away, runs) * power(exact, k + 1) >= power(farthest, k + 1) * power(exact, runs))
            ++k;
          want = exact + k;
        }
        if (got[static_cast<size_t>(farthest - away)] != static_cast<float>(want))
          FAIL_CHECK(buckets << " buckets up to " << farthest << ": distance " << away << " is in bucket "
                             << got[static_cast<size_t>(farthest - away)] << ", not " << want);
        CHECK(got[static_cast<size_t>(farthest + away)] == 0);  // after the query
      }
    }
  }
}

TEST_CASE("t5 bias: bad arguments name themselves, nothing is written", "[mods][status]") {
  const std::vector<float> table(64, 1.0f);
  std::vector<float> result = poisoned(600);
  const auto check = [&](mha_status want, const std::string& text, int64_t heads, int64_t buckets, int64_t distance,
                         int bidirectional, const float* from, float* to) {
    mha_error error = {};
    INFO(text);
    CHECK(mha_t5_bias(from, heads, buckets, distance, bidirectional, to, &error) == want);
    CHECK(mentions(error, text));
    CHECK(std::all_of(result.begin(), result.end(), is_poison));
  };
  float* to = result.data();
  check(MHA_ERR_ARGUMENT, "num_heads is 0", 0, 32, 128, 1, table.data(), to);
  check(MHA_ERR_ARGUMENT, "num_buckets is 1", 2, 1, 128, 1, table.data(), to);
  check(MHA_ERR_ARGUMENT, "num_buckets is 31", 2, 31, 128, 1, table.data(), to);
  check(MHA_ERR_ARGUMENT, "max_distance is 8", 2, 32, 8, 1, table.data(), to);
  check(MHA_ERR_ARGUMENT, "max_distance is 16", 2, 32, 16, 0, table.data(), to);
  check(MHA_ERR_OVERFLOW, "max_distance", 1 << 20, 32, int64_t{1} << 60, 1, table.data(), to);
  check(MHA_ERR_NULL, "table", 2, 32, 128, 1, nullptr, to);
  check(MHA_ERR_NULL, "result", 2, 32, 128, 1, table.data(), nullptr);
}
