// SPDX-License-Identifier: Apache-2.0
// Elementary functions in double from +, -, * and / alone, which round the same on every machine. libm's functions
// round differently from one system to the next, and so would results computed with them.
#pragma once

namespace mha::elementary {

// The natural logarithm of a normal x > 0, to about 2e-16 of max(1, |ln x|).
double log(double x);

// e^x for x <= 0, to about 2e-16 of the result; 0 below -708; NaN for NaN.
double exp(double x);

// Sine and cosine of x in [0, 2^31], to about 1e-16.
struct SinCos {
  double sin, cos;
};
SinCos sin_cos(double x);

}  // namespace mha::elementary
