// SPDX-License-Identifier: Apache-2.0
// The element types of tensors: scalar conversions by integers, written apart from the library's; vectors and strided
// tensors of any type with their values as floats; comparison of what is stored in 16 bits.
#ifndef MHA_TESTS_SUPPORT_DTYPES_H
#define MHA_TESTS_SUPPORT_DTYPES_H

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/compare.h"
#include "tests/support/tensors.h"

namespace mha::test {

struct ElementType {
  mha_dtype dtype;
  int64_t bytes;
  const char* name;
};
inline constexpr ElementType kElementTypes[] = {
#define MHA_ELEMENT(name, dtype, Type, bytes) {dtype, bytes, #dtype},
#include "core/kernels/elements.def"
};
inline constexpr int64_t kNumElementTypes = sizeof kElementTypes / sizeof *kElementTypes;

inline const ElementType& element_type(mha_dtype dtype) {
  return *std::find_if(std::begin(kElementTypes), std::end(kElementTypes),
                       [dtype](const ElementType& type) { return type.dtype == dtype; });
}
inline int64_t element_bytes(mha_dtype dtype) { return element_type(dtype).bytes; }
/// Of any dtype, codes too.
inline std::string dtype_name(mha_dtype dtype) {
  static constexpr struct {
    mha_dtype dtype;
    const char* name;
  } kNames[] = {
#define MHA_ELEMENT(name, dtype, Type, bytes) {dtype, #dtype},
#define MHA_CODE(name, dtype, number, Type, units, bytes) {dtype, #dtype},
#include "core/kernels/elements.def"
  };
  return std::find_if(std::begin(kNames), std::end(kNames), [&](const auto& n) { return n.dtype == dtype; })->name;
}

inline mha_dtype random_dtype(Random& random) { return kElementTypes[random.below(kNumElementTypes)].dtype; }

// --- One element -------------------------------------------------------------------------------------------------------

/// An f16's value; a NaN becomes quiet.
inline uint32_t widen_f16_bits(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h >> 15) << 31, exponent = (h >> 10) & 31u;
  uint32_t fraction = h & 0x3ffu;
  if (exponent == 31) return sign | 0x7f800000u | fraction << 13 | (fraction ? 0x400000u : 0);
  if (exponent > 0) return sign | (exponent + 112) << 23 | fraction << 13;
  if (fraction == 0) return sign;
  uint32_t normalised = 113;  // the exponent of f16's smallest normal number, as a float
  for (; !(fraction & 0x400u); fraction <<= 1) --normalised;
  return sign | normalised << 23 | (fraction & 0x3ffu) << 13;
}

/// value / 2^shift to nearest, ties to even.
inline uint32_t round_shift(uint32_t value, int shift) {
  if (shift > 31) return 0;
  const uint32_t whole = value >> shift, rest = value - (whole << shift), half = 1u << (shift - 1);
  return whole + (rest > half || (rest == half && (whole & 1u)) ? 1 : 0);
}

inline uint16_t round_to_f16_bits(uint32_t f) {
  const uint32_t sign = f >> 31 << 15, exponent = (f >> 23) & 255u, fraction = f & 0x7fffffu;
  if (exponent == 255 && fraction) return static_cast<uint16_t>(sign | 0x7e00u | fraction >> 13);
  if (exponent >= 143) return static_cast<uint16_t>(sign | 0x7c00u);  // 2^16 and beyond, infinities
  if (exponent >= 113) {                                              // a carry moves into the exponent, up to infinity
    return static_cast<uint16_t>(sign | round_shift((exponent - 112) << 23 | fraction, 13));
  }
  const uint32_t significand = exponent ? 0x800000u | fraction : 0;  // denormal floats are far below half of 2^-24
  return static_cast<uint16_t>(sign | round_shift(significand, static_cast<int>(126 - exponent)));
}

inline uint32_t widen_bf16_bits(uint16_t h) { return static_cast<uint32_t>(h) << 16; }

inline uint16_t round_to_bf16_bits(uint32_t f) {
  const bool nan = (f & 0x7fffffffu) > 0x7f800000u;
  return static_cast<uint16_t>(nan ? f >> 16 | 0x40u : round_shift(f, 16));
}

/// The bits of a float stored as this type.
inline uint32_t stored_bits(mha_dtype dtype, float value) {
  if (dtype == MHA_F16) return round_to_f16_bits(bits_of(value));
  return dtype == MHA_BF16 ? round_to_bf16_bits(bits_of(value)) : bits_of(value);
}
inline float widened(mha_dtype dtype, uint32_t bits) {
  if (dtype == MHA_F16) return float_of_bits(widen_f16_bits(static_cast<uint16_t>(bits)));
  return float_of_bits(dtype == MHA_BF16 ? widen_bf16_bits(static_cast<uint16_t>(bits)) : bits);
}
inline float rounded(mha_dtype dtype, float value) { return widened(dtype, stored_bits(dtype, value)); }

inline std::vector<float> rounded(mha_dtype dtype, std::vector<float> values) {
  for (float& value : values) value = rounded(dtype, value);
  return values;
}

// --- Vectors and tensors of any type -----------------------------------------------------------------------------------

/// A signalling NaN, which no computation yields: an element that was never written still has exactly these bits.
inline uint32_t poison_bits(mha_dtype dtype) {
  return dtype == MHA_F16 ? 0x7dadu : dtype == MHA_BF16 ? 0x7fadu : kPoisonBits;
}

/// Elements of one type.
class Elements {
 public:
  Elements() = default;
  /// Poison.
  Elements(mha_dtype dtype, int64_t count) : dtype_(dtype), bytes_(static_cast<size_t>(count * element_bytes(dtype))) {
    for (int64_t n = 0; n < count; ++n) set_bits(n, poison_bits(dtype));
  }
  /// The values, rounded.
  Elements(mha_dtype dtype, const std::vector<float>& values) : Elements(dtype, static_cast<int64_t>(values.size())) {
    for (int64_t n = 0; n < count(); ++n) set_bits(n, stored_bits(dtype, values[static_cast<size_t>(n)]));
  }

  mha_dtype dtype() const { return dtype_; }
  int64_t count() const { return static_cast<int64_t>(bytes_.size()) / element_bytes(dtype_); }
  const std::vector<unsigned char>& bytes() const { return bytes_; }
  /// Never null, which would mean no tensor.
  const void* data(int64_t from = 0) const { return (count() ? bytes_.data() : none()) + from * element_bytes(dtype_); }
  void* data(int64_t from = 0) { return const_cast<void*>(static_cast<const Elements*>(this)->data(from)); }
  mha_view view(const Strides& s = {}, int64_t from = 0) const {
    return {data(from), dtype_, 0, s.b, s.t, s.h, nullptr};
  }
  mha_mut_view mut_view(const Strides& s = {}, int64_t from = 0) { return {data(from), dtype_, 0, s.b, s.t, s.h}; }

  uint32_t bits(int64_t n) const {
    if (element_bytes(dtype_) == 2) return read<uint16_t>(n);
    return read<uint32_t>(n);
  }
  void set_bits(int64_t n, uint32_t bits) {
    if (element_bytes(dtype_) == 2) return write(n, static_cast<uint16_t>(bits));
    write(n, bits);
  }
  std::vector<float> widened() const {
    std::vector<float> values;
    for (int64_t n = 0; n < count(); ++n) values.push_back(mha::test::widened(dtype_, bits(n)));
    return values;
  }
  bool all_poison() const {
    for (int64_t n = 0; n < count(); ++n)
      if (bits(n) != poison_bits(dtype_)) return false;
    return true;
  }

 private:
  static const unsigned char* none() {
    alignas(16) static const unsigned char kNone[16] = {};
    return kNone;
  }
  template <class Bits>
  Bits read(int64_t n) const {
    Bits bits;
    std::memcpy(&bits, bytes_.data() + n * static_cast<int64_t>(sizeof bits), sizeof bits);
    return bits;
  }
  template <class Bits>
  void write(int64_t n, Bits bits) {
    std::memcpy(bytes_.data() + n * static_cast<int64_t>(sizeof bits), &bits, sizeof bits);
  }

  mha_dtype dtype_ = MHA_F32;
  std::vector<unsigned char> bytes_;
};

/// Fails unless `got` is what `want` gives, rounded once to got's type, in every bit; one NaN is as good as another.
inline void check_rounded(const std::string& what, const Elements& got, const std::vector<float>& want) {
  REQUIRE(got.count() == static_cast<int64_t>(want.size()));
  const mha_dtype dtype = got.dtype();
  for (int64_t n = 0; n < got.count(); ++n) {
    const float value = widened(dtype, got.bits(n)), full = want[static_cast<size_t>(n)];
    if (got.bits(n) == stored_bits(dtype, full)) continue;
    const bool written = (got.bits(n) == poison_bits(dtype)) == is_poison(full);
    if (std::isnan(value) && std::isnan(full) && written) continue;
    std::ostringstream text;
    text.precision(9);
    text << what << " as " << dtype_name(dtype) << ": element " << n << " of " << got.count() << " is " << value
         << " (0x" << std::hex << got.bits(n) << "), not " << full << " rounded (0x" << stored_bits(dtype, full) << ")";
    FAIL_CHECK(text.str());
    return;
  }
  SUCCEED();
}

/// A tensor [b, t, h, d] of any type in a layout of its own, poison everywhere else, and the same tensor widened: the
/// same strides in elements.
class Typed {
 public:
  Typed(mha_dtype dtype, const Extent& extent, const Strides& strides, int64_t offset = 0)
      : extent_(extent), strides_(strides), offset_(offset), stored_(dtype, end() + 5) {}

  /// Dense values in, rounded.
  Typed& fill(const std::vector<float>& dense) {
    size_t n = 0;
    for_each([&](int64_t at) { stored_.set_bits(at, stored_bits(dtype(), dense[n++])); });
    wide_ = stored_.widened();
    return *this;
  }
  /// One element has other bits now.
  void spoil(int64_t b, int64_t t, int64_t h, int64_t d, uint32_t bits) {
    stored_.set_bits(at(b, t, h, d), bits);
    wide_ = stored_.widened();
  }
  mha_dtype dtype() const { return stored_.dtype(); }
  const Extent& extent() const { return extent_; }
  mha_view view() const { return stored_.view(given_strides(), offset_); }
  mha_view wide_view() const { return mha::view(wide_.data() + offset_, given_strides()); }
  mha_mut_view mut_view() { return stored_.mut_view(strides_, offset_); }

  /// The stored elements as dense ones.
  Elements dense() const {
    Elements all(dtype(), extent_.count());
    int64_t n = 0;
    for_each([&](int64_t at) { all.set_bits(n++, stored_.bits(at)); });
    return all;
  }
  /// True if nothing outside the elements was written.
  bool gaps_intact() const {
    Elements copy = stored_;
    for_each([&](int64_t at) { copy.set_bits(at, poison_bits(dtype())); });
    return copy.all_poison();
  }

 private:
  Strides given_strides() const {
    const bool all_zero = strides_.b == 0 && strides_.t == 0 && strides_.h == 0;
    return all_zero ? Strides{MHA_BROADCAST, MHA_BROADCAST, MHA_BROADCAST} : strides_;
  }
  int64_t at(int64_t b, int64_t t, int64_t h, int64_t d) const {
    return offset_ + b * strides_.b + t * strides_.t + h * strides_.h + d;
  }
  template <class F>
  void for_each(F&& f) const {
    for (int64_t b = 0; b < extent_.b; ++b)
      for (int64_t t = 0; t < extent_.t; ++t)
        for (int64_t h = 0; h < extent_.h; ++h)
          for (int64_t d = 0; d < extent_.d; ++d) f(at(b, t, h, d));
  }
  int64_t end() const {
    return extent_.count() == 0 ? offset_ : at(extent_.b - 1, extent_.t - 1, extent_.h - 1, extent_.d - 1) + 1;
  }

  Extent extent_;
  Strides strides_;
  int64_t offset_;
  Elements stored_;
  std::vector<float> wide_;
};

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_DTYPES_H
