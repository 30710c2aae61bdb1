// SPDX-License-Identifier: Apache-2.0
// Argument reduction, then a series. The constants of the reduction are split into parts whose products with a small
// integer are exact.
#include "core/math/elementary.h"

#include <cstdint>
#include <cstring>

#include "core/math/elementary_series.h"

namespace mha::elementary {
namespace {

template <int kCount>
double polynomial(const double (&coefficients)[kCount], double x) {
  double y = coefficients[0];
  for (int i = 1; i < kCount; ++i) y = y * x + coefficients[i];
  return y;
}

}  // namespace

// x = 2^e m with m in [sqrt(1/2), sqrt(2)); ln m = 2 atanh((m - 1) / (m + 1)).
double log(double x) {
  uint64_t bits = 0;
  memcpy(&bits, &x, sizeof(bits));
  int64_t exponent = static_cast<int64_t>(bits >> 52) - 1023;
  bits = (bits & 0xfffffffffffffu) | 0x3ff0000000000000u;
  double m = 0;
  memcpy(&m, &bits, sizeof(m));
  if (m > 1.41421356237309504880) m *= 0.5, exponent += 1;
  const double s = (m - 1) / (m + 1), s2 = s * s;
  double series = 0;
  for (int k = 23; k >= 3; k -= 2) series = series * s2 + 1.0 / k;
  const double e = static_cast<double>(exponent);
  return e * kLn2High + (2 * s + (2 * s * s2 * series + e * kLn2Low));
}

double exp(double x) {
  if (x != x) return x;
  if (x < kLowestExponent) return 0;
  const int64_t n = static_cast<int64_t>(x * kLog2e - 0.5);  // to nearest, since x <= 0
  const double k = static_cast<double>(n);
  const double r = (x - k * kLn2High) - k * kLn2Low;
  const uint64_t bits = static_cast<uint64_t>(n + 1023) << 52;
  double scale = 0;
  memcpy(&scale, &bits, sizeof(scale));
  return polynomial(kExp, r) * scale;
}

SinCos sin_cos(double x) {
  const int64_t n =
      static_cast<int64_t>(x * kTwoOverPi + 0.5);  // NOLINT(bugprone-incorrect-roundings): any near n does
  const double k = static_cast<double>(n);
  const double r = ((x - k * kHalfPi1) - k * kHalfPi2) - k * kHalfPi3 - k * kHalfPi4;
  const double r2 = r * r;
  const double sin = r + r * r2 * polynomial(kSin, r2);
  const double cos = 1 + r2 * polynomial(kCos, r2);
  switch (n & 3) {
    case 0:
      return {sin, cos};
    case 1:
      return {cos, -sin};
    case 2:
      return {-sin, -cos};
    default:
      return {-cos, sin};
  }
}

}  // namespace mha::elementary
