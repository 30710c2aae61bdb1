// SPDX-License-Identifier: Apache-2.0
// Binary search.
#pragma once

#include <cstdint>

namespace mha {

// The first n of [low, high) of which holds(n) is false; high: none. It is true of all before, false from there on.
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

// The part that x is in: offsets[n] <= x < offsets[n + 1]. Empty parts are passed over; offsets[0] <= x.
inline int64_t part_at(const int64_t* offsets, int64_t count, int64_t x) {
  return partition_point(1, count, [&](int64_t n) { return offsets[n] <= x; }) - 1;
}

}  // namespace mha
