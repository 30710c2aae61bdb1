// SPDX-License-Identifier: Apache-2.0
// BF16 attention one element at a time, by the rules of core/README.md: what every target must compute, bit by bit.
#ifndef MHA_TESTS_SUPPORT_BF16_ORDER_H
#define MHA_TESTS_SUPPORT_BF16_ORDER_H

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "tests/support/shapes.h"

namespace mha::test::bf16 {

/// Denormals count as zero, before and after every operation.
inline float flushed(float x) { return std::abs(x) < 0x1p-126f ? 0.0f : x; }
inline float fused(float a, float b, float c) { return flushed(std::fma(flushed(a), flushed(b), flushed(c))); }
inline float added(float a, float b) { return flushed(flushed(a) + flushed(b)); }
inline float multiplied(float a, float b) { return flushed(flushed(a) * flushed(b)); }

/// To nearest even.
inline float rounded(float x) {
  x = flushed(x);
  if (std::isnan(x) || std::isinf(x)) return x;
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits += 0x7fff + ((bits >> 16) & 1);
  bits &= 0xffff0000;
  std::memcpy(&x, &bits, sizeof bits);
  return x;
}

/// Sum over n of a(n) * b(n), in blocks of 32: one chain from 0 over those n that `first` says, one over the others.
template <class A, class B, class First>
float product(int64_t count, A a, B b, First first) {
  float sum = 0;
  for (int64_t block = 0; block < count; block += 32) {
    float chains[2] = {};
    for (int64_t n = block; n < std::min<int64_t>(count, block + 32); ++n) {
      float& chain = chains[first(n) ? 0 : 1];
      chain = fused(a(n), b(n), chain);
    }
    sum = added(sum, added(chains[0], chains[1]));
  }
  return sum;
}

/// The weight of a score x, which stands for 2^(8 x), over the base n.
inline float weight(float x, double n) {
  if (std::isnan(x) || x == std::numeric_limits<float>::infinity()) return std::numeric_limits<float>::quiet_NaN();
  const double u = std::nearbyint(256 * (8 * static_cast<double>(x) - n + 127));
  if (!(u >= 256)) return 0;
  const auto whole = static_cast<int64_t>(u);
  const double table = std::nearbyint(128 * (std::exp2(static_cast<double>(whole % 256) / 256) - 1));
  return static_cast<float>(std::ldexp(1 + table / 128, static_cast<int>(whole / 256) - 127));
}

/// A chunk of keys, or several merged.
struct Part {
  double base = -std::numeric_limits<double>::infinity();  // of all weights; -inf: no visible key
  float sum = 0;
  std::vector<float> output;
};

/// Of one query row over the keys of a chunk.
inline Part chunk_of(const std::vector<float>& scores, const std::vector<bool>& visible,
                     const std::function<float(int64_t, int64_t)>& value, int64_t width) {
  Part part;
  const auto count = static_cast<int64_t>(scores.size());
  const auto sees = [&](int64_t j) { return visible[static_cast<size_t>(j)]; };
  const auto score = [&](int64_t j) { return scores[static_cast<size_t>(j)]; };
  float most = -std::numeric_limits<float>::infinity();
  bool none = true, nan = false;
  for (int64_t j = 0; j < count; ++j) {
    if (!sees(j)) continue;
    none = none && score(j) == -std::numeric_limits<float>::infinity();
    nan = nan || std::isnan(score(j)) || score(j) == std::numeric_limits<float>::infinity();
    if (score(j) > most) most = score(j);
  }
  if (!none) part.base = std::isinf(most) ? 0 : std::ceil(8 * static_cast<double>(most));
  std::vector<float> weights(static_cast<size_t>(count));
  for (int64_t j = 0; j < count; ++j) weights[static_cast<size_t>(j)] = sees(j) ? weight(score(j), part.base) : 0;
  float lanes[16] = {};
  for (int64_t block = 0; block < count; block += 32) {
    for (int64_t half : {16, 0}) {
      for (int64_t lane = 0; lane < 16; ++lane) {
        const int64_t j = block + half + lane;
        if (j < count) lanes[lane] = added(lanes[lane], weights[static_cast<size_t>(j)]);
      }
    }
  }
  for (int64_t width_left = 8; width_left > 0; width_left /= 2) {
    for (int64_t lane = 0; lane < width_left; ++lane) lanes[lane] = added(lanes[lane], lanes[lane + width_left]);
  }
  part.sum = nan ? std::numeric_limits<float>::quiet_NaN() : lanes[0];
  for (int64_t d = 0; d < width; ++d) {
    part.output.push_back(product(
        count, [&](int64_t j) { return weights[static_cast<size_t>(j)]; },
        [&](int64_t j) { return sees(j) ? rounded(value(j, d)) : 0.0f; }, [](int64_t j) { return j % 32 < 16; }));
  }
  return part;
}

/// Both merged, the earlier chunks first.
inline Part merged(const Part& before, const Part& next) {
  if (std::isinf(next.base) && !std::isnan(next.sum)) return before;
  const double base = std::max(before.base, next.base);
  const auto factor = [&](double of) {
    return of - base < -126 || std::isinf(of) ? 0.0f : static_cast<float>(std::exp2(of - base));
  };
  const float keep = factor(before.base), take = factor(next.base);
  Part all;
  all.base = base;
  all.sum = fused(before.sum, keep, multiplied(next.sum, take));
  for (size_t d = 0; d < next.output.size(); ++d) {
    const float earlier = before.output.empty() ? 0.0f : before.output[d];
    all.output.push_back(fused(earlier, keep, multiplied(next.output[d], take)));
  }
  return all;
}

/// What masks say of a key: -inf where it is hidden, else what is added to its score.
inline float mask_of(const AttentionProblem& p, int64_t b, int64_t h, int64_t i, int64_t j) {
  const float hidden = -std::numeric_limits<float>::infinity();
  const AttentionShape& s = p.shape;
  const Masks& m = p.masks;
  if (m.causal && j > m.first_position(b, s.Tq, s.Tk) + i) return hidden;
  if (m.key_lengths && j >= m.key_lengths[b]) return hidden;
  const mha_bool_mask& open = m.bool_mask;
  if (open.data && !open.data[b * open.stride_b + h * open.stride_h + i * open.stride_q + j]) return hidden;
  const mha_add_mask& add = m.add_mask;
  if (!add.data) return 0;
  const float entry = static_cast<const float*>(add.data)[b * add.stride_b + h * add.stride_h + i * add.stride_q + j];
  return m.add_mask_factors ? entry * m.add_mask_factors[h] : entry;
}

/// The output [B, Tq, H, Dv] of a call without score modifications whose scores are not huge. `scale` as given; 0: the
/// default.
inline std::vector<float> attention(const AttentionProblem& p) {
  const AttentionShape& s = p.shape;
  const float scale = p.scale != 0 ? p.scale : static_cast<float>(1 / std::sqrt(static_cast<double>(s.D)));
  // A scale of extreme size leaves a power of two to the scores (core/README.md, 2).
  const float size = std::abs(scale);
  const double rescale = size < 0x1p-64f ? 0.125 : size > 0x1p64f ? 0x1p64 : 1;
  const auto factor = static_cast<float>(static_cast<double>(scale) * (1.44269504088896340736 / 8) / rescale);
  const auto to_unit = static_cast<float>(1.44269504088896340736 / 8);
  std::vector<float> output;
  for (int64_t b = 0; b < s.B; ++b) {
    for (int64_t i = 0; i < s.Tq; ++i) {
      for (int64_t h = 0; h < s.H; ++h) {
        const int64_t kv = h / (s.H / s.Hkv);
        const float* query = p.query.data() + ((b * s.Tq + i) * s.H + h) * s.D;
        const auto key = [&](int64_t j) { return p.key.data() + ((b * s.Tk + j) * s.Hkv + kv) * s.D; };
        Part row;
        for (int64_t begin = 0; begin < s.Tk; begin += 256) {
          const int64_t count = std::min<int64_t>(256, s.Tk - begin);
          std::vector<float> scores;
          std::vector<bool> visible;
          for (int64_t j = begin; j < begin + count; ++j) {
            const float dot = product(
                s.D, [&](int64_t d) { return rounded(query[d]); }, [&](int64_t d) { return rounded(key(j)[d]); },
                [](int64_t d) { return d % 2 == 0; });
            float score = multiplied(multiplied(dot, factor), static_cast<float>(rescale));
            const float mask = mask_of(p, b, h, i, j);
            if (p.masks.add_mask.data != nullptr) score = added(score, multiplied(mask, to_unit));
            scores.push_back(score);
            visible.push_back(mask != -std::numeric_limits<float>::infinity());
          }
          row = merged(row, chunk_of(
                                scores, visible,
                                [&](int64_t j, int64_t d) {
                                  return p.value[static_cast<size_t>(((b * s.Tk + begin + j) * s.Hkv + kv) * s.Dv + d)];
                                },
                                s.Dv));
        }
        const bool nan = std::isnan(row.sum);
        const float inverse = row.sum == 0 ? 0.0f : flushed(1 / row.sum);
        for (int64_t d = 0; d < s.Dv; ++d) {
          const float sum = row.output.empty() ? 0.0f : row.output[static_cast<size_t>(d)];
          output.push_back(nan            ? std::numeric_limits<float>::quiet_NaN()
                           : row.sum == 0 ? 0.0f
                                          : added(multiplied(sum, inverse), 0.0f));
        }
      }
    }
  }
  return output;
}

}  // namespace mha::test::bf16

#endif  // MHA_TESTS_SUPPORT_BF16_ORDER_H
