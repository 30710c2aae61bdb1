// SPDX-License-Identifier: Apache-2.0
// Linears in INT8 arithmetic: every element by the rules, on every target, without FMA too.
#include "tests/support/int8_order.h"

#include "tests/support/element_linears.h"
#include "tests/support/layers.h"
#include "tests/support/numbers.h"

using namespace mha::test;

namespace {

LinearPtr make(const mha_context* context, const mha_linear_config& config) {
  mha_linear* linear = nullptr;
  mha_error error = {};
  require_ok(mha_linear_create(context, &config, &linear, &error), error);
  return LinearPtr(linear);
}

/// Rows of very different size, some numbers that are no numbers, zeros.
void vary(Random& random, std::vector<float>* input, int64_t K) {
  if (one_in(random, 4)) scale_rows(random, input, K);
  if (one_in(random, 6)) spoil(random, input);
  if (one_in(random, 6)) scale_all(input, one_of(random, {0x1p-99f, 0x1p-101f, 0x1p-126f, 0x1p120f}));
  if (one_in(random, 6)) std::fill_n(input->begin(), K, 0.0f);
}

mha_linear_config config_of(const WeightCodes& w, int64_t N, int64_t K, const float* bias) {
  mha_linear_config config = {};
  config.in_features = K, config.out_features = N, config.weight = w.view(), config.layout = w.layout();
  config.bias = bias, config.arithmetic = MHA_ARITHMETIC_INT8;
  return config;
}

}  // namespace

TEST_CASE("int8: linears over codes of every type and layout, every element by the rules",
          "[int8][codes][linear][bits]") {
  int64_t cases = 0;
  for (const uint64_t seed : seeds(620000, 300)) {
    Random random(seed);
    const int64_t M = one_of<int64_t>(random, {1, 2, 5, 7, 9, 33});
    const int64_t N = one_of<int64_t>(random, {1, 8, 15, 16, 40, 64, 65, 136});
    const int64_t K = one_of<int64_t>(random, {1, 8, 31, 32, 64, 96, 129, 160, 520, 1032});
    const WeightCodes weight(random, N, K);
    std::vector<float> input = random_floats(M * K, seed * 4 + 1);
    const std::vector<float> bias = random_floats(N, seed * 4 + 2);
    vary(random, &input, K);
    const mha_linear_config config = config_of(weight, N, K, one_in(random, 2) ? bias.data() : nullptr);
    INFO("seed " << seed << " M " << M << " N " << N << " K " << K << " " << weight.describe());
    if (weight.has_float_zeros()) {
      mha_linear* linear = nullptr;
      mha_error error = {};
      CHECK(mha_linear_create(shared_context(targets_of(MHA_ARITHMETIC_INT8).front(), 1), &config, &linear, &error) == MHA_ERR_UNSUPPORTED);
      CHECK(mentions(error, "weight.quant.zero_dtype is MHA_F"));
      continue;
    }
    ++cases;
    const std::vector<float> want = int8::linear(input, M, N, K, weight.parts(), weight.group(), config.bias);
    for (const std::string& target : targets_of(MHA_ARITHMETIC_INT8)) {
      for (const int64_t threads : {1, 3}) {
        INFO("target " << target << ", " << threads << " threads");
        const mha_context* context = shared_context(target, threads);
        check_same_bits("output", run_linear(context, make(context, config).get(), input, M), want);
      }
    }
  }
  CHECK(cases > 0);
}
