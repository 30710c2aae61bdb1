// SPDX-License-Identifier: Apache-2.0
// Rotary positions and RMS norm by their formulas, with libm. Scaling as in Hugging Face transformers'
// modeling_rope_utils.
#include "core/reference/reference_rope.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/reference/elements.h"
#include "core/reference/reference.h"

namespace mha::reference {
namespace {

const double kPi = std::acos(-1.0);

double llama3_frequency(const mha_rope& rope, double frequency) {
  const double low = rope.low_freq_factor != 0 ? rope.low_freq_factor : 1;
  const double high = rope.high_freq_factor != 0 ? rope.high_freq_factor : 4;
  const double length = double(rope.original_positions), wavelength = 2 * kPi / frequency;
  if (wavelength < length / high) return frequency;
  if (wavelength > length / low) return frequency / rope.factor;
  const double smooth = (length / wavelength - low) / (high - low);
  return (1 - smooth) * frequency / rope.factor + smooth * frequency;
}

double yarn_frequency(const mha_rope& rope, double base, int64_t dims, int64_t d, double frequency) {
  const auto pair_turning = [&](double rotations) {
    return dims * std::log(rope.original_positions / (rotations * 2 * kPi)) / (2 * std::log(base));
  };
  const double low = std::max(std::floor(pair_turning(rope.beta_fast != 0 ? rope.beta_fast : 32)), 0.0);
  double high = std::min(std::ceil(pair_turning(rope.beta_slow != 0 ? rope.beta_slow : 1)), double(dims - 1));
  if (low == high) high += 0.001;
  const double ramp = std::clamp((d - low) / (high - low), 0.0, 1.0);
  return frequency / rope.factor * ramp + frequency * (1 - ramp);
}

/// Cosine and sine of pair d at a position.
struct Turn {
  double cos, sin;
};
Turn turn_of(const mha_rope& rope, int64_t dims, int64_t position, int64_t d) {
  if (rope.cos) return {rope.cos[position * (dims / 2) + d], rope.sin[position * (dims / 2) + d]};
  const double base = rope.base != 0 ? rope.base : 10000;
  double frequency = std::pow(base, -2.0 * double(d) / double(dims)), amplitude = 1;
  if (rope.scaling == MHA_ROPE_SCALING_LINEAR) frequency /= rope.factor;
  if (rope.scaling == MHA_ROPE_SCALING_LLAMA3) frequency = llama3_frequency(rope, frequency);
  if (rope.scaling == MHA_ROPE_SCALING_YARN) {
    frequency = yarn_frequency(rope, base, dims, d, frequency);
    amplitude = rope.attention_factor != 0 ? rope.attention_factor : 0.1 * std::log(rope.factor) + 1;
  }
  const double angle = double(position) * frequency;
  return {amplitude * std::cos(angle), amplitude * std::sin(angle)};
}

}  // namespace

template <class T>
void norm_rope_row(const mha_rope* rope, const mha_norm* norm, int64_t position, int64_t head_dim, T* x) {
  if (norm) {
    T squares = 0;
    for (int64_t d = 0; d < head_dim; ++d) squares += x[d] * x[d];
    const T factor = 1 / std::sqrt(squares / T(head_dim) + T(norm->epsilon));
    for (int64_t d = 0; d < head_dim; ++d) x[d] *= factor * (norm->weight ? T(norm->weight[d]) : T(1));
  }
  if (!rope) return;
  const int64_t dims = rope->dims ? rope->dims : head_dim;
  for (int64_t d = 0; d < dims / 2; ++d) {
    const Turn turn = turn_of(*rope, dims, position, d);
    const bool half = rope->style == MHA_ROPE_HALF;
    T& x1 = x[half ? d : 2 * d];
    T& x2 = x[half ? d + dims / 2 : 2 * d + 1];
    const T y1 = x1 * T(turn.cos) - x2 * T(turn.sin), y2 = x2 * T(turn.cos) + x1 * T(turn.sin);
    x1 = y1, x2 = y2;
  }
}

template <class T>
void norm_rope_rows(const mha_rows_args& a, T* output) {
  const int64_t D = a.head_dim;
  const bool dense = a.input.stride_b == 0 && a.input.stride_t == 0 && a.input.stride_h == 0;
  const auto stride = [&](int64_t given, int64_t if_dense) { return dense ? if_dense : std::max<int64_t>(given, 0); };
  const int64_t stride_h = stride(a.input.stride_h, D), stride_t = stride(a.input.stride_t, a.num_heads * D);
  const int64_t stride_b = stride(a.input.stride_b, a.length * a.num_heads * D);
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t t = 0; t < a.length; ++t) {
      const int64_t position = a.positions ? a.positions[b * a.length + t] : a.first_position + t;
      for (int64_t h = 0; h < a.num_heads; ++h) {
        std::vector<T> row(D);
        for (int64_t d = 0; d < D; ++d) {
          row[d] = T(element_at(a.input.dtype, a.input.data, b * stride_b + t * stride_t + h * stride_h + d));
        }
        norm_rope_row(a.rope, a.norm, position, D, row.data());
        std::copy(row.begin(), row.end(), output + ((b * a.length + t) * a.num_heads + h) * D);
      }
    }
  }
}

template void norm_rope_row<double>(const mha_rope*, const mha_norm*, int64_t, int64_t, double*);
template void norm_rope_row<float>(const mha_rope*, const mha_norm*, int64_t, int64_t, float*);
template void norm_rope_rows<double>(const mha_rows_args&, double*);
template void norm_rope_rows<float>(const mha_rows_args&, float*);

}  // namespace mha::reference
