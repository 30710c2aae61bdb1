// SPDX-License-Identifier: Apache-2.0
// What a decoder needs besides matrix products and attention: RMS normalisation, SwiGLU, sums, the greatest logit. Each
// row is computed on its own and in a fixed order, so its bits do not depend on the batch or on the number of threads.
#ifndef MHA_TOOLS_DEMO_DECODE_ELEMENTWISE_H
#define MHA_TOOLS_DEMO_DECODE_ELEMENTWISE_H

#include <cstdint>

namespace mha::demo {

/// output[r, :] = x[r, :] / sqrt(mean(x[r, :]^2) + epsilon) * weight; both dense [rows, width], output may be x.
void rms_normalise(const float* x, const float* weight, float epsilon, int64_t rows, int64_t width, float* output,
                   int threads);

/// output[r, n] = silu(x[r, n]) * x[r, width + n]; x dense [rows, 2 * width], output [rows, width].
void swiglu(const float* x, int64_t rows, int64_t width, float* output, int threads);

/// x[n] += update[n]
void add(float* x, const float* update, int64_t count);

/// The first index of the greatest of `count` >= 1 elements.
int64_t greatest(const float* x, int64_t count);

}  // namespace mha::demo

#endif  // MHA_TOOLS_DEMO_DECODE_ELEMENTWISE_H
