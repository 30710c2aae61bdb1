// SPDX-License-Identifier: Apache-2.0
#include "core/reference/elements.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace mha::reference {
namespace {

// The numbers of the element types, from their bits.
struct F32 {
  using Bits = uint32_t;
  static float value(Bits bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  }
};

/// 1 sign, 5 exponent and 10 fraction bits: (-1)^s * 2^(e - 15) * (1 + f / 1024), denormals 2^-14 * f / 1024.
struct F16 {
  using Bits = uint16_t;
  static float value(Bits bits) {
    const float sign = bits >> 15 ? -1.0f : 1.0f;
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 31) {
      return fraction != 0 ? std::numeric_limits<float>::quiet_NaN() : sign * std::numeric_limits<float>::infinity();
    }
    const float units = static_cast<float>(exponent == 0 ? fraction : fraction + 1024);
    return sign * std::ldexp(units, (exponent == 0 ? 1 : exponent) - 25);
  }
};

/// The upper half of a float.
struct Bf16 {
  using Bits = uint16_t;
  static float value(Bits bits) { return F32::value(static_cast<uint32_t>(bits) << 16); }
};

template <class E>
float element_of(const void* data, int64_t index) {
  typename E::Bits bits;
  std::memcpy(&bits, static_cast<const typename E::Bits*>(data) + index, sizeof bits);
  return E::value(bits);
}

}  // namespace

float element_at(mha_dtype dtype, const void* data, int64_t index) {
  switch (dtype) {
#define MHA_ELEMENT(name, constant, type, bytes) \
  case constant:                                 \
    return element_of<type>(data, index);
#include "core/kernels/elements.def"
    default:
      return std::numeric_limits<float>::quiet_NaN();
  }
}

bool is_code(mha_dtype dtype) {
  switch (dtype) {
#define MHA_CODE(name, constant, number, type, units, bytes) case constant:
#include "core/kernels/elements.def"
    return true;
    default:
      return false;
  }
}

int64_t dense_code_row(mha_dtype dtype, int64_t width) {
  return dtype == MHA_I4 || dtype == MHA_U4 ? width + width % 2 : width;
}

namespace {

/// A code as an integer, and where scales are inside the rows its scale.
struct Code {
  int code;
  float scale;
};

Code code_at(mha_dtype dtype, const unsigned char* data, int64_t index) {
  const int nibble = data[index / 2] >> index % 2 * 4 & 15;
  const int64_t block = index / 32, in_block = index % 32;
  switch (dtype) {
    case MHA_I8:
      return {static_cast<signed char>(data[index]), 1};
    case MHA_U8:
      return {data[index], 1};
    case MHA_I4:
      return {nibble - 8, 1};
    case MHA_U4:
      return {nibble, 1};
    case MHA_Q8_0: {
      const unsigned char* at = data + block * 34;
      return {static_cast<signed char>(at[2 + in_block]), element_at(MHA_F16, at, 0)};
    }
    default: {  // MHA_Q4_0: the lower nibbles are the first 16
      const unsigned char* at = data + block * 18;
      return {(at[2 + in_block % 16] >> in_block / 16 * 4 & 15) - 8, element_at(MHA_F16, at, 0)};
    }
  }
}

float zero_at(mha_dtype dtype, const void* zeros, int64_t index) {
  if (dtype == MHA_I8) return static_cast<const signed char*>(zeros)[index];
  if (dtype == MHA_U8) return static_cast<const unsigned char*>(zeros)[index];
  return element_at(dtype, zeros, index);
}

}  // namespace

float code_value(const mha_view& view, int64_t offset, int64_t b, int64_t t, int64_t h, int64_t d) {
  const Code code = code_at(view.dtype, static_cast<const unsigned char*>(view.data), offset + d);
  if (view.quant == nullptr) return code.scale * static_cast<float>(code.code);
  const mha_quant& q = *view.quant;
  const int64_t tokens = q.group_tokens > 0 ? q.group_tokens : 1, group = q.group > 0 ? d / q.group : 0;
  const int64_t at = b * q.stride_b + t / tokens * q.stride_t + h * q.stride_h + group * q.stride_d;
  float zero = view.dtype == MHA_U8 ? 128.0f : view.dtype == MHA_U4 ? 8.0f : 0.0f;
  if (q.zeros != nullptr) zero = zero_at(q.zero_dtype, q.zeros, at);
  const float difference = static_cast<float>(code.code) - zero;
  const float scale = element_at(q.scale_dtype, q.scales, at);
  return (std::fpclassify(scale) == FP_SUBNORMAL ? std::copysign(0.0f, scale) : scale) * difference;
}

}  // namespace mha::reference
