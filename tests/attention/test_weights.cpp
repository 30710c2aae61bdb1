// SPDX-License-Identifier: Apache-2.0
// The attention weights that mha_attention writes on request: values, masked entries, row sums, averages, layouts.
#include "tests/support/ragged.h"

using namespace mha::test;

namespace {

const Bound kWeightsBound = {2e-7, 6e-8};
const mha_weights_mode kModes[] = {MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED};

/// Row sums, range, and zeros: the weights of invisible keys are exactly 0 in the reference, and must be here.
void check_structure(const AttentionShape& s, const std::vector<float>& got, const std::vector<double>& want) {
  for (size_t row = 0; row < got.size() / static_cast<size_t>(s.Tk); ++row) {
    double sum = 0, want_sum = 0;
    bool masked_zero = true, in_range = true;
    for (size_t j = 0; j < static_cast<size_t>(s.Tk); ++j) {
      const size_t n = row * static_cast<size_t>(s.Tk) + j;
      if (want[n] == 0) masked_zero = masked_zero && got[n] == 0;
      in_range = in_range && got[n] >= 0 && got[n] <= 1.000001f;
      sum += got[n];
      want_sum += want[n];
    }
    INFO("row " << row);
    if (!masked_zero) FAIL_CHECK("a masked weight is not 0");
    if (!in_range) FAIL_CHECK("a weight is outside [0, 1]");
    if (std::fabs(sum - want_sum) > 2e-6) FAIL_CHECK("weights sum to " << sum << ", not " << want_sum);
  }
  SUCCEED();
}

}  // namespace

TEST_CASE("weights: values, zeros and row sums for every mask, grouping and length", "[weights]") {
  const std::vector<int64_t> key_lens = {1, 2, 15, 16, 17, 64, 65, 255, 256, 257, 520};
  const std::vector<int64_t> query_lens = {1, 5, 6, 7, 24, 25, 64, 70};
  const std::vector<int64_t> dims = {1, 5, 16, 33, 64};
  const std::vector<std::pair<int64_t, int64_t>> heads = {{1, 1}, {4, 2}, {3, 3}, {5, 1}};
  uint64_t seed = 50000;
  for (const std::vector<int>& row : pairwise({11, 8, 5, 4, kMaskKinds, 2}, 5)) {
    const AttentionShape shape = {
        1 + row[5], heads[row[3]].first, heads[row[3]].second, query_lens[row[1]], key_lens[row[0]], dims[row[2]], 8};
    const MaskKind kind = static_cast<MaskKind>(row[4]);
    const AttentionProblem problem(shape, kind, ++seed);
    AttentionCall args = problem.args();
    for (mha_weights_mode mode : kModes) {
      args.results.weights_mode = mode;
      const AttentionReference want = reference_attention(args);
      for_each_target([&](const std::string& target, const mha_context* context) {
        const std::string what = "weights " + target + " mode " + std::to_string(mode) + " " + describe(shape, kind);
        INFO(what);
        const std::vector<float> got = run_attention(context, args).weights;
        check_close(what, got, want.weights, kWeightsBound);
        check_structure(shape, got, want.weights);
      });
    }
  }
}

TEST_CASE("weights: asking for them changes no bit of output and log-sum-exp", "[weights][bits]") {
  for (int kind = 0; kind < kMaskKinds; ++kind) {
    const AttentionProblem problem({2, 4, 2, 7, 300, 20, 12}, static_cast<MaskKind>(kind), 51000);
    for_each_target([&](const std::string&, const mha_context* context) {
      AttentionCall args = problem.args();
      const AttentionResult plain = run_attention(context, args);
      for (mha_weights_mode mode : kModes) {
        args.results.weights_mode = mode;
        const AttentionResult with = run_attention(context, args);
        check_same_bits("output", with.output, plain.output);
        check_same_bits("log-sum-exp", with.log_sum_exp, plain.log_sum_exp);
        check_same_bits("output without log-sum-exp", run_attention(context, args, false).output, plain.output);
      }
    });
  }
}

TEST_CASE("weights: one head averaged is that head", "[weights]") {
  const AttentionProblem problem({2, 1, 1, 5, 40, 16, 16}, MaskKind::kAdd, 52000);
  for_each_target([&](const std::string&, const mha_context* context) {
    AttentionCall args = problem.args();
    args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
    const std::vector<float> per_head = run_attention(context, args).weights;
    args.results.weights_mode = MHA_WEIGHTS_AVERAGED;
    check_same_bits("averaged", run_attention(context, args).weights, per_head);
  });
}

TEST_CASE("weights: strided, with the gaps untouched", "[weights][strides]") {
  const AttentionShape shape = {2, 3, 3, 7, 70, 12, 12};
  const AttentionProblem problem(shape, MaskKind::kBool, 53000);
  for_each_target([&](const std::string&, const mha_context* context) {
    for (mha_weights_mode mode : kModes) {
      AttentionCall args = problem.args();
      args.results.weights_mode = mode;
      const std::vector<float> want = run_attention(context, args).weights;
      const int64_t heads = mode == MHA_WEIGHTS_AVERAGED ? 1 : shape.H;
      for (int64_t pad : {1, 4}) {
        // In memory [B, Tq, heads, Tk + pad], read in the dense order [B, heads, Tq, Tk].
        const int64_t row = shape.Tk + pad;
        Placed weights({shape.B, heads, shape.Tq, shape.Tk}, {heads * shape.Tq * row + 3, row, heads * row});
        std::vector<float> output = poisoned(shape.output().count());
        args.output = mut_view(output.data());
        // In the dense order the second dimension is heads, which stride_h steps; stride_t steps queries.
        args.results.weights = weights.mut_view();
        std::swap(args.results.weights.stride_t, args.results.weights.stride_h);
        if (mode == MHA_WEIGHTS_AVERAGED) args.results.weights.stride_h = 0;
        mha_error error = {};
        require_ok(attention(context, args, &error), error);
        check_same_bits("strided weights", weights.dense(), want);
        CHECK(weights.gaps_intact());
      }
    }
  });
}

TEST_CASE("weights: no visible key gives zero weights; Tk 0 writes none", "[weights][edges]") {
  AttentionProblem problem({2, 2, 2, 3, 20, 8, 8}, MaskKind::kNone, 54000);
  const int64_t lengths[2] = {0, 20};
  for_each_target([&](const std::string&, const mha_context* context) {
    for (mha_weights_mode mode : kModes) {
      AttentionCall args = problem.args();
      args.items.key_lengths = lengths;
      args.results.weights_mode = mode;
      const std::vector<float> weights = run_attention(context, args).weights;
      const size_t half = weights.size() / 2;
      for (size_t n = 0; n < half; ++n) CHECK(bits_of(weights[n]) == 0);
      CHECK(weights[half] > 0);
      args.items.key_lengths = nullptr;
      args.key_len = 0;
      CHECK(all_zero(run_attention(context, args).output));
    }
  });
}

TEST_CASE("weights: a head or a block of queries that sees nothing of a chunk takes nothing from the others' sums",
          "[weights][ragged]") {
  // Head 0 sees all keys, head 1 none from 256 on; queries from 1024 on see the first 256 keys only.
  constexpr int64_t Tq = 1100, Tk = 600;
  const AttentionProblem problem({1, 2, 2, Tq, Tk, 8, 8}, MaskKind::kNone, 54100);
  std::vector<uint8_t> by_head(2 * Tk, 1), by_query(Tq * Tk, 1);
  std::fill(by_head.begin() + Tk + 256, by_head.end(), uint8_t{0});
  for (int64_t i = 1024; i < Tq; ++i) std::fill_n(by_query.begin() + i * Tk + 256, Tk - 256, uint8_t{0});
  for (const bool averaged : {true, false}) {
    AttentionCall args = problem.args();
    args.masks.bool_mask =
        averaged ? mha_bool_mask{by_head.data(), 0, Tk, 0, 0} : mha_bool_mask{by_query.data(), 0, 0, Tk, 0};
    for_each_target([&](const std::string&, const mha_context* context) {
      INFO((averaged ? "averaged" : "key sums"));
      args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
      const std::vector<float> each = run_attention(context, args).weights;
      std::vector<double> want(static_cast<size_t>(averaged ? Tq * Tk : 2 * Tk));
      for (int64_t h = 0; h < 2; ++h)
        for (int64_t i = 0; i < Tq; ++i)
          for (int64_t j = 0; j < Tk; ++j)
            want[static_cast<size_t>(averaged ? i * Tk + j : h * Tk + j)] +=
                static_cast<double>(each[static_cast<size_t>((h * Tq + i) * Tk + j)]) / (averaged ? 2 : 1);
      args.results.weights_mode = averaged ? MHA_WEIGHTS_AVERAGED : MHA_WEIGHTS_KEY_SUMS;
      const std::vector<float> got = run_ragged(context, args, Tk).weights;
      check_close("sums", got, want, {2e-6, 1e-6});
    });
  }
}

TEST_CASE("weights: a NaN row is NaN where visible and 0 where masked", "[weights][edges]") {
  for (const size_t query : {0, 2}) {
    AttentionProblem problem({1, 2, 2, 6, 40, 8, 8}, MaskKind::kCausal, 55000);
    problem.query[query * 2 * 8 + 3] = kNan;  // of head 0
    for (const mha_weights_mode mode : kModes) {
      AttentionCall args = problem.args();
      args.results.weights_mode = mode;
      const AttentionReference want = reference_attention(args);
      for_each_target([&](const std::string&, const mha_context* context) {
        const std::vector<float> got = run_attention(context, args).weights;
        for (size_t n = 0; n < got.size(); ++n) {
          INFO("query " << query << " mode " << mode << " element " << n);
          CHECK(std::isnan(got[n]) == std::isnan(want.weights[n]));
          if (want.weights[n] == 0) CHECK(bits_of(got[n]) == 0);
        }
      });
    }
  }
}

TEST_CASE("weights: a NaN key is NaN in every chunk of the rows that see it, whichever way", "[weights][edges]") {
  AttentionProblem problem({1, 1, 1, 20, 600, 8, 8}, MaskKind::kBool, 56000);
  for (float& value : problem.query) value *= 40;  // most weights are 0 beside the greatest
  problem.key[300 * 8 + 3] = kNan;
  AttentionCall args = problem.args();
  for (int64_t queries : {3, 20}) {  // read where they are stored, and packed
    args.query_len = queries;
    args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
    const AttentionReference want = reference_attention(args);
    for (int64_t threads : {1, 4}) {
      for_each_target(
          [&](const std::string&, const mha_context* context) {
            for (mha_weights_mode mode : kModes) {
              args.results.weights_mode = mode;
              const std::vector<float> got = run_attention(context, args).weights;
              int64_t nan = 0;
              for (size_t n = 0; n < got.size(); ++n) {
                nan += std::isnan(got[n]) ? 1 : 0;
                if (std::isnan(got[n]) != std::isnan(want.weights[n])) FAIL_CHECK("mode " << mode << " element " << n);
                if (want.weights[n] == 0) CHECK(bits_of(got[n]) == 0);
              }
              CHECK(nan > 0);
              CHECK(nan < static_cast<int64_t>(got.size()));
            }
          },
          threads);
    }
  }
}
