// SPDX-License-Identifier: Apache-2.0
// The tanh of the softcap, through the kernel table: accuracy against double, odd, never beyond 1, the same bits
// everywhere.
#include "tests/numerics/tables.h"
#include "tests/support/compare.h"
#include "tests/support/targets.h"

using namespace mha::test;

namespace {

std::vector<float> run_tanh(const std::string& target, const std::vector<float>& x) {
  std::vector<float> y = poisoned(static_cast<int64_t>(x.size()));
  row_kernels_of(target).tanh(x.data(), y.data(), static_cast<int64_t>(x.size()));
  return y;
}

}  // namespace

TEST_CASE("tanh: within 3.2e-7 of double, relative to its value, for every 256th float up to 16", "[tanh]") {
  std::vector<float> x;
  for (uint32_t bits = bits_of(0x1p-126f); bits < bits_of(16.0f); bits += 256) x.push_back(float_of_bits(bits));
  REQUIRE(x.size() > 4000000);
  std::vector<float> of_fma_target;
  for (const std::string& target : supported_targets()) {
    INFO("target " << target);
    const std::vector<float> y = run_tanh(target, x);
    double worst = 0;
    for (size_t n = 0; n < x.size(); ++n) {
      const double want = std::tanh(static_cast<double>(x[n]));
      const double error = std::fabs(y[n] / want - 1);
      if (!(error <= worst)) worst = error;
    }
    if (std::getenv("MHA_TEST_MEASURE")) std::printf("measured tanh %s worst %.3g\n", target.c_str(), worst);
    CHECK(worst <= (has_fma(target) ? 3.2e-7 : 6e-7));
    CHECK(*std::max_element(y.begin(), y.end()) <= 1.0f);
    if (!has_fma(target)) continue;
    if (of_fma_target.empty()) of_fma_target = y;
    check_same_bits("targets", y, of_fma_target);
  }
}

TEST_CASE("tanh: odd, itself near 0, level beyond 8, NaN stays", "[tanh]") {
  for (const std::string& target : supported_targets()) {
    INFO("target " << target);
    const std::vector<float> x = random_floats(1000, 1, 9);
    std::vector<float> negative = x;
    for (float& value : negative) value = -value;
    std::vector<float> want = run_tanh(target, x);
    for (float& value : want) value = -value;
    check_same_bits("odd", run_tanh(target, negative), want);
    const std::vector<float> small = {1e-30f, -1e-10f, 1e-5f, -1e-4f, 0.0f};
    check_same_bits("small", run_tanh(target, small), small);
    const std::vector<float> high = run_tanh(target, {8.0f, 9.0f, 1e10f, kInf});
    CHECK(high == std::vector<float>(4, high[0]));
    CHECK(1 - high[0] < 2.5e-7);
    const std::vector<float> low = run_tanh(target, {-8.0f, -kInf});
    CHECK(low == std::vector<float>(2, -high[0]));
    for (float y : run_tanh(target, {kNan, -kNan})) CHECK(std::isnan(y));
  }
}

TEST_CASE("tanh: every length, nothing written beyond it", "[tanh]") {
  for (const std::string& target : supported_targets()) {
    const std::vector<float> x = random_floats(40, 2, 5);
    const std::vector<float> want = run_tanh(target, x);
    for (size_t n = 0; n <= x.size(); ++n) {
      const auto count = static_cast<int64_t>(n);
      std::vector<float> y = poisoned(static_cast<int64_t>(x.size()) + 16);
      row_kernels_of(target).tanh(x.data(), y.data(), count);
      INFO("target " << target << " n " << n);
      CHECK(first_bit_difference(y.data(), want.data(), n) < 0);
      CHECK(std::all_of(y.begin() + count, y.end(), is_poison));
    }
  }
}
