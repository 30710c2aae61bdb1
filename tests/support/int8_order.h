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
constexpr int64_t kMostGroup = 32768;

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

/// 2^x for x <= 0, or a NaN for infinity, by the polynomial of simd/functions-inl.h, nothing fused.
inline float exp2(float x) {
  if (std::isnan(x) || x == kInf) return kNan;  // what is left of whole numbers is inf - inf
  if (x < -127.5f) return 0;
  const float whole = std::nearbyint(x), f = x - whole;
  float p = 0.0013269613f;
  for (const float c : {0.009671294f, 0.05550711f, 0.24022247f, 0.693147f, 1.0f}) p = added(multiplied(p, f), c);
  return flushed(std::ldexp(p, static_cast<int>(whole)));
}

/// A chunk of keys, or several merged. Scores stand for 2^(8 x).
struct Part {
  double base = -std::numeric_limits<double>::infinity();  // of all weights, times 8; -inf: no visible key
  float sum = 0;
  std::vector<float> output;
};

/// Of one query row over the keys of a chunk. `scale`, `number`: of the value of a key, and of its columns.
template <class Scale, class Number>
Part chunk_of(const std::vector<float>& scores, const std::vector<bool>& visible, Scale scale, Number number,
              int64_t width) {
  Part part;
  const auto count = static_cast<int64_t>(scores.size());
  float most = -std::numeric_limits<float>::infinity();
  bool none = true, nan = false;
  for (int64_t j = 0; j < count; ++j) {
    const float score = scores[static_cast<size_t>(j)];
    if (!visible[static_cast<size_t>(j)]) continue;
    none = none && score == -std::numeric_limits<float>::infinity();
    nan = nan || std::isnan(score) || score == std::numeric_limits<float>::infinity();
    if (score > most) most = score;
  }
  // Huge scores (core/README.md, 8) are kept in a unit of their own, where only the greatest count.
  const bool huge = std::abs(most) >= 0x1p120f && !std::isinf(most);
  const float to_huge = 1 / (4 * static_cast<float>(1.44269504088896340736 / 8));
  const float kept = huge ? multiplied(most, to_huge) : 0;
  nan = nan || kept == std::numeric_limits<float>::infinity();
  if (!none) {
    part.base = std::isinf(most) ? 0 : huge ? 8 * static_cast<double>(kept) : std::ceil(8 * static_cast<double>(most));
  }
  const auto base = static_cast<float>(std::isinf(part.base) || huge ? 0 : part.base);
  std::vector<float> products(static_cast<size_t>(count));
  float lanes[16] = {};
  for (int64_t j = 0; j < count; ++j) {
    if (!visible[static_cast<size_t>(j)]) continue;
    const float score = scores[static_cast<size_t>(j)];
    const float e = huge ? static_cast<float>(score == most) : exp2(added(8 * score, -base));
    lanes[j % 16] = added(lanes[j % 16], e);
    products[static_cast<size_t>(j)] = multiplied(e, scale(j));
  }
  for (int64_t left = 8; left > 0; left /= 2) {
    for (int64_t lane = 0; lane < left; ++lane) lanes[lane] = added(lanes[lane], lanes[lane + left]);
  }
  part.sum = nan ? std::numeric_limits<float>::quiet_NaN() : lanes[0];
  const Rounded u = rounded(products.data(), count, 32767);
  for (int64_t d = 0; d < width; ++d) {
    int64_t sum = 0;
    for (int64_t j = 0; j < count; ++j) sum += u.codes[static_cast<size_t>(j)] * number(j, d);
    part.output.push_back(multiplied(static_cast<float>(sum), u.scale));
  }
  return part;
}

/// Both merged, the earlier chunks first.
inline Part merged(const Part& before, const Part& next) {
  if (std::isinf(next.base) && !std::isnan(next.sum)) return before;
  Part all;
  all.base = std::max(before.base, next.base);
  const auto factor = [&](double of) {
    return of - all.base < -126 || std::isinf(of) ? 0.0f : static_cast<float>(std::exp2(of - all.base));
  };
  const float keep = factor(before.base), take = factor(next.base);
  all.sum = added(multiplied(before.sum, keep), multiplied(next.sum, take));
  for (size_t d = 0; d < next.output.size(); ++d) {
    const float earlier = before.output.empty() ? 0.0f : before.output[d];
    all.output.push_back(added(multiplied(earlier, keep), multiplied(next.output[d], take)));
  }
  return all;
}

/// The output [B, Tq, H, Dv] of a call over codes [B, Tk, Hkv, D] and [B, Tk, Hkv, Dv] with a scale for each row, without
/// score modifications, whose scores are not huge.
inline std::vector<float> attention(const AttentionProblem& p, const std::vector<CodeParts>& key,
                                    const std::vector<CodeParts>& value) {
  const AttentionShape& s = p.shape;
  const float scale = p.scale != 0 ? p.scale : static_cast<float>(1 / std::sqrt(static_cast<double>(s.D)));
  const auto to_unit = static_cast<float>(1.44269504088896340736 / 8);
  const auto factor = static_cast<float>(static_cast<double>(scale) * (1.44269504088896340736 / 8));
  std::vector<float> output;
  for (int64_t b = 0; b < s.B; ++b) {
    for (int64_t i = 0; i < s.Tq; ++i) {
      for (int64_t h = 0; h < s.H; ++h) {
        const int64_t kv = h / (s.H / s.Hkv);
        const Rounded query = rounded(p.query.data() + ((b * s.Tq + i) * s.H + h) * s.D, s.D, 16256);
        const float query_factor = multiplied(query.scale, factor);
        Part row;
        for (int64_t begin = 0; begin < s.Tk; begin += 256) {
          const int64_t count = std::min<int64_t>(256, s.Tk - begin);
          const auto row_of = [&](int64_t j, int64_t width) { return ((b * s.Tk + begin + j) * s.Hkv + kv) * width; };
          std::vector<float> scores;
          std::vector<bool> visible;
          for (int64_t j = 0; j < count; ++j) {
            int64_t dot = 0;
            const CodeParts* codes = key.data() + row_of(j, s.D);
            for (int64_t d = 0; d < s.D; ++d) {
              dot += query.codes[static_cast<size_t>(d)] * static_cast<int64_t>(codes[d].number);
            }
            float score = multiplied(multiplied(static_cast<float>(dot), query_factor), codes->scale);
            const float mask = bf16::mask_of(p, b, h, i, begin + j);
            if (p.masks.add_mask.data != nullptr) score = added(score, multiplied(mask, to_unit));
            scores.push_back(score);
            visible.push_back(mask != -std::numeric_limits<float>::infinity());
          }
          row = merged(
              row, chunk_of(
                       scores, visible, [&](int64_t j) { return value[static_cast<size_t>(row_of(j, s.Dv))].scale; },
                       [&](int64_t j, int64_t d) {
                         return static_cast<int64_t>(value[static_cast<size_t>(row_of(j, s.Dv) + d)].number);
                       },
                       s.Dv));
        }
        const float inverse = row.sum == 0 ? 0.0f : divided(1, row.sum);
        for (int64_t d = 0; d < s.Dv; ++d) {
          const float sum = row.output.empty() ? 0.0f : row.output[static_cast<size_t>(d)];
          output.push_back(row.sum == 0 ? 0.0f : added(multiplied(sum, inverse), 0.0f));
        }
      }
    }
  }
  return output;
}

}  // namespace mha::test::int8

#endif  // MHA_TESTS_SUPPORT_INT8_ORDER_H
