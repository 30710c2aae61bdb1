// SPDX-License-Identifier: Apache-2.0
// Random numbers that are the same on every machine, and float tensors in any layout with poison in the gaps.
#ifndef MHA_TESTS_SUPPORT_TENSORS_H
#define MHA_TESTS_SUPPORT_TENSORS_H

#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "core/mha.hpp"

namespace mha::test {

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInf = std::numeric_limits<float>::infinity();

/// A NaN that no computation yields: an element that was never written still has exactly these bits.
inline constexpr uint32_t kPoisonBits = 0x7fdeadbeu;

inline float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline bool is_poison(float value) { return bits_of(value) == kPoisonBits; }

/// splitmix64. Only integer operations and exact conversions, so that every platform draws the same values.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t bits() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /// Uniform in [0, n).
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
  /// Uniform in [-1, 1), a multiple of 2^-23.
  float uniform() { return static_cast<float>(static_cast<int64_t>(bits() >> 40) - (1 << 23)) * 0x1p-23f; }

 private:
  uint64_t state_;
};

inline std::vector<float> random_floats(int64_t count, uint64_t seed, float scale = 1) {
  Random random(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = random.uniform() * scale;
  return values;
}

inline std::vector<float> poisoned(int64_t count) {
  return std::vector<float>(static_cast<size_t>(count), float_of_bits(kPoisonBits));
}

/// Sizes of a tensor of four dimensions, and strides of a layout of it (the last is 1). Named after [B, T, H, D].
struct Extent {
  int64_t b, t, h, d;
  int64_t count() const { return b * t * h * d; }
};

inline Strides dense_bthd(const Extent& e) { return {e.t * e.h * e.d, e.h * e.d, e.d}; }
inline Strides dense_bhtd(const Extent& e) { return {e.h * e.t * e.d, e.d, e.t * e.d}; }
/// Every row padded by `pad`, then every next dimension by some rows more.
inline Strides padded_bthd(const Extent& e, int64_t pad) {
  const int64_t h = e.d + pad, t = e.h * h + pad, b = e.t * t + 3 * pad;
  return {b, t, h};
}

/// A tensor in a layout of its own inside a buffer that is poison everywhere else.
class Placed {
 public:
  Placed(const Extent& extent, const Strides& strides, int64_t offset = 0)
      : extent_(extent), strides_(strides), offset_(offset), buffer_(poisoned(end() + 5)) {}

  /// Copies dense [b, t, h, d] values in.
  Placed& fill(const std::vector<float>& dense) {
    size_t n = 0;
    for_each([&](float& element) { element = dense[n++]; });
    return *this;
  }
  /// The elements as dense [b, t, h, d].
  std::vector<float> dense() const {
    std::vector<float> values;
    const_cast<Placed*>(this)->for_each([&](float& element) { values.push_back(element); });
    return values;
  }
  /// True if nothing outside the elements was written.
  bool gaps_intact() const {
    Placed copy = *this;
    copy.for_each([](float& element) { element = float_of_bits(kPoisonBits); });
    for (float value : copy.buffer_)
      if (!is_poison(value)) return false;
    return true;
  }

  mha_view view() const { return mha::view(buffer_.data() + offset_, given_strides()); }
  mha_mut_view mut_view() { return mha::mut_view(buffer_.data() + offset_, strides_); }
  float& at(int64_t b, int64_t t, int64_t h, int64_t d) {
    return buffer_[static_cast<size_t>(offset_ + b * strides_.b + t * strides_.t + h * strides_.h + d)];
  }

 private:
  /// Strides that are all 0 would mean dense.
  Strides given_strides() const {
    const bool all_zero = strides_.b == 0 && strides_.t == 0 && strides_.h == 0;
    return all_zero ? Strides{MHA_BROADCAST, MHA_BROADCAST, MHA_BROADCAST} : strides_;
  }
  template <class F>
  void for_each(F&& f) {
    for (int64_t b = 0; b < extent_.b; ++b)
      for (int64_t t = 0; t < extent_.t; ++t)
        for (int64_t h = 0; h < extent_.h; ++h)
          for (int64_t d = 0; d < extent_.d; ++d) f(at(b, t, h, d));
  }
  int64_t end() const {
    const Extent& e = extent_;
    if (e.count() == 0) return offset_;
    return offset_ + (e.b - 1) * strides_.b + (e.t - 1) * strides_.t + (e.h - 1) * strides_.h + e.d;
  }

  Extent extent_;
  Strides strides_;
  int64_t offset_;
  std::vector<float> buffer_;
};

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_TENSORS_H
