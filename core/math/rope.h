// SPDX-License-Identifier: Apache-2.0
// Rotary positions: frequencies, and the cosines and sines of a position.
#pragma once

#include "core/kernels/kernel_table.h"
#include "core/mha.h"

namespace mha {

constexpr int64_t kMaxRopeDims = 1024;                    // so that one row's angles fit on the stack
constexpr int64_t kMaxPosition = (int64_t{1} << 31) - 1;  // up to which sin_cos is accurate

// The angles of a position, one after the other: for a thread's run of tokens.
class RopeAngles {
 public:
  RopeAngles(const KernelTable& table, const mha_rope& rope);
  // Computes those of `position`, which NormRopeArgs then points to: dims / 2 of each, or where pairs are interleaved
  // dims of each: both elements' cosine, and the sine as it multiplies the other element (-sin, sin).
  void turn_to(int64_t position);
  const float* cosines() const { return cos_; }
  const float* sines() const { return sin_; }

 private:
  const KernelTable& table_;
  const mha_rope& rope_;
  double frequencies_[kMaxRopeDims / 2];
  float cos_[kMaxRopeDims], sin_[kMaxRopeDims];
};

}  // namespace mha
