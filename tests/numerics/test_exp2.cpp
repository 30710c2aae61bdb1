// SPDX-License-Identifier: Apache-2.0
// The exp2 of the softmax, through the kernel table: accuracy in ULP against double, ends of the range, the same bits
// everywhere.
#include "simd/float_mode.h"
#include "tests/numerics/tables.h"
#include "tests/support/compare.h"
#include "tests/support/targets.h"

using namespace mha::test;

namespace {

std::vector<float> run_exp2(const std::string& target, const std::vector<float>& x) {
  std::vector<float> y = poisoned(static_cast<int64_t>(x.size()));
  const mha::FloatMode mode;  // as kernels run
  row_kernels_of(target).exp2(x.data(), y.data(), static_cast<int64_t>(x.size()));
  return y;
}

// Below this the result is 0: nothing is denormal.
constexpr float kLowest = -126.0f;

/// Every 64th float of [kLowest, 0], from 0 downwards: -0, then the negative numbers by their bits.
std::vector<float> every_64th_float() {
  std::vector<float> x = {0.0f};
  for (uint32_t bits = 0x80000000u; bits <= bits_of(kLowest); bits += 64) x.push_back(float_of_bits(bits));
  return x;
}

}  // namespace

TEST_CASE("exp2: within 2 ULP (2.2 without FMA) of double for every 64th float in [-126, 0], monotone within 1 ULP",
          "[exp2][slow]") {
  const std::vector<float> x = every_64th_float();
  REQUIRE(x.size() > 17500000);
  std::vector<float> of_fma_target;
  for (const std::string& target : supported_targets()) {
    INFO("target " << target);
    const std::vector<float> y = run_exp2(target, x);
    double worst = 0, sum = 0;
    int64_t steps_up = 0;  // x falls, so y must not rise by more than one unit in the last place
    for (size_t n = 0; n < x.size(); ++n) {
      const double want = std::exp2(static_cast<double>(x[n]));
      const double ulp = std::ldexp(1.0, std::ilogb(want) - 23);
      const double error = std::fabs(y[n] - want) / ulp;
      if (!(error <= worst)) worst = error;
      sum += error;
      if (n > 0 && bits_of(y[n]) > bits_of(y[n - 1]) + 1) ++steps_up;
    }
    if (std::getenv("MHA_TEST_MEASURE"))
      std::printf("measured exp2 %s worst %.3f mean %.3f ULP\n", target.c_str(), worst,
                  sum / static_cast<double>(x.size()));
    CHECK(worst <= (has_fma(target) ? 2 : 2.2));
    CHECK(y.back() > 0);
    CHECK(steps_up == 0);
    if (!has_fma(target)) continue;
    if (of_fma_target.empty()) of_fma_target = y;
    check_same_bits("targets", y, of_fma_target);
  }
}

TEST_CASE("exp2: exact where it must be", "[exp2]") {
  for (const std::string& target : supported_targets()) {
    INFO("target " << target);
    const std::vector<float> y = run_exp2(target, {0.0f, -0.0f, -1.0f, -2.0f, -10.0f, -126.0f});
    CHECK(y == std::vector<float>({1.0f, 1.0f, 0.5f, 0.25f, 0x1p-10f, 0x1p-126f}));
  }
}

TEST_CASE("exp2: below -126 exactly 0, at -inf too, NaN stays", "[exp2]") {
  for (const std::string& target : supported_targets()) {
    INFO("target " << target);
    const std::vector<float> low = {
        std::nextafterf(-126.0f, -200.0f),  -126.5f, -127.0f, -149.0f, -150.0f, -1e4f, -1e30f,
        -std::numeric_limits<float>::max(), -kInf};
    for (float y : run_exp2(target, low)) CHECK(bits_of(y) == 0);
    for (float y : run_exp2(target, {kNan, -kNan})) CHECK(std::isnan(y));
  }
}

TEST_CASE("exp2: every length, nothing written beyond it", "[exp2]") {
  for (const std::string& target : supported_targets()) {
    const std::vector<float> x = random_floats(70, 1, 20);
    std::vector<float> negative = x;
    for (float& value : negative) value = -std::fabs(value);
    const std::vector<float> want = run_exp2(target, negative);
    for (int64_t n = 0; n <= 70; ++n) {
      std::vector<float> y = poisoned(71);
      row_kernels_of(target).exp2(negative.data(), y.data(), n);
      INFO("target " << target << " n " << n);
      CHECK(first_bit_difference(y.data(), want.data(), static_cast<size_t>(n)) < 0);
      CHECK(std::all_of(y.begin() + n, y.end(), is_poison));
    }
  }
}
