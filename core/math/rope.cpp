// SPDX-License-Identifier: Apache-2.0
// Frequencies as Hugging Face's modeling_rope_utils computes them, but in double.
#include "core/math/rope.h"

#include <cmath>

#include "core/math/elementary.h"

namespace mha {
namespace {

constexpr double kTwoPi = 6.28318530717958647693;

// The pair that makes `rotations` turns over the length that the model was trained on.
double yarn_pair(const mha_rope& r, double rotations) {
  const double dims = static_cast<double>(r.dims), length = static_cast<double>(r.original_positions);
  return dims * (elementary::log(length) - elementary::log(rotations * kTwoPi)) / (2 * elementary::log(r.base));
}

// Pairs below `low` keep their frequency, pairs from `high` on have it divided by the factor; a ramp joins the two.
struct Ramp {
  double low, high;
};
Ramp yarn_ramp(const mha_rope& r) {
  Ramp ramp = {std::floor(yarn_pair(r, r.beta_fast)), std::ceil(yarn_pair(r, r.beta_slow))};
  const double last = static_cast<double>(r.dims - 1);
  if (ramp.low < 0) ramp.low = 0;
  if (ramp.high > last) ramp.high = last;
  if (ramp.low == ramp.high) ramp.high += 0.001;
  return ramp;
}

FrequencyArgs frequency_args(const mha_rope& r, double* frequencies) {
  FrequencyArgs args = {};
  args.dims = r.dims, args.log_base = elementary::log(r.base);
  args.factor = r.factor, args.frequencies = frequencies;
  if (r.scaling == MHA_ROPE_SCALING_LINEAR) args.scaling = FrequencyScaling::kAll;
  if (r.scaling == MHA_ROPE_SCALING_LLAMA3) {
    args.scaling = FrequencyScaling::kWavelengths;
    args.length = static_cast<double>(r.original_positions);
    args.low = r.low_freq_factor, args.high = r.high_freq_factor;
  }
  if (r.scaling == MHA_ROPE_SCALING_YARN) {
    const Ramp ramp = yarn_ramp(r);
    args.scaling = FrequencyScaling::kRamp;
    args.low = ramp.low, args.high = ramp.high;
  }
  return args;
}

}  // namespace

RopeAngles::RopeAngles(const KernelTable& table, const mha_rope& rope) : table_(table), rope_(rope) {
  if (rope.dims == 0 || rope.cos != nullptr) return;
  const FrequencyArgs args = frequency_args(rope, frequencies_);
  table.rows().rope_frequencies(&args);
}

void RopeAngles::turn_to(int64_t position) {
  const bool interleaved = rope_.style == MHA_ROPE_INTERLEAVED;
  const int64_t pairs = rope_.dims / 2;
  if (rope_.cos == nullptr) {
    const double amplitude = rope_.scaling == MHA_ROPE_SCALING_YARN ? rope_.attention_factor : 1;
    AngleArgs args = {};
    args.frequencies = frequencies_, args.pairs = pairs, args.interleaved = interleaved;
    args.position = static_cast<double>(position), args.amplitude = amplitude;
    args.cos = cos_, args.sin = sin_;
    return table_.rows().rope_angles(&args);
  }
  const float *cos = rope_.cos + position * pairs, *sin = rope_.sin + position * pairs;
  for (int64_t d = 0; d < pairs; ++d) {
    if (interleaved) {
      cos_[2 * d] = cos_[2 * d + 1] = cos[d];
      sin_[2 * d] = -sin[d], sin_[2 * d + 1] = sin[d];
    } else {
      cos_[d] = cos[d], sin_[d] = sin[d];
    }
  }
}

}  // namespace mha
