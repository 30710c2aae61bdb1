// SPDX-License-Identifier: Apache-2.0
// Argument reduction by constants in parts whose products with a small integer are exact, then series.
#include "core/elementary.h"

#include <cstdint>
#include <cstring>

namespace mha::elementary {
namespace {

constexpr double kLn2High = 0x1.62e42fefa2000p-1;  // 40 bits
constexpr double kLn2Low = 0x1.9ef35793c7673p-41;
constexpr double kLog2e = 1.44269504088896340736;

// pi / 2 in three parts of 22 bits, each times an integer below 2^31 exact, and the rest.
constexpr double kHalfPi1 = 0x1.921fb00000000p+0;
constexpr double kHalfPi2 = 0x1.5110b00000000p-22;
constexpr double kHalfPi3 = 0x1.1846980000000p-44;
constexpr double kHalfPi4 = 0x1.3198a2e037073p-69;
constexpr double kTwoOverPi = 0.63661977236758134308;

// Taylor series: sin r = r + r^3 P(r^2), cos r = 1 + r^2 P(r^2), e^r = P(r), highest power first.
constexpr double kSin[] = {1 / 355687428096000.0, -1 / 1307674368000.0, 1 / 6227020800.0, -1 / 39916800.0,
                           1 / 362880.0,          -1 / 5040.0,          1 / 120.0,        -1 / 6.0};
constexpr double kCos[] = {-1 / 6402373705728000.0,
                           1 / 20922789888000.0,
                           -1 / 87178291200.0,
                           1 / 479001600.0,
                           -1 / 3628800.0,
                           1 / 40320.0,
                           -1 / 720.0,
                           1 / 24.0,
                           -1 / 2.0};
constexpr double kExp[] = {1 / 87178291200.0,
                           1 / 6227020800.0,
                           1 / 479001600.0,
                           1 / 39916800.0,
                           1 / 3628800.0,
                           1 / 362880.0,
                           1 / 40320.0,
                           1 / 5040.0,
                           1 / 720.0,
                           1 / 120.0,
                           1 / 24.0,
                           1 / 6.0,
                           1 / 2.0,
                           1.0,
                           1.0};

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
  if (x < -708) return 0;
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
