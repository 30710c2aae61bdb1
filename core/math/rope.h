// SPDX-License-Identifier: Apache-2.0
// Rotary positions: frequencies, and the cosines and sines of a position.
#pragma once

#include "core/kernels/kernel_table.h"
#include "core/mha.h"

namespace mha {

constexpr int64_t kMaxRopeDims = 1024;                    // so that one row's angles fit on the stack
constexpr int64_t kMaxPosition = (int64_t{1} << 31) - 1;  // up to which sin_cos is accurate

// Computes the angles of one position after another, for a thread's run of tokens.
class RopeAngles {
 public:
  RopeAngles(const KernelTable& table, const mha_rope& rope);
  // Computes the angles of `position`, for NormRopeArgs to point to: dims / 2 cosines and sines, or dims of each if
  // pairs are interleaved: the cosine for both elements, and the sine as it multiplies the other element (-sin, sin).
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
