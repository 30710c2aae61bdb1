// SPDX-License-Identifier: Apache-2.0
// Tensors as INT8 multiplies them: signed bytes with a scale for each row.
#ifndef MHA_TESTS_SUPPORT_ROW_CODES_H
#define MHA_TESTS_SUPPORT_ROW_CODES_H

#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/support/random_cases.h"

namespace mha::test {

/// Floats [b, t, h, d] as codes, dense, the scale of a row its greatest magnitude / 127. A row with a number that is none has
/// a NaN for a scale.
class RowCodes {
 public:
  RowCodes() = default;
  RowCodes(const std::vector<float>& values, const Extent& extent) : extent_(extent) {
    for (size_t row = 0; row < values.size(); row += static_cast<size_t>(extent.d)) {
      const float* x = values.data() + row;
      float most = 0;
      bool finite = true;
      for (int64_t d = 0; d < extent.d; ++d) most = std::max(most, std::abs(x[d])), finite &= std::isfinite(x[d]);
      scales_.push_back(finite ? most / 127 : kNan);
      for (int64_t d = 0; d < extent.d; ++d) {
        const float code = finite && scales_.back() > 0 ? x[d] * (1 / scales_.back()) : 0;
        codes_.push_back(static_cast<int8_t>(std::max(-127.0f, std::min(127.0f, std::nearbyint(code)))));
      }
    }
  }

  /// Scales may be negative.
  void negate_some(Random& random) {
    for (float& scale : scales_)
      if (one_in(random, 3)) scale = -scale;
  }

  void set_scale(size_t row, float scale) { scales_[row] = scale; }

  /// Valid as long as this is, where it is.
  mha_view view() const {
    quant_ = {};
    quant_.scales = scales_.data(), quant_.stride_h = 1, quant_.stride_t = extent_.h;
    quant_.stride_b = extent_.h * extent_.t;
    mha_view view = {};
    view.data = codes_.data(), view.dtype = MHA_I8, view.quant = &quant_;
    view.stride_h = extent_.d, view.stride_t = extent_.h * extent_.d, view.stride_b = extent_.t * view.stride_t;
    return view;
  }
  std::vector<float> widened() const {
    std::vector<float> all;
    for (size_t n = 0; n < codes_.size(); ++n) {
      all.push_back(scales_[n / static_cast<size_t>(extent_.d)] * static_cast<float>(codes_[n]));
    }
    return all;
  }
  const std::vector<int8_t>& codes() const { return codes_; }
  const std::vector<float>& scales() const { return scales_; }

 private:
  Extent extent_ = {};
  std::vector<int8_t> codes_;
  std::vector<float> scales_;
  mutable mha_quant quant_ = {};
};

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_ROW_CODES_H
