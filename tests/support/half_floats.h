// SPDX-License-Identifier: Apache-2.0
// Rows of any element type with a pattern of bytes in the gaps, and their comparison with floats rounded once.
#ifndef MHA_TESTS_SUPPORT_HALF_FLOATS_H
#define MHA_TESTS_SUPPORT_HALF_FLOATS_H

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/dtypes.h"
#include "tests/support/tensors.h"

namespace mha::test {

/// Every element type, in the order of elements.def.
inline constexpr mha_dtype kDtypes[] = {
#define MHA_ELEMENT(name, dtype, type, bytes) dtype,
#include "core/kernels/elements.def"
};
inline constexpr mha_dtype kHalfDtypes[] = {MHA_F16, MHA_BF16};

inline const char* name_of(mha_dtype dtype) { return dtype == MHA_F32 ? "f32" : dtype == MHA_F16 ? "f16" : "bf16"; }
inline int64_t bytes_of(mha_dtype dtype) { return element_bytes(dtype); }

/// The bits of the float that this element is. A NaN keeps its payload; of f16 it becomes quiet.
inline uint32_t widen_one(mha_dtype dtype, uint16_t h) {
  return dtype == MHA_BF16 ? widen_bf16_bits(h) : widen_f16_bits(h);
}
/// The bits of the element that is nearest to the float of bits `u`, of two the even one.
inline uint16_t round_one(mha_dtype dtype, uint32_t u) {
  return dtype == MHA_BF16 ? round_to_bf16_bits(u) : round_to_f16_bits(u);
}

/// Rows of elements, `pad` elements apart, the first at element `offset` of a buffer that is a pattern of bytes
/// elsewhere.
class ElementRows {
 public:
  ElementRows(mha_dtype dtype, int64_t rows, int64_t columns, int64_t pad = 0, int64_t offset = 0)
      : dtype_(dtype), rows_(rows), columns_(columns), pitch_(columns + pad), offset_(offset) {
    bytes_.resize(static_cast<size_t>((offset + std::max<int64_t>(rows, 1) * pitch_ + kBehind) * size()));
    for (size_t n = 0; n < bytes_.size(); ++n) bytes_[n] = pattern(n);
  }
  /// Rounds floats into the rows.
  ElementRows& fill(const std::vector<float>& floats) {
    REQUIRE(static_cast<int64_t>(floats.size()) == rows_ * columns_);
    size_t n = 0;
    for_each([&](char* at) {
      const uint32_t wide = bits_of(floats[n++]);
      const uint16_t narrow = dtype_ == MHA_F32 ? uint16_t{0} : round_one(dtype_, wide);
      std::memcpy(at, dtype_ == MHA_F32 ? static_cast<const void*>(&wide) : &narrow, static_cast<size_t>(size()));
    });
    return *this;
  }
  /// The elements as floats, row after row.
  std::vector<float> floats() const {
    std::vector<float> values;
    for (uint32_t bits : this->bits()) {
      values.push_back(float_of_bits(dtype_ == MHA_F32 ? bits : widen_one(dtype_, static_cast<uint16_t>(bits))));
    }
    return values;
  }
  /// The bits of each element.
  std::vector<uint32_t> bits() const {
    std::vector<uint32_t> values;
    const_cast<ElementRows*>(this)->for_each([&](const char* at) {
      uint32_t element = 0;
      std::memcpy(&element, at, static_cast<size_t>(size()));  // little endian, as every target
      values.push_back(element);
    });
    return values;
  }
  /// Puts one element's bits in.
  void set(int64_t row, int64_t column, uint32_t bits) {
    std::memcpy(data() + (row * pitch_ + column) * size(), &bits, static_cast<size_t>(size()));
  }
  /// True if nothing outside the elements was written.
  bool gaps_intact() const {
    ElementRows copy = *this;
    copy.for_each([&](char* at) {
      for (int64_t i = 0; i < size(); ++i) at[i] = pattern(static_cast<size_t>(at + i - copy.bytes_.data()));
    });
    for (size_t n = 0; n < copy.bytes_.size(); ++n)
      if (copy.bytes_[n] != pattern(n)) return false;
    return true;
  }

  char* data() { return bytes_.data() + offset_ * size(); }
  const char* data() const { return bytes_.data() + offset_ * size(); }
  mha_dtype dtype() const { return dtype_; }
  int64_t pitch() const { return pitch_; }
  /// One item and one head, rows being tokens.
  mha_view view() const {
    mha_view v = {};
    v.data = data(), v.dtype = dtype_, v.stride_t = pitch_ == columns_ ? 0 : pitch_;
    return v;
  }
  mha_mut_view mut_view() {
    mha_mut_view v = {};
    v.data = data(), v.dtype = dtype_, v.stride_t = pitch_ == columns_ ? 0 : pitch_;
    return v;
  }

 private:
  static constexpr int64_t kBehind = 40;
  static char pattern(size_t n) { return static_cast<char>(0x5b + n % 97); }
  int64_t size() const { return bytes_of(dtype_); }
  template <class F>
  void for_each(F&& f) {
    for (int64_t r = 0; r < rows_; ++r)
      for (int64_t c = 0; c < columns_; ++c) f(data() + (r * pitch_ + c) * size());
  }

  mha_dtype dtype_;
  int64_t rows_, columns_, pitch_, offset_;
  std::vector<char> bytes_;
};

/// Dense elements, rounded from floats.
inline ElementRows element_rows(mha_dtype dtype, const std::vector<float>& floats) {
  return ElementRows(dtype, 1, static_cast<int64_t>(floats.size())).fill(floats);
}

/// Floats rounded to elements and widened again.
inline std::vector<float> through(mha_dtype dtype, const std::vector<float>& floats) {
  return element_rows(dtype, floats).floats();
}

/// Fails unless the elements have the bits of the floats, rounded once. One NaN is as good as another.
inline void check_rounded(const std::string& what, const ElementRows& got, const std::vector<float>& want) {
  const std::vector<uint32_t> bits = got.bits();
  REQUIRE(bits.size() == want.size());
  for (size_t n = 0; n < bits.size(); ++n) {
    const float element = got.dtype() == MHA_F32
                              ? float_of_bits(bits[n])
                              : float_of_bits(widen_one(got.dtype(), static_cast<uint16_t>(bits[n])));
    const uint32_t rounded = got.dtype() == MHA_F32 ? bits_of(want[n]) : round_one(got.dtype(), bits_of(want[n]));
    if (bits[n] == rounded || (element != element && want[n] != want[n])) continue;
    FAIL_CHECK(what << ": element " << n << " of " << bits.size() << " as " << name_of(got.dtype()) << " is " << element
                    << ", not " << want[n] << " rounded");
    return;
  }
  SUCCEED();
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_HALF_FLOATS_H
