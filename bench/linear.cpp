// SPDX-License-Identifier: Apache-2.0
// linear_f32: the packed GEMM on its own.
#include <cmath>

#include "bench/case.h"
#include "bench/naive.h"
#include "bench/support.h"

namespace mha::bench {
namespace {

// Up to this many rows the weights are read faster than they can be used: reading them is the limit.
constexpr int64_t kRowsBoundByReading = 8;

class LinearCase : public Case {
 public:
  LinearCase(const mha_context* context, int64_t M, int64_t N, int64_t K)
      : context_(context),
        input_(M * K, kUnitVariance, 1),
        weight_(N * K, kUnitVariance / std::sqrt(static_cast<float>(K)), 2),
        bias_(N, 1, 3),
        output_(M * N),
        linear_(make_linear(context, K, N, weight_.data(), bias_.data())),
        problem_{M, K, N, input_.data(), weight_.data(), bias_.data()} {
    output_.fill(std::nanf(""));
    args_.rows = M;
    args_.input = input_.data();
    args_.output = output_.data();
    flops = 2.0 * static_cast<double>(M) * static_cast<double>(N) * static_cast<double>(K);
    bytes = 4.0 * static_cast<double>(M * K + N * K + N + M * N);
    // The packed weights are the library's; the plain ones are as many bytes.
    if (M <= kRowsBoundByReading) streamed = {weight_.region()};
  }
  mha_status run() override { return mha_linear_forward(context_, linear_.get(), &args_, nullptr); }
  std::string check() override { return check_linear(problem_, output_.data()); }
  double naive_seconds(int threads) override { return naive_linear_seconds(problem_, threads); }

 private:
  const mha_context* context_;
  Floats input_, weight_, bias_, output_;
  Linear linear_;
  LinearProblem problem_;
  mha_linear_args args_ = {};
};

}  // namespace

CaseSpec linear_case(int64_t M, int64_t N, int64_t K, int threads) {
  const std::string name = "linear_f32/M:" + std::to_string(M) + "/N:" + std::to_string(N) + "/K:" + std::to_string(K) +
                           "/threads:" + std::to_string(threads);
  return {name, "", threads,
          [=](const mha_context* context) { return std::make_unique<LinearCase>(context, M, N, K); }};
}

}  // namespace mha::bench
