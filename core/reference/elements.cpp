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
#undef MHA_ELEMENT
    default:
      return std::numeric_limits<float>::quiet_NaN();
  }
}

}  // namespace mha::reference
