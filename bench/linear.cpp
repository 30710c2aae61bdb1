// SPDX-License-Identifier: Apache-2.0
// linear_f32: the packed GEMM on its own; linear_f32_denormal: on values whose products are denormal.
#include <cmath>

#include "bench/case.h"
#include "bench/naive.h"
#include "bench/support.h"
#include "bench/twin.h"

namespace mha::bench {
namespace {

// Up to this many rows, reading the weights takes longer than multiplying with them.
constexpr int64_t kRowsBoundByReading = 8;

// What the values are multiplied by.
struct Scales {
  float input, weight, bias;
};
constexpr Scales kOrdinary = {1, 1, 1};
// Every product and every partial sum is denormal, and so is the result.
constexpr Scales kDenormal = {1e-19f, 2e-20f, 0};

class LinearCase : public Case {
 public:
  LinearCase(const Context& context, int64_t M, int64_t N, int64_t K, const Scales& scales = kOrdinary)
      : context_(context),
        input_(M * K, kUnitVariance * scales.input, 1),
        weight_(N * K, kUnitVariance * scales.weight / std::sqrt(static_cast<float>(K)), 2),
        bias_(N, scales.bias, 3),
        output_(M * N),
        linear_(make_linear(context, K, N, weight_.data(), bias_.data())),
        problem_{M, K, N, input_.data(), weight_.data(), bias_.data()} {
    output_.fill(std::nanf(""));
    args_.rows = M;
    args_.input = view(input_.data());
    args_.output = mut_view(output_.data());
    flops = 2.0 * static_cast<double>(M) * static_cast<double>(N) * static_cast<double>(K);
    bytes = 4.0 * static_cast<double>(M * K + N * K + N + M * N);
    // The packed weights are inside the library; the given ones are as many bytes.
    if (M <= kRowsBoundByReading) streamed = {weight_.region()};
  }
  mha_status run() override { return mha_linear_forward(context_.get(), linear_.get(), &args_, nullptr); }
  std::string check() override { return check_linear(problem_, output_.data()); }
  double naive_seconds(int threads) override { return naive_linear_seconds(problem_, threads); }

 private:
  const Context& context_;
  Floats input_, weight_, bias_, output_;
  Linear linear_;
  LinearProblem problem_;
  mha_linear_args args_ = {};
};

std::string name_of(const char* kind, int64_t M, int64_t N, int64_t K, int threads) {
  return std::string(kind) + "/M:" + std::to_string(M) + "/N:" + std::to_string(N) + "/K:" + std::to_string(K) +
         "/threads:" + std::to_string(threads);
}

}  // namespace

CaseSpec linear_case(int64_t M, int64_t N, int64_t K, int threads) {
  return {name_of("linear_f32", M, N, K, threads), "", threads,
          [=](const Context& context) { return std::make_unique<LinearCase>(context, M, N, K); }};
}

CaseSpec linear_denormal_case(int64_t M, int64_t N, int64_t K, int threads) {
  return {name_of("linear_f32_denormal", M, N, K, threads), "", threads, [=](const Context& context) {
            return std::make_unique<TwinCase>(std::make_unique<LinearCase>(context, M, N, K, kDenormal),
                                              std::make_unique<LinearCase>(context, M, N, K), "denormal_ratio");
          }};
}

}  // namespace mha::bench
