// SPDX-License-Identifier: Apache-2.0
// mha_linear_create and mha_linear_forward against the double reference: sizes around tile edges, strides, bias.
#include "tests/support/layers.h"

using namespace mha::test;

namespace {

// Inputs and weights are uniform in [-1, 1): the error grows with the length of the chain, about as its square root.
Bound bound_for(int64_t in_features) {
  if (in_features <= 70) return {4e-6, 4e-7};
  if (in_features <= 257) return {1.2e-5, 4e-7};
  return {3.5e-5, 1.2e-6};
}

struct LinearProblem {
  int64_t M, N, K;
  bool has_bias;
  std::vector<float> input, weight, bias;

  LinearProblem(int64_t m, int64_t n, int64_t k, bool with_bias, uint64_t seed)
      : M(m),
        N(n),
        K(k),
        has_bias(with_bias),
        input(random_floats(m * k, seed * 4 + 1)),
        weight(random_floats(n * k, seed * 4 + 2)),
        bias(random_floats(n, seed * 4 + 3)) {}

  const float* bias_or_null() const { return has_bias ? bias.data() : nullptr; }
  std::vector<double> reference() const {
    std::vector<double> output(static_cast<size_t>(M * N));
    mha::reference::linear<double>(input.data(), K, M, K, weight.data(), bias_or_null(), N, output.data());
    return output;
  }
};

void check_problem(const LinearProblem& p) {
  const std::vector<double> want = p.reference();
  std::ostringstream what;
  what << "M " << p.M << " N " << p.N << " K " << p.K << (p.has_bias ? " bias" : "");
  for_each_target([&](const std::string& target, const mha_context* context) {
    const LinearPtr linear = make_linear(context, p.K, p.N, p.weight.data(), p.bias_or_null());
    mha_linear_config config = {};
    mha_linear_get_config(linear.get(), &config);
    REQUIRE(config.in_features == p.K);
    REQUIRE(config.out_features == p.N);
    const std::vector<float> got = run_linear(context, linear.get(), p.input, p.M);
    check_close("linear " + target + " " + what.str(), got, want, bound_for(p.K));
  });
}

}  // namespace

TEST_CASE("linear: every size in 1..70, pairwise", "[linear][slow]") {
  uint64_t seed = 0;
  for (const std::vector<int>& row : pairwise({70, 70, 70, 2}, 2)) {
    // Every pair of sizes is about 5000 products; a third of them keeps every size of each dimension many times.
    if (++seed % 3) continue;
    check_problem(LinearProblem(row[0] + 1, row[1] + 1, row[2] + 1, row[3] != 0, seed));
  }
}

TEST_CASE("linear: sizes around 256", "[linear]") {
  uint64_t seed = 10000;
  for (const std::vector<int>& row : pairwise({3, 3, 3, 2}, 3))
    check_problem(LinearProblem(row[0] + 255, row[1] + 255, row[2] + 255, row[3] != 0, ++seed));
}

TEST_CASE("linear: 1024 in each dimension", "[linear]") {
  check_problem(LinearProblem(1024, 3, 5, true, 11001));
  check_problem(LinearProblem(5, 1024, 7, true, 11002));
  check_problem(LinearProblem(3, 2, 1024, true, 11003));
  check_problem(LinearProblem(30, 1024, 1024, false, 11004));
  check_problem(LinearProblem(1, 1025, 1023, true, 11005));
}

TEST_CASE("linear: one chain of fused multiply-adds over k, in however many blocks the kernel takes it", "[linear]") {
  for (int64_t M : {1, 7, 8, 9, 26}) {
    for (int64_t K : {1024, 1025, 2047, 2500, 4100}) {
      const LinearProblem p(M, 83, K, true, static_cast<uint64_t>(12000 + K));
      std::vector<float> want(static_cast<size_t>(M * p.N));
      for (int64_t m = 0; m < M; ++m) {
        for (int64_t n = 0; n < p.N; ++n) {
          float sum = 0;
          const float *row = p.input.data() + m * K, *column = p.weight.data() + n * K;
          for (int64_t k = 0; k < K; ++k) sum = std::fma(row[k], column[k], sum);
          want[static_cast<size_t>(m * p.N + n)] = sum + p.bias[static_cast<size_t>(n)];
        }
      }
      for (const std::string& target : fma_targets()) {
        INFO(target << " M " << M << " K " << K);
        const mha_context* context = shared_context(target, 2);
        const LinearPtr linear = make_linear(context, K, p.N, p.weight.data(), p.bias.data());
        check_same_bits("linear", run_linear(context, linear.get(), p.input, M), want);
      }
    }
  }
}

TEST_CASE("linear: weights of 32 MiB and more, which are read in another way for few rows", "[linear]") {
  const LinearProblem p(33, 4100, 2050, true, 12500);
  for_each_target([&](const std::string&, const mha_context* context) {
    const LinearPtr linear = make_linear(context, p.K, p.N, p.weight.data(), p.bias.data());
    const std::vector<float> all = run_linear(context, linear.get(), p.input, p.M);
    for (int64_t M : {1, 3, 8, 13, 32}) {
      const std::vector<float> want(all.begin(), all.begin() + M * p.N);
      check_same_bits("rows " + std::to_string(M), run_linear(context, linear.get(), p.input, M), want);
    }
  });
}

TEST_CASE("linear: rows of larger buffers", "[linear][strides]") {
  const LinearProblem p(13, 37, 29, true, 12000);
  const std::vector<double> want = p.reference();
  for_each_target([&](const std::string& target, const mha_context* context) {
    const LinearPtr linear = make_linear(context, p.K, p.N, p.weight.data(), p.bias.data());
    const std::vector<float> dense = run_linear(context, linear.get(), p.input, p.M);
    for (int64_t pad : {0, 1, 3, 16}) {
      for (int64_t offset : {0, 1}) {
        Placed input({1, p.M, 1, p.K}, {0, p.K + pad, 0}, offset);
        Placed output({1, p.M, 1, p.N}, {0, p.N + pad, 0}, offset);
        input.fill(p.input);
        mha_linear_args args = {};
        args.rows = p.M, args.input = input.view(), args.output = output.mut_view();
        mha_error error = {};
        require_ok(mha_linear_forward(context, linear.get(), &args, &error), error);
        check_close("strided " + target, output.dense(), want, bound_for(p.K));
        check_same_bits("strided " + target, output.dense(), dense);
        CHECK(output.gaps_intact());
      }
    }
  });
}

TEST_CASE("linear: an input stride below in_features reads overlapping rows", "[linear][strides]") {
  const std::vector<float> input = random_floats(40, 12500), weight = random_floats(11 * 20, 12501);
  for (int64_t stride : {1, 7}) {
    const int64_t M = 20 / stride;
    std::vector<double> want(static_cast<size_t>(M * 11));
    mha::reference::linear<double>(input.data(), stride, M, 20, weight.data(), nullptr, 11, want.data());
    for_each_target([&](const std::string& target, const mha_context* context) {
      const LinearPtr linear = make_linear(context, 20, 11, weight.data(), nullptr);
      std::vector<float> got = poisoned(M * 11);
      mha_linear_args args = linear_args(M, input.data(), got.data());
      args.input.stride_t = stride;
      mha_error error = {};
      require_ok(mha_linear_forward(context, linear.get(), &args, &error), error);
      check_close("overlapping rows " + target, got, want, bound_for(20));
    });
  }
}

TEST_CASE("linear: no rows writes nothing", "[linear][edges]") {
  const std::vector<float> weight = random_floats(12, 13000);
  for_each_target([&](const std::string&, const mha_context* context) {
    const LinearPtr linear = make_linear(context, 4, 3, weight.data(), nullptr);
    std::vector<float> output = poisoned(3);
    const mha_linear_args args = linear_args(0, weight.data(), output.data());
    CHECK(mha_linear_forward(context, linear.get(), &args, nullptr) == MHA_OK);
    CHECK(is_poison(output[0]));
  });
}

TEST_CASE("linear: the sources may be freed after create", "[linear]") {
  LinearProblem p(4, 33, 17, true, 14000);
  for_each_target([&](const std::string&, const mha_context* context) {
    std::vector<float> weight = p.weight, bias = p.bias;
    const LinearPtr linear = make_linear(context, p.K, p.N, weight.data(), bias.data());
    const std::vector<float> before = run_linear(context, linear.get(), p.input, p.M);
    std::fill(weight.begin(), weight.end(), kNan);
    std::fill(bias.begin(), bias.end(), kNan);
    check_same_bits("output", run_linear(context, linear.get(), p.input, p.M), before);
  });
}

TEST_CASE("linear: NaN and Inf reach exactly their row, column or element", "[linear][edges]") {
  const LinearProblem clean(9, 21, 19, true, 15000);
  for_each_target([&](const std::string&, const mha_context* context) {
    const LinearPtr linear = make_linear(context, clean.K, clean.N, clean.weight.data(), clean.bias.data());
    const std::vector<float> want = run_linear(context, linear.get(), clean.input, clean.M);

    std::vector<float> input = clean.input;
    input[static_cast<size_t>(4 * clean.K + 18)] = kNan;
    std::vector<float> got = run_linear(context, linear.get(), input, clean.M);
    for (int64_t m = 0; m < clean.M; ++m)
      for (int64_t n = 0; n < clean.N; ++n) {
        const size_t at = static_cast<size_t>(m * clean.N + n);
        CHECK((m == 4 ? std::isnan(got[at]) : bits_of(got[at]) == bits_of(want[at])));
      }

    std::vector<float> weight = clean.weight;
    weight[static_cast<size_t>(20 * clean.K)] = kInf;
    const LinearPtr infinite = make_linear(context, clean.K, clean.N, weight.data(), clean.bias.data());
    got = run_linear(context, infinite.get(), clean.input, clean.M);
    for (int64_t m = 0; m < clean.M; ++m)
      for (int64_t n = 0; n < clean.N; ++n) {
        const size_t at = static_cast<size_t>(m * clean.N + n);
        CHECK((n == 20 ? std::isinf(got[at]) : bits_of(got[at]) == bits_of(want[at])));
      }
  });
}
