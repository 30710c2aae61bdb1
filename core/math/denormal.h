// SPDX-License-Identifier: Apache-2.0
// Finds denormal arguments by their bits: inside a call every comparison and conversion treats them as zero
// (float_mode.h).
#pragma once

#include <cstdint>
#include <cstring>

namespace mha {

inline bool is_denormal(float x) {
  uint32_t bits = 0;
  memcpy(&bits, &x, sizeof(bits));
  return (bits & 0x7f800000u) == 0 && (bits & 0x007fffffu) != 0;
}

inline bool is_denormal(double x) {
  uint64_t bits = 0;
  memcpy(&bits, &x, sizeof(bits));
  return (bits & 0x7ff0000000000000u) == 0 && (bits & 0x000fffffffffffffu) != 0;
}

// The value for messages; a plain conversion of a denormal would give 0.
inline double exact_value(float x) {
  if (!is_denormal(x)) return static_cast<double>(x);
  uint32_t bits = 0;
  memcpy(&bits, &x, sizeof(bits));
  const double size = static_cast<double>(bits & 0x007fffffu) * 0x1p-149;
  return bits >> 31 != 0 ? -size : size;
}

}  // namespace mha
