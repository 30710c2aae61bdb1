// SPDX-License-Identifier: Apache-2.0
// INT8 arithmetic one element at a time, by the rules of core/README.md: what every target must compute, bit by bit.
#ifndef MHA_TESTS_SUPPORT_INT8_ORDER_H
#define MHA_TESTS_SUPPORT_INT8_ORDER_H

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/bf16_order.h"
#include "tests/support/weight_codes.h"

namespace mha::test::int8 {

using bf16::added;
using bf16::flushed;
using bf16::multiplied;

inline float divided(float a, float b) { return flushed(flushed(a) / flushed(b)); }

/// Numbers rounded to integers of at most `most` in magnitude, and what they are multiplied with to get the numbers back.
struct Rounded {
  std::vector<int64_t> codes;
  float scale = 0;
};

inline Rounded rounded(const float* x, int64_t count, float most) {
  Rounded all;
  all.codes.assign(static_cast<size_t>(count), 0);
  float greatest = 0;
  for (int64_t n = 0; n < count; ++n) {
    if (!std::isfinite(x[n])) {
      all.scale = std::numeric_limits<float>::quiet_NaN();
      return all;
    }
    greatest = std::max(greatest, std::abs(flushed(x[n])));
  }
  if (greatest < 0x1p-100f) return all;
  all.scale = divided(greatest, most);
  const float inverse = divided(most, greatest);
  for (int64_t n = 0; n < count; ++n) {
    all.codes[static_cast<size_t>(n)] = static_cast<int64_t>(std::nearbyint(multiplied(x[n], inverse)));
  }
  return all;
}

/// Inputs that share a scale at most.
constexpr int64_t kMostGroup = 65536;

/// The output [M, N] of a linear over codes with integer zeros.
inline std::vector<float> linear(const std::vector<float>& input, int64_t M, int64_t N, int64_t K,
                                 const std::vector<CodeParts>& weight, int64_t group, const float* bias) {
  if (group == 0) group = K;
  std::vector<float> output;
  for (int64_t m = 0; m < M; ++m) {
    std::vector<float> row(static_cast<size_t>(N), 0.0f);
    for (int64_t first = 0; first < K; first += group) {
      const int64_t end_of_group = std::min(K, first + group);
      for (int64_t begin = first; begin < end_of_group; begin += kMostGroup) {
        const int64_t end = std::min(end_of_group, begin + kMostGroup);
        const Rounded x = rounded(input.data() + m * K + begin, end - begin, 127);
        for (int64_t n = 0; n < N; ++n) {
          int64_t sum = 0;
          for (int64_t k = begin; k < end; ++k) {
            sum += x.codes[static_cast<size_t>(k - begin)] *
                   static_cast<int64_t>(weight[static_cast<size_t>(n * K + k)].number);
          }
          const float scale = multiplied(x.scale, weight[static_cast<size_t>(n * K + begin)].scale);
          float& at = row[static_cast<size_t>(n)];
          at = added(at, multiplied(static_cast<float>(sum), scale));
        }
      }
    }
    for (int64_t n = 0; n < N; ++n) {
      output.push_back(added(row[static_cast<size_t>(n)], bias != nullptr ? bias[n] : 0.0f));
    }
  }
  return output;
}

}  // namespace mha::test::int8

#endif  // MHA_TESTS_SUPPORT_INT8_ORDER_H
