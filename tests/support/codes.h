// SPDX-License-Identifier: Apache-2.0
// Random tensors of codes with their scales in any layout, and the floats that they stand for, by a formula of the tests'
// own.
#ifndef MHA_TESTS_SUPPORT_CODES_H
#define MHA_TESTS_SUPPORT_CODES_H

#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/dtypes.h"
#include "tests/support/random_cases.h"

namespace mha::test {

/// What a code stands for: scale * number, the number being the code less its zero.
struct CodeParts {
  float number, scale;
  float value() const { return scale * number; }
};

struct CodeType {
  mha_dtype dtype;
  int64_t units, bytes;  // so many elements take so many bytes
  const char* name;
  bool scales_inside() const { return units == 32; }
};
inline constexpr CodeType kCodeTypes[] = {
#define MHA_CODE(name, dtype, number, Type, units, bytes) {dtype, units, bytes, #dtype},
#include "core/kernels/elements.def"
};

/// Codes [b, t, h, d].
class CodeTensor {
 public:
  CodeTensor(Random& random, const CodeType& type, const Extent& extent) : type_(type), extent_(extent) {
    draw_codes(random);
    if (!type.scales_inside()) draw_scales(random);
    for (int64_t b = 0; b < extent.b; ++b)
      for (int64_t t = 0; t < extent.t; ++t)
        for (int64_t h = 0; h < extent.h; ++h)
          for (int64_t d = 0; d < extent.d; ++d) {
            parts_.push_back(parts_at(b, t, h, d));
            wide_.push_back(parts_.back().value());
          }
  }
  CodeTensor(const CodeTensor&) = delete;
  CodeTensor& operator=(const CodeTensor&) = delete;

  /// A type whose rows may be so wide.
  static const CodeType& draw_type(Random& random, int64_t width) {
    for (;;) {
      const CodeType& type = kCodeTypes[random.below(static_cast<int64_t>(std::size(kCodeTypes)))];
      if (!type.scales_inside() || width % type.units == 0) return type;
    }
  }

  mha_view view() const {
    mha_view view = {};
    view.data = codes_.data(), view.dtype = type_.dtype;
    if (!dense_) view.stride_b = strides_.b, view.stride_t = strides_.t, view.stride_h = strides_.h;
    if (!type_.scales_inside()) view.quant = &quant_;
    return view;
  }
  /// From now on the codes are those of rows that were rotated; what they stand for stays as it is.
  void rotated() { quant_.hadamard = 1; }
  bool can_be_rotated() const { return !type_.scales_inside() && extent_.d % 16 == 0; }
  /// The same values as dense floats.
  mha_view wide_view() const { return mha::view(wide_.data()); }
  const std::vector<float>& widened() const { return wide_; }
  const std::vector<CodeParts>& parts() const { return parts_; }
  /// Elements of a row that share a scale; 0: all.
  int64_t group() const { return type_.scales_inside() ? type_.units : quant_.group; }
  /// Zeros that may have a fraction.
  bool has_float_zeros() const { return zero_floats_.count() > 0; }
  std::string describe() const {
    std::ostringstream text;
    text << type_.name << (dense_ ? " dense" : "");
    if (!type_.scales_inside()) {
      text << " group " << quant_.group << " tokens " << quant_.group_tokens << " scales "
           << dtype_name(quant_.scale_dtype) << " at " << quant_.stride_b << " " << quant_.stride_t << " "
           << quant_.stride_h << " " << quant_.stride_d << (quant_.zeros != nullptr ? " zeros" : "");
    }
    return text.str();
  }

 private:
  void draw_codes(Random& random) {
    const int64_t row = (extent_.d + type_.units - 1) / type_.units * type_.units;
    const int64_t pad = one_of<int64_t>(random, {0, 0, 1, 3}) * type_.units;
    const Extent padded = {extent_.b, extent_.t, extent_.h, row};
    dense_ = pad == 0 && one_in(random, 2);
    strides_ = dense_ || one_in(random, 2) ? padded_bthd(padded, pad) : dense_bhtd(padded);
    const int64_t end =
        (extent_.b - 1) * strides_.b + (extent_.t - 1) * strides_.t + (extent_.h - 1) * strides_.h + row;
    codes_.resize(static_cast<size_t>(std::max<int64_t>(end, row) / type_.units * type_.bytes));
    for (unsigned char& byte : codes_) byte = static_cast<unsigned char>(random.bits() >> 30);
    if (!type_.scales_inside()) return;
    for (size_t block = 0; block < codes_.size(); block += static_cast<size_t>(type_.bytes)) {
      const uint16_t scale = round_to_f16_bits(bits_of(draw_scale(random)));
      std::memcpy(codes_.data() + block, &scale, sizeof scale);
    }
  }
  /// Now and then negative, 0, so small that products are denormal, huge, or not finite.
  static float draw_scale(Random& random) {
    if (!one_in(random, 200)) return (0.5f + random.uniform() * 0.4f) * 0.02f * (one_in(random, 10) ? -1.0f : 1.0f);
    return one_of(random, {0.0f, -0.0f, 1e-38f, 3e-44f, 1e30f, 3e38f, kInf, kNan});
  }
  void draw_scales(Random& random) {
    quant_.group = one_of<int64_t>(random, {0, 0, 0, 1, 5, 16, 32, 64, 128, 500});
    quant_.group_tokens = one_of<int64_t>(random, {0, 1, 3});
    const int64_t groups = quant_.group > 0 ? (extent_.d + quant_.group - 1) / quant_.group : 1;
    const int64_t tokens = std::max<int64_t>(quant_.group_tokens, 1);
    const Extent places = {std::max<int64_t>(extent_.b, 1), (std::max<int64_t>(extent_.t, 1) + tokens - 1) / tokens,
                           std::max<int64_t>(extent_.h, 1), groups};
    int64_t count = 1;  // each stride steps over all that the dimensions before it span, or repeats
    const auto stride = [&](int64_t size, bool repeats) -> int64_t {
      if (repeats) return 0;
      const int64_t step = count;
      count *= size;
      return step;
    };
    if (quant_.group > 0) quant_.stride_d = stride(places.d, one_in(random, 6));
    const bool by_head_first = one_in(random, 2);
    if (by_head_first) quant_.stride_h = stride(places.h, one_in(random, 4));
    quant_.stride_t = stride(places.t, one_in(random, 4));
    if (!by_head_first) quant_.stride_h = stride(places.h, one_in(random, 4));
    quant_.stride_b = stride(places.b, one_in(random, 4));
    std::vector<float> scales;
    for (int64_t n = 0; n < count; ++n) scales.push_back(draw_scale(random));
    scales_ = Elements(random_dtype(random), scales);
    quant_.scales = scales_.data(), quant_.scale_dtype = scales_.dtype();
    if (one_in(random, 2)) return;
    quant_.zero_dtype = one_of(random, {MHA_F32, MHA_F16, MHA_I8, MHA_U8});
    const bool near = one_in(random, 2);  // among the codes of 4 bits; others may be far from all codes
    for (int64_t n = 0; n < count; ++n) {
      const int64_t zero = near ? random.below(16) : random.below(256) - (quant_.zero_dtype == MHA_U8 ? 0 : 128);
      const bool is_float = quant_.zero_dtype == MHA_F32 || quant_.zero_dtype == MHA_F16;
      zeros_.push_back(static_cast<float>(zero) + (is_float && one_in(random, 3) ? 0.375f : 0.0f));
      zero_bytes_.push_back(static_cast<unsigned char>(zero));
    }
    if (quant_.zero_dtype == MHA_F32 || quant_.zero_dtype == MHA_F16) {
      zero_floats_ = Elements(quant_.zero_dtype, zeros_);
      zeros_ = zero_floats_.widened();
    }
    quant_.zeros = zero_floats_.count() > 0 ? zero_floats_.data() : zero_bytes_.data();
  }

  /// The code as the format stores it: with 8 added in the signed types of 4 bits.
  int stored_code(int64_t element) const {
    const int64_t block = element / type_.units, in_block = element % type_.units;
    const unsigned char* at = codes_.data() + block * type_.bytes + (type_.scales_inside() ? 2 : 0);
    switch (type_.dtype) {
      case MHA_I4:
      case MHA_U4:
        return in_block == 0 ? at[0] & 15 : at[0] >> 4;
      case MHA_Q4_0:
        return in_block < 16 ? at[in_block] & 15 : at[in_block - 16] >> 4;
      default:
        return at[in_block];
    }
  }
  CodeParts parts_at(int64_t b, int64_t t, int64_t h, int64_t d) const {
    const int64_t element = b * strides_.b + t * strides_.t + h * strides_.h + d;
    int code = stored_code(element);
    if (type_.dtype == MHA_I8 || type_.dtype == MHA_Q8_0) code = code > 127 ? code - 256 : code;
    if (type_.dtype == MHA_I4 || type_.dtype == MHA_Q4_0) code -= 8;
    if (type_.scales_inside()) {
      uint16_t scale;
      std::memcpy(&scale, codes_.data() + element / type_.units * type_.bytes, sizeof scale);
      return {static_cast<float>(code), mha::test::widened(MHA_F16, scale)};
    }
    const int64_t tokens = std::max<int64_t>(quant_.group_tokens, 1), group = quant_.group > 0 ? d / quant_.group : 0;
    const int64_t n =
        b * quant_.stride_b + t / tokens * quant_.stride_t + h * quant_.stride_h + group * quant_.stride_d;
    float zero = type_.dtype == MHA_U8 ? 128.0f : type_.dtype == MHA_U4 ? 8.0f : 0.0f;
    if (!zeros_.empty()) zero = zeros_[static_cast<size_t>(n)];
    const float difference = static_cast<float>(code) - zero;
    const float scale = mha::test::widened(scales_.dtype(), scales_.bits(n));
    const bool denormal = (bits_of(scale) & 0x7fffffffu) < 0x800000u;  // counts as 0
    return {difference, denormal ? float_of_bits(bits_of(scale) & 0x80000000u) : scale};
  }

  CodeType type_;
  Extent extent_;
  bool dense_ = false;
  Strides strides_ = {};
  mha_quant quant_ = {};
  std::vector<unsigned char> codes_, zero_bytes_;
  Elements scales_, zero_floats_;
  std::vector<float> zeros_, wide_;
  std::vector<CodeParts> parts_;
};

/// A tensor of codes, or null: the one of floats stays.
inline std::unique_ptr<CodeTensor> draw_codes_for(Random& random, const Extent& extent) {
  if (extent.count() == 0 || one_in(random, 5)) return nullptr;
  return std::make_unique<CodeTensor>(random, CodeTensor::draw_type(random, extent.d), extent);
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_CODES_H
