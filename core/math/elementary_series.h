// SPDX-License-Identifier: Apache-2.0
// The constants of elementary.cpp and of kernels/angles-inl.h, which computes the same functions on vectors.
#pragma once

namespace mha::elementary {

constexpr double kLn2High = 0x1.62e42fefa2000p-1;  // 40 bits
constexpr double kLn2Low = 0x1.9ef35793c7673p-41;
constexpr double kLog2e = 1.44269504088896340736;
constexpr double kLowestExponent = -708;  // below this exp is 0

// pi / 2 as three parts of 22 bits, whose products with an integer below 2^31 are exact, and the rest.
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

}  // namespace mha::elementary
