// SPDX-License-Identifier: Apache-2.0
// Numbers of very different size.
#ifndef MHA_TESTS_SUPPORT_NUMBERS_H
#define MHA_TESTS_SUPPORT_NUMBERS_H

#include <cmath>
#include <vector>

#include "tests/support/random_cases.h"

namespace mha::test {

/// Each row times a power of two of its own, 2^-20 to 2^20.
inline void scale_rows(Random& random, std::vector<float>* values, int64_t width) {
  for (size_t n = 0; n < values->size();) {
    const float factor = std::ldexp(1.0f, static_cast<int>(random.below(41)) - 20);
    for (int64_t d = 0; d < width; ++d) (*values)[n++] *= factor;
  }
}

inline void scale_all(std::vector<float>* values, float factor) {
  for (float& value : *values) value *= factor;
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_NUMBERS_H
