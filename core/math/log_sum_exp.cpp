// SPDX-License-Identifier: Apache-2.0
// Log-sum-exp without libm: its log may round differently from one system to the next.
#include "core/math/log_sum_exp.h"

#include "core/math/elementary.h"

namespace mha {
namespace {

constexpr double kLn2 = 0.693147180559945309417;
constexpr double kMost = 3.4028234663852886e38;  // FLT_MAX

// The log-sum-exp of finite scores stays finite: -inf means that the row sees no key.
float clamped(double x) { return static_cast<float>(x > kMost ? kMost : (x < -kMost ? -kMost : x)); }

}  // namespace

float log_sum_exp(const RowState& state) {
  if (state.sum == 0.0f) return -__builtin_inff();
  if (!(state.sum < __builtin_inff())) return state.sum;  // NaN
  const double max = static_cast<double>(state.max), log_sum = elementary::log(static_cast<double>(state.sum));
  return clamped((is_huge(state.max) ? max * kHugeUnit : max * kScoreUnit * kLn2) + log_sum);
}

}  // namespace mha
