// SPDX-License-Identifier: Apache-2.0
// Log-sum-exp without libm: its log may round differently from one system to the next.
#include "core/log_sum_exp.h"

#include <cstring>

namespace mha {
namespace {

constexpr double kLn2 = 0.693147180559945309417;

}  // namespace

// x = 2^e * m with m in [sqrt(1/2), sqrt(2)), ln(m) = 2 atanh((m-1)/(m+1)).
double natural_log(float x) {
  uint32_t bits = 0;
  memcpy(&bits, &x, sizeof(bits));
  int exponent = static_cast<int>(bits >> 23) - 127;
  bits = (bits & 0x7fffffu) | 0x3f800000u;
  float mantissa = 0;
  memcpy(&mantissa, &bits, sizeof(bits));
  double m = mantissa;
  if (m > 1.41421356237309504880) m *= 0.5, exponent += 1;
  const double s = (m - 1) / (m + 1), s2 = s * s;
  double series = 0;
  for (int k = 15; k >= 1; k -= 2) series = series * s2 + 1.0 / k;
  return exponent * kLn2 + 2 * s * series;
}

float log_sum_exp(const RowState& state) {
  if (state.sum == 0.0f) return -__builtin_inff();
  if (!(state.sum < __builtin_inff())) return state.sum;  // NaN
  return static_cast<float>(state.max * kLn2 + natural_log(state.sum));
}

}  // namespace mha
