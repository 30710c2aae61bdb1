// SPDX-License-Identifier: Apache-2.0
// Keys and values as INT8 arithmetic multiplies them: signed bytes with a scale for each row; and how far its results may
// be from the double reference over the floats that they stand for. Codes and scales are exact heap blocks.
#ifndef MHA_TOOLS_FUZZ_ROW_CODES_H
#define MHA_TOOLS_FUZZ_ROW_CODES_H

#include <fuzzer/FuzzedDataProvider.h>
#include <mha/mha.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "tools/fuzz/elements.h"

namespace mha::fuzz {

struct RowCodes {
  Buffer<std::int8_t> codes;  // in the places of the floats
  Elements scales;            // [b, t, h], dense, without the dimensions that repeat
  mutable mha_quant quant{};

  // The view is valid as long as this is, where it is.
  void read_by(mha_view& view) const {
    quant.scales = scales.data();
    view.data = codes.data(), view.dtype = MHA_I8, view.quant = &quant;
  }
};

// Rounds the rows of floats [b, t, h, width] at strides `at` (0: repeats), which become what the codes stand for. A row
// with a NaN has a NaN for a scale; some scales are negative.
inline RowCodes to_row_codes(FuzzedDataProvider& input, std::mt19937& random, const std::int64_t (&n)[3],
                             const Strides& at, std::int64_t width, const Buffer<float>& floats) {
  RowCodes made;
  made.codes = Buffer<std::int8_t>(static_cast<std::int64_t>(floats.size()));
  std::memset(made.codes.data(), 77, made.codes.size());
  std::int64_t count = 1;
  const auto stride = [&](std::int64_t size, std::int64_t step) {
    const std::int64_t own = step == 0 || size == 0 ? 0 : count;
    if (own != 0) count *= size;
    return own;
  };
  mha_quant& q = made.quant;
  q.scale_dtype = choose_dtype(input);
  q.stride_h = stride(n[2], at.h), q.stride_t = stride(n[1], at.t), q.stride_b = stride(n[0], at.b);
  const Buffer<float> scales(count);
  std::fill_n(scales.data(), scales.size(), std::nanf(""));
  const bool signs = input.ConsumeBool();
  for (std::int64_t row = 0; row < n[0] * n[1] * n[2]; ++row) {
    const std::int64_t b = row / n[2] / n[1], t = row / n[2] % n[1], h = row % n[2];
    float* x = floats.data() + b * at.b + t * at.t + h * at.h;
    std::int8_t* code = made.codes.data() + (x - floats.data());
    float& scale = scales[static_cast<std::size_t>(b * q.stride_b + t * q.stride_t + h * q.stride_h)];
    if (!std::isnan(scale)) continue;  // a row that repeats, rounded already
    float most = 0;
    bool finite = true;
    for (std::int64_t d = 0; d < width; ++d) most = std::max(most, std::fabs(x[d])), finite &= std::isfinite(x[d]);
    scale = finite ? kept(q.scale_dtype, most / 127) * (signs && random() % 3 == 0 ? -1.0F : 1.0F) : std::nanf("");
    for (std::int64_t d = 0; d < width; ++d) {
      const float nearest = finite && scale != 0 ? std::nearbyint(x[d] / scale) : 0.0F;
      code[d] = static_cast<std::int8_t>(std::clamp(nearest, -128.0F, 127.0F));
      x[d] = scale * static_cast<float>(code[d]);
    }
  }
  made.scales = Elements(q.scale_dtype, scales.data(), scales.size());
  return made;
}

// What is added to F32's bound in INT8. A query's elements are off by half of a / 16256 each (a the greatest of its row),
// so a score by at most that times |scale| times the sum of a key's magnitudes; weights and their sum change by e to the
// power of it. Probabilities times scales are off by half of the greatest / 32767, for each of at most 256 keys of a chunk,
// and are divided by at least 1/2; values are within [-1, 1], and little more after rounding.
inline double int8_bound(double greatest_query, double greatest_key_sum, double scale, std::int64_t key_len) {
  const double score = greatest_query / (2 * 16256) * scale * greatest_key_sum;
  return std::expm1(2.02 * score) + 1.02 * static_cast<double>(std::min<std::int64_t>(key_len, 256)) / 32767;
}

// The greatest magnitude among floats; NaNs do not count.
inline double greatest_of(const float* x, std::size_t count) {
  double most = 0;
  for (std::size_t i = 0; i < count; ++i)
    if (std::fabs(x[i]) > most) most = std::fabs(static_cast<double>(x[i]));
  return most;
}

}  // namespace mha::fuzz

#endif  // MHA_TOOLS_FUZZ_ROW_CODES_H
