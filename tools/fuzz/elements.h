// SPDX-License-Identifier: Apache-2.0
// Tensors of any element type, as the fuzz targets give them to calls and expect them back. The conversions are made
// here, number by number: a call over 16-bit tensors must be that over the widened ones, its results rounded once.
#ifndef MHA_TOOLS_FUZZ_ELEMENTS_H
#define MHA_TOOLS_FUZZ_ELEMENTS_H

#include <fuzzer/FuzzedDataProvider.h>
#include <mha/mha.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "tools/fuzz/targets.h"

namespace mha::fuzz {

inline constexpr mha_dtype kDtypes[] = {
#define MHA_ELEMENT(name, dtype, type, bytes) dtype,
#include "core/kernels/elements.def"
};

// Mostly the first, which is MHA_F32.
inline mha_dtype choose_dtype(FuzzedDataProvider& input) {
  const int n = input.ConsumeIntegralInRange<int>(0, 5);
  return kDtypes[static_cast<std::size_t>(n) < std::size(kDtypes) ? n : 0];
}

inline std::uint32_t bits_of(float x) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float float_of(std::uint32_t bits) {
  float x = 0;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Equal bits, where one NaN is as good as another.
inline bool same_float(float a, float b) { return bits_of(a) == bits_of(b) || (std::isnan(a) && std::isnan(b)); }
inline bool same_bits(const Buffer<float>& a, const Buffer<float>& b) {
  return a.size() == b.size() && std::equal(a.data(), a.data() + a.size(), b.data(), same_float);
}

// To nearest even. A NaN keeps its sign and the upper bits of its payload, and is quiet.
inline std::uint16_t rounded_to_f16(float x) {
  const std::uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000U, size = bits & 0x7fffffffU;
  std::uint32_t half = 0;
  if (size > 0x7f800000U) {
    half = 0x7e00U | (size >> 13 & 0x3ffU);
  } else if (std::fabs(x) >= 65520.0F) {
    half = 0x7c00U;
  } else {
    // In units of the last place: 2^-24 up to 2^-14, then doubling with each power of 2.
    const int exponent = std::fabs(x) < 0x1p-14F ? -14 : std::ilogb(x);
    const double units = std::nearbyint(std::ldexp(std::fabs(static_cast<double>(x)), 10 - exponent));
    const bool is_normal = std::fabs(x) >= 0x1p-14F;
    half = static_cast<std::uint32_t>(units) + static_cast<std::uint32_t>(is_normal ? (exponent + 14) * 1024 : 0);
  }
  return static_cast<std::uint16_t>(sign | half);
}

inline std::uint16_t rounded_to_bf16(float x) {
  const std::uint32_t bits = bits_of(x), upper = bits >> 16, lower = bits & 0xffffU;
  if (std::isnan(x)) return static_cast<std::uint16_t>(upper | 0x40U);
  const bool up = lower > 0x8000U || (lower == 0x8000U && upper % 2 != 0);
  return static_cast<std::uint16_t>(upper + (up ? 1 : 0));
}

inline float widened_f16(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000U) << 16, exponent = half >> 10 & 31U, fraction = half & 0x3ffU;
  if (exponent == 31) return float_of(sign | 0x7f800000U | fraction << 13 | (fraction != 0 ? 0x400000U : 0));
  const float size = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                   : std::ldexp(static_cast<float>(1024 + fraction), static_cast<int>(exponent) - 25);
  return sign != 0 ? -size : size;
}

inline std::uint16_t rounded(mha_dtype dtype, float x) {
  return dtype == MHA_F16 ? rounded_to_f16(x) : rounded_to_bf16(x);
}

// What a tensor of that type keeps of x, widened.
inline float kept(mha_dtype dtype, float x) {
  if (dtype == MHA_F32) return x;
  return dtype == MHA_F16 ? widened_f16(rounded_to_f16(x)) : float_of(std::uint32_t{rounded_to_bf16(x)} << 16);
}
template <class Values>
void keep(mha_dtype dtype, Values& values) {
  for (std::size_t i = 0; dtype != MHA_F32 && i < values.size(); ++i) values[i] = kept(dtype, values[i]);
}

// What an arithmetic multiplies of queries, keys and values.
template <class Values>
void keep_operands(mha_arithmetic arithmetic, Values& values) {
  keep(arithmetic == MHA_ARITHMETIC_BF16 ? MHA_BF16 : MHA_F32, values);
}

// An exact heap block of elements of one type.
class Elements {
 public:
  Elements() = default;
  // `count` of the same.
  Elements(mha_dtype dtype, std::int64_t count, float value) : Elements(dtype, count) {
    for (std::size_t i = 0; i < size(); ++i) set(i, value);
  }
  // Those of floats, rounded.
  Elements(mha_dtype dtype, const float* values, std::size_t count)
      : Elements(dtype, static_cast<std::int64_t>(count)) {
    for (std::size_t i = 0; i < count; ++i) set(i, values[i]);
  }

  void* data() const {
    return dtype_ == MHA_F32 ? static_cast<void*>(floats_.data()) : static_cast<void*>(halves_.data());
  }
  const Buffer<float>& floats() const { return floats_; }  // where the type is MHA_F32
  std::size_t size() const { return dtype_ == MHA_F32 ? floats_.size() : halves_.size(); }

  float get(std::size_t i) const {
    if (dtype_ == MHA_F32) return floats_[i];
    return dtype_ == MHA_F16 ? widened_f16(halves_[i]) : float_of(std::uint32_t{halves_[i]} << 16);
  }
  // Whether element i is x, rounded.
  bool is(std::size_t i, float x) const {
    if (dtype_ == MHA_F32) return same_float(floats_[i], x);
    return halves_[i] == rounded(dtype_, x) || (std::isnan(x) && std::isnan(get(i)));
  }
  // Whether all are those of `values`.
  bool are(const float* values) const {
    for (std::size_t i = 0; i < size(); ++i)
      if (!is(i, values[i])) return false;
    return true;
  }

  void read_by(mha_view& view) const { view.data = data(), view.dtype = dtype_; }
  void written_by(mha_mut_view& view) const { view.data = data(), view.dtype = dtype_; }
  void read_by(mha_add_mask& mask) const { mask.data = data(), mask.dtype = dtype_; }

 private:
  Elements(mha_dtype dtype, std::int64_t count)
      : dtype_(dtype), floats_(dtype == MHA_F32 ? count : 0), halves_(dtype == MHA_F32 ? 0 : count) {}
  void set(std::size_t i, float x) {
    if (dtype_ == MHA_F32) {
      floats_[i] = x;
    } else {
      halves_[i] = rounded(dtype_, x);
    }
  }

  mha_dtype dtype_ = MHA_F32;
  Buffer<float> floats_;
  Buffer<std::uint16_t> halves_;
};

}  // namespace mha::fuzz

#endif  // MHA_TOOLS_FUZZ_ELEMENTS_H
