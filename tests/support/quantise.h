// SPDX-License-Identifier: Apache-2.0
// Rows rounded to codes, by a formula of the tests' own, one element at a time; storages drawn at random.
#ifndef MHA_TESTS_SUPPORT_QUANTISE_H
#define MHA_TESTS_SUPPORT_QUANTISE_H

#include <cmath>
#include <memory>

#include "tests/support/dtypes.h"
#include "tests/support/random_cases.h"

namespace mha::test {

/// A row's Walsh-Hadamard rotation as mha_storage states it, float by float; denormals count as 0.
inline std::vector<float> hadamard_row(const float* row, int64_t width) {
  const auto flushed = [](float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; };
  std::vector<float> x(row, row + width);
  for (float& value : x) value = flushed(value);
  int64_t n = 1;
  while (width % (2 * n) == 0) n *= 2;
  for (int64_t distance = 1; distance < n; distance *= 2) {
    for (int64_t i = 0; i < width; ++i) {
      if (i / distance % 2 != 0) continue;
      float &a = x[static_cast<size_t>(i)], &b = x[static_cast<size_t>(i + distance)];
      const float sum = flushed(a + b), difference = flushed(a - b);
      a = sum, b = difference;
    }
  }
  const float factor = static_cast<float>(1 / std::sqrt(static_cast<double>(n)));
  for (float& value : x) value = flushed(value * factor);
  return x;
}

/// The same of dense rows.
inline std::vector<float> hadamard_rows(const std::vector<float>& rows, int64_t width) {
  std::vector<float> all;
  for (size_t at = 0; at + static_cast<size_t>(width) <= rows.size(); at += static_cast<size_t>(width)) {
    const std::vector<float> row = hadamard_row(rows.data() + at, width);
    all.insert(all.end(), row.begin(), row.end());
  }
  return all;
}

/// What is stored of a row, and what that stands for.
struct QuantisedRow {
  std::vector<int> codes, zeros;     // a zero a group, or none
  std::vector<uint32_t> scale_bits;  // a scale a group; none where they are fixed
  std::vector<float> values;
};

/// How rows of some heads are stored as codes; may have fixed scales, which are its own.
class CodeStorage {
 public:
  mha_dtype dtype = MHA_I8, scale_dtype = MHA_F32;
  int64_t heads = 1, width = 1, group = 0;
  bool zero_points = false, fixed = false;
  bool hadamard = false;  // rows are rotated before

  CodeStorage(mha_dtype type, int64_t num_heads, int64_t row) : dtype(type), heads(num_heads), width(row) {}
  CodeStorage(Random& random, int64_t num_heads, int64_t row) : heads(num_heads), width(row) {
    dtype = one_of(random, {MHA_I8, MHA_U8, MHA_I4, MHA_U4});
    scale_dtype = random_dtype(random);
    fixed = one_in(random, 4);
    group = fixed ? one_of<int64_t>(random, {0, 1, 5, 16, 64}) : one_of<int64_t>(random, {0, 0, 16, 32, 64, 128});
    zero_points = one_in(random, 2);
    if (fixed) draw_fixed(random);
  }

  /// Now and then on, where rows can be rotated.
  void draw_hadamard(Random& random) { hadamard = one_in(random, 2) && width % 16 == 0; }

  bool nibbles() const { return dtype == MHA_I4 || dtype == MHA_U4; }
  bool is_signed() const { return dtype == MHA_I8 || dtype == MHA_I4; }
  int least() const { return dtype == MHA_I8 ? -128 : dtype == MHA_I4 ? -8 : 0; }
  int greatest() const { return least() + (nibbles() ? 15 : 255); }
  float own_zero() const { return dtype == MHA_U8 ? 128.0f : dtype == MHA_U4 ? 8.0f : 0.0f; }
  int64_t row_bytes() const { return nibbles() ? (width + 1) / 2 : width; }
  int64_t groups() const { return group > 0 ? (width + group - 1) / group : 1; }
  /// Of the scales and zeros that are stored with a row.
  int64_t scale_bytes() const { return fixed ? 0 : groups() * element_bytes(scale_dtype); }
  int64_t zero_bytes() const { return fixed || !zero_points ? 0 : groups(); }

  /// Valid as long as this is.
  mha_storage storage() const {
    mha_storage s = {};
    s.dtype = dtype;
    if (!fixed) {
      s.scale_dtype = scale_dtype, s.group = group, s.zero_points = zero_points, s.hadamard = hadamard;
      return s;
    }
    quant_ = {};
    quant_.scales = scales_.data(), quant_.scale_dtype = scale_dtype, quant_.group = group;
    quant_.stride_h = stride_h_, quant_.stride_d = stride_d_, quant_.hadamard = hadamard;
    if (zero_points) quant_.zeros = zeros_.data(), quant_.zero_dtype = zeros_.dtype();
    if (zero_points && zero_dtype_ >= MHA_I8) quant_.zeros = zero_bytes_.data(), quant_.zero_dtype = zero_dtype_;
    s.fixed = &quant_;
    return s;
  }
  std::string describe() const {
    std::ostringstream text;
    text << dtype_name(dtype) << " " << dtype_name(scale_dtype) << " groups of " << group << (fixed ? " fixed" : "")
         << (zero_points ? " zeros" : "") << (hadamard ? " rotated" : "");
    return text.str();
  }

  /// Of rows that are rotated: what is stored of the rotated row, and what that stands for, rotated.
  QuantisedRow round(const float* given, int64_t head) const {
    QuantisedRow r;
    const std::vector<float> rotated = hadamard ? hadamard_row(given, width) : std::vector<float>(given, given + width);
    const float* row = rotated.data();
    for (int64_t begin = 0; begin<width; begin += group> 0 ? group : width) {
      const int64_t end = std::min(width, group > 0 ? begin + group : width);
      if (fixed) {
        round_fixed(row, head, begin, end, &r);
      } else {
        round_group(row, begin, end, &r);
      }
    }
    return r;
  }
  /// The values that dense rows [.., heads, width] are stored as, rotated back.
  std::vector<float> round_all(const std::vector<float>& rows) const {
    std::vector<float> values;
    for (size_t at = 0, n = 0; at + static_cast<size_t>(width) <= rows.size(); at += static_cast<size_t>(width), ++n) {
      QuantisedRow r = round(rows.data() + at, static_cast<int64_t>(n) % heads);
      if (hadamard) r.values = hadamard_row(r.values.data(), width);
      values.insert(values.end(), r.values.begin(), r.values.end());
    }
    return values;
  }
  /// The bytes of a row of codes.
  std::vector<unsigned char> encode(const std::vector<int>& codes) const {
    std::vector<unsigned char> bytes(static_cast<size_t>(row_bytes()));
    for (size_t n = 0; n < bytes.size(); ++n) {
      if (!nibbles()) {
        bytes[n] = static_cast<unsigned char>(codes[n]);
        continue;
      }
      const int low = codes[2 * n] - least();
      const int high = 2 * n + 1 < codes.size() ? codes[2 * n + 1] - least() : 0;
      bytes[n] = static_cast<unsigned char>(low | high << 4);
    }
    return bytes;
  }

 private:
  static float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

  void draw_fixed(Random& random) {
    std::vector<float> scales, zeros;
    stride_d_ = group > 0 && one_in(random, 4) ? 2 : 1;
    stride_h_ = one_in(random, 5) ? 0 : groups() * stride_d_ + random.below(3);
    if (group == 0) stride_d_ = 0;
    zero_dtype_ = one_of(random, {MHA_F32, MHA_F16, MHA_I8, MHA_U8});
    for (int64_t n = 0; n < heads * (groups() * 2 + 3); ++n) {
      const float scale = (0.3f + random.uniform() * 0.2f) * (nibbles() ? 0.3f : 0.02f);
      scales.push_back(one_in(random, 60) ? one_of(random, {0.0f, 1e-40f, 3e38f, kInf, kNan, -scale}) : scale);
      const int64_t zero = zero_dtype_ == MHA_U8 ? random.below(200) : random.below(200) - 100;
      const bool whole = zero_dtype_ == MHA_I8 || zero_dtype_ == MHA_U8 || !one_in(random, 3);
      zeros.push_back(static_cast<float>(nibbles() ? zero / 16 : zero) + (whole ? 0.0f : 0.375f));
      zero_bytes_.push_back(static_cast<unsigned char>(nibbles() ? zero / 16 : zero));
    }
    scales_ = Elements(scale_dtype, scales);
    zeros_ = Elements(zero_dtype_ == MHA_F16 ? MHA_F16 : MHA_F32, zeros);
  }

  static float value_of(float scale, int code, float zero) {
    return flushed(flushed(scale) * (static_cast<float>(code) - zero));
  }
  /// To even; then a zero is added and the code kept in range.
  int code_of(float x, float inverse, float zero) const {
    const float whole = std::nearbyint(zero), fraction = zero - whole;
    float number = flushed(x) * inverse;
    if (std::isnan(number)) number = 0;
    const float moved = number + fraction;
    const double code =
        std::nearbyint(static_cast<double>(std::min(std::max(moved, -1e6f), 1e6f))) + static_cast<double>(whole);
    return static_cast<int>(std::min<double>(std::max<double>(code, least()), greatest()));
  }

  void round_group(const float* row, int64_t begin, int64_t end, QuantisedRow* r) const {
    float low = 0, high = 0;
    bool finite = true;
    for (int64_t d = begin; d < end; ++d) {
      const float x = flushed(row[d]);
      finite = finite && std::isfinite(x);
      low = std::min(low, x), high = std::max(high, x);
    }
    float scale = 0, sign = 1;
    if (zero_points) {
      const float steps = nibbles() ? 15.0f : 255.0f;
      scale = (flushed(high * 0.5f) - flushed(low * 0.5f)) / (steps * 0.5f);
    } else {
      scale = std::max(high, -low) / (nibbles() ? 8.0f : 127.0f);
      if (nibbles() && high >= -low) sign = -1;
    }
    const float smallest = scale_dtype == MHA_F16 ? 0x1p-24f : 0x1p-126f;
    if (high > 0 || low < 0) scale = std::max(scale, smallest);
    uint32_t bits = stored_bits(scale_dtype, sign * scale);
    if (high == 0 && low == 0) bits = 0;
    if (!finite || !std::isfinite(widened(scale_dtype, bits)))
      bits = scale_dtype == MHA_F16 ? 0x7e00u : scale_dtype == MHA_BF16 ? 0x7fc0u : 0x7fc00000u;
    const float stored = widened(scale_dtype, bits);
    const bool usable = std::isfinite(stored) && stored != 0;
    const float inverse = usable ? 1 / stored : 0;
    float zero = own_zero();
    if (zero_points) {
      const float steps = nibbles() ? 15.0f : 255.0f;
      const float below = std::min(std::nearbyint(-low * inverse), steps);
      zero = static_cast<float>(least()) + (usable ? below : 0.0f);
      r->zeros.push_back(static_cast<int>(zero));
    }
    r->scale_bits.push_back(bits);
    for (int64_t d = begin; d < end; ++d) {
      r->codes.push_back(usable ? code_of(row[d], inverse, zero) : static_cast<int>(zero));
      r->values.push_back(value_of(stored, r->codes.back(), zero));
    }
  }

  void round_fixed(const float* row, int64_t head, int64_t begin, int64_t end, QuantisedRow* r) const {
    const int64_t n = head * stride_h_ + (group > 0 ? begin / group : 0) * stride_d_;
    const float scale = flushed(widened(scale_dtype, scales_.bits(n)));
    const bool usable = !std::isnan(scale) && scale != 0;
    const float inverse = usable ? flushed(1 / scale) : 0;
    const float zero = zero_points ? zero_at(n) : own_zero();
    for (int64_t d = begin; d < end; ++d) {
      r->codes.push_back(code_of(row[d], inverse, zero));
      r->values.push_back(value_of(scale, r->codes.back(), zero));
    }
  }
  float zero_at(int64_t n) const {
    if (zero_dtype_ == MHA_I8) return static_cast<float>(static_cast<int8_t>(zero_bytes_[static_cast<size_t>(n)]));
    if (zero_dtype_ == MHA_U8) return static_cast<float>(zero_bytes_[static_cast<size_t>(n)]);
    return widened(zeros_.dtype(), zeros_.bits(n));
  }

  mutable mha_quant quant_ = {};
  Elements scales_, zeros_;
  std::vector<unsigned char> zero_bytes_;
  mha_dtype zero_dtype_ = MHA_F32;
  int64_t stride_h_ = 0, stride_d_ = 0;
};

/// Floats with rows of all kinds: ordinary, of one sign, zeros, tiny, denormal, huge, with ties, not finite.
inline std::vector<float> rows_of_all_kinds(Random& random, int64_t rows, int64_t width) {
  std::vector<float> all;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t kind = random.below(12);
    const float size = kind == 1 ? 1e-30f : kind == 2 ? 1e-38f : kind == 3 ? 3e38f : kind == 4 ? 1e-4f : 3.0f;
    for (int64_t d = 0; d < width; ++d) {
      float x = random.uniform() * size;
      if (kind == 5) x = std::fabs(x);
      if (kind == 6) x = -std::fabs(x);
      if (kind == 7) x = 0;
      if (kind == 8) x = static_cast<float>(random.below(255) - 127) * 0.5f;  // many halves
      if (kind == 9) x = 1e-39f * x;
      all.push_back(x);
    }
    if (kind == 8 && width > 0) all.back() = 63.5f;  // 8 bits: a scale of 0.5, or a step of 0.25
    if (kind == 10 && one_in(random, 2))
      all[all.size() - 1 - static_cast<size_t>(random.below(width))] = one_of(random, {kNan, kInf, -kInf});
  }
  return all;
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_QUANTISE_H
