// SPDX-License-Identifier: Apache-2.0
// Binary search.
#pragma once

#include <cstdint>

namespace mha {

// The first n in [low, high) for which holds(n) is false, or high if there is none. holds must be true before that n
// and false from it on.
template <class Holds>
int64_t partition_point(int64_t low, int64_t high, Holds holds) {
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (holds(middle)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// The part n that x is in: offsets[n] <= x < offsets[n + 1]. Empty parts are skipped. x must be >= offsets[0].
inline int64_t part_at(const int64_t* offsets, int64_t count, int64_t x) {
  return partition_point(1, count, [&](int64_t n) { return offsets[n] <= x; }) - 1;
}

}  // namespace mha
