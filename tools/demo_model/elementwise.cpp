// SPDX-License-Identifier: Apache-2.0
// Plain loops that the compiler turns into vector code. Sums run over 16 lanes and a fixed tree, whatever the vector
// width.
#include "tools/demo_model/elementwise.h"

#include <algorithm>
#include <cmath>

#include "tools/demo_common/vectorised.h"

namespace mha::demo {
namespace {

// erf(z) = z P(z^2) / Q(z^2) for |z| <= 3.95, beyond which it is 1 in float32. Fitted to the least worst error
// (1.8e-8); in float32 arithmetic the error is below 4e-7.
constexpr float kErfEnd = 3.95f;
constexpr float kP[] = {1.12837901f, 0.194033855f, 0.0532067717f, 0.00391722457f, 2.87596164e-4f, 2.01172687e-6f};
constexpr float kQ[] = {1.0f, 0.505289516f, 0.115589952f, 0.0152705198f, 1.19817366e-3f, 3.78393116e-5f};

MHA_DEMO_VECTORISED
void gelu_range(float* x, int64_t count) {
  for (int64_t n = 0; n < count; ++n) {
    float z = x[n] * 0.707106781f;
    z = z < -kErfEnd ? -kErfEnd : z;
    z = z > kErfEnd ? kErfEnd : z;
    const float u = z * z;
    const float p = ((((kP[5] * u + kP[4]) * u + kP[3]) * u + kP[2]) * u + kP[1]) * u + kP[0];
    const float q = ((((kQ[5] * u + kQ[4]) * u + kQ[3]) * u + kQ[2]) * u + kQ[1]) * u + kQ[0];
    float erf = z * p / q;
    erf = erf < -1.0f ? -1.0f : erf;
    erf = erf > 1.0f ? 1.0f : erf;
    x[n] = 0.5f * x[n] * (1.0f + erf);
  }
}

inline float sum_of_lanes(float* lanes) {
  for (int64_t half = kLanes / 2; half > 0; half /= 2)
    for (int64_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  return lanes[0];
}

MHA_DEMO_VECTORISED
void normalise_row(float* x, const float* residual, const float* weight, const float* bias, float epsilon,
                   int64_t width) {
  const int64_t whole = width - width % kLanes;
  if (residual)
    for (int64_t n = 0; n < width; ++n) x[n] += residual[n];

  float lanes[kLanes] = {};
  for (int64_t n = 0; n < whole; n += kLanes)
    for (int64_t l = 0; l < kLanes; ++l) lanes[l] += x[n + l];
  for (int64_t n = whole; n < width; ++n) lanes[n - whole] += x[n];
  const float mean = sum_of_lanes(lanes) / static_cast<float>(width);

  std::fill(lanes, lanes + kLanes, 0.0f);
  for (int64_t n = 0; n < whole; n += kLanes)
    for (int64_t l = 0; l < kLanes; ++l) lanes[l] += (x[n + l] - mean) * (x[n + l] - mean);
  for (int64_t n = whole; n < width; ++n) lanes[n - whole] += (x[n] - mean) * (x[n] - mean);
  const float factor = 1.0f / std::sqrt(sum_of_lanes(lanes) / static_cast<float>(width) + epsilon);

  for (int64_t n = 0; n < width; ++n) x[n] = (x[n] - mean) * factor * weight[n] + bias[n];
}

}  // namespace

void gelu(float* x, int64_t rows, int64_t width, [[maybe_unused]] int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows * width >= kWorthThreads)
  for (int64_t row = 0; row < rows; ++row) gelu_range(x + row * width, width);
}

void add_and_normalise(float* x, const float* residual, const float* weight, const float* bias, float epsilon,
                       int64_t rows, int64_t width, [[maybe_unused]] int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows * width >= kWorthThreads)
  for (int64_t row = 0; row < rows; ++row)
    normalise_row(x + row * width, residual ? residual + row * width : nullptr, weight, bias, epsilon, width);
}

void mean_pool(const float* x, int64_t rows, int64_t width, float* output) {
  std::fill(output, output + width, 0.0f);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t n = 0; n < width; ++n) output[n] += x[row * width + n];
  double squares = 0;
  for (int64_t n = 0; n < width; ++n) {
    output[n] /= static_cast<float>(rows);
    squares += static_cast<double>(output[n]) * static_cast<double>(output[n]);
  }
  // 1e-12 as in torch's normalize: the zero vector stays zero.
  const float factor = static_cast<float>(1.0 / std::max(std::sqrt(squares), 1e-12));
  for (int64_t n = 0; n < width; ++n) output[n] *= factor;
}

}  // namespace mha::demo
