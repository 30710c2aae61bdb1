// SPDX-License-Identifier: Apache-2.0
// What a transformer needs besides matrix products and attention: GELU, layer normalisation, pooling. Each row is
// computed on its own and in a fixed order, so its bits do not depend on the batch or on the number of threads.
#ifndef MHA_TOOLS_DEMO_MODEL_ELEMENTWISE_H
#define MHA_TOOLS_DEMO_MODEL_ELEMENTWISE_H

#include <cstdint>

namespace mha::demo {

/// x[r, :] = x[r, :] * (1 + erf(x[r, :] / sqrt(2))) / 2 for each row, in place; x is dense [rows, width].
void gelu(float* x, int64_t rows, int64_t width, int threads);

/// x[r, :] = (s - mean(s)) / sqrt(variance(s) + epsilon) * weight + bias with s = x[r, :] + residual[r, :], in place.
/// `residual` may be nullptr (then s = x[r, :]); both are dense [rows, width].
void add_and_normalise(float* x, const float* residual, const float* weight, const float* bias, float epsilon,
                       int64_t rows, int64_t width, int threads);

/// The mean of `rows` rows of x, scaled to Euclidean length 1.
void mean_pool(const float* x, int64_t rows, int64_t width, float* output);

}  // namespace mha::demo

#endif  // MHA_TOOLS_DEMO_MODEL_ELEMENTWISE_H
