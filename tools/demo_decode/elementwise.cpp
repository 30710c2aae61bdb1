// SPDX-License-Identifier: Apache-2.0
// Plain loops that the compiler turns into vector code. Sums run over 16 lanes and a fixed tree, whatever the vector
// width.
#include "tools/demo_decode/elementwise.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tools/demo_common/vectorised.h"

namespace mha::demo {
namespace {

// e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln(2) / 2; e^r by its series to degree 7, error below 2e-7.
// Rounding by adding and taking off 1.5 * 2^23, which leaves n in the low bits. ln 2 in two parts: the first has few
// bits, so that n times it is exact.
constexpr float kEnd = 87.0f;
constexpr float kRound = 12582912.0f;
constexpr float kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;

inline float exponential(float x) {
  x = x < -kEnd ? -kEnd : x;
  x = x > kEnd ? kEnd : x;
  const float shifted = x * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 127u) << 23;  // all that is above n's low bits is shifted out
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

MHA_DEMO_VECTORISED
void swiglu_row(const float* x, int64_t width, float* output) {
  const float* up = x + width;
  for (int64_t n = 0; n < width; ++n) output[n] = x[n] / (1.0f + exponential(-x[n])) * up[n];
}

MHA_DEMO_VECTORISED
void normalise_row(const float* x, const float* weight, float epsilon, int64_t width, float* output) {
  const int64_t whole = width - width % kLanes;
  float lanes[kLanes] = {};
  for (int64_t n = 0; n < whole; n += kLanes)
    for (int64_t l = 0; l < kLanes; ++l) lanes[l] += x[n + l] * x[n + l];
  for (int64_t n = whole; n < width; ++n) lanes[n - whole] += x[n] * x[n];
  for (int64_t half = kLanes / 2; half > 0; half /= 2)
    for (int64_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  const float factor = 1.0f / std::sqrt(lanes[0] / static_cast<float>(width) + epsilon);
  for (int64_t n = 0; n < width; ++n) output[n] = x[n] * factor * weight[n];
}

}  // namespace

void rms_normalise(const float* x, const float* weight, float epsilon, int64_t rows, int64_t width, float* output,
                   [[maybe_unused]] int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows * width >= kWorthThreads)
  for (int64_t row = 0; row < rows; ++row) normalise_row(x + row * width, weight, epsilon, width, output + row * width);
}

void swiglu(const float* x, int64_t rows, int64_t width, float* output, [[maybe_unused]] int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows * width >= kWorthThreads)
  for (int64_t row = 0; row < rows; ++row) swiglu_row(x + 2 * row * width, width, output + row * width);
}

void add(float* x, const float* update, int64_t count) {
  for (int64_t n = 0; n < count; ++n) x[n] += update[n];
}

int64_t greatest(const float* x, int64_t count) { return std::max_element(x, x + count) - x; }

}  // namespace mha::demo
