// SPDX-License-Identifier: Apache-2.0
// Keys or values that are codes: any type, strides and layout of scales, chosen by the input; and what they are compared
// with: the floats that they stand for, number by number, or for INT8 their codes and scales row by row. All are exact
// heap blocks.
#ifndef MHA_TOOLS_FUZZ_CODE_TENSOR_H
#define MHA_TOOLS_FUZZ_CODE_TENSOR_H

#include <algorithm>
#include <random>

#include "tools/fuzz/elements.h"

namespace mha::fuzz {

class CodeTensor {
 public:
  // Codes [sizes[0], sizes[1], sizes[2], width]; int8: such as INT8 multiplies, a scale for each row or more, no zeros.
  CodeTensor(FuzzedDataProvider& input, std::mt19937& random, const std::int64_t (&sizes)[3], std::int64_t width,
             bool int8)
      : n_{sizes[0], sizes[1], sizes[2]}, width_(width), int8_(int8) {
    struct Type {
      mha_dtype dtype;
      std::int64_t units, bytes;
    };
    constexpr Type kTypes[] = {
#define MHA_CODE(name, dtype, number, type, units, bytes) {dtype, units, bytes},
#include "core/kernels/elements.def"
    };
    const Type* type = &kTypes[input.ConsumeIntegralInRange<std::size_t>(0, std::size(kTypes) - 1)];
    if (int8 || (width % type->units != 0 && type->units == 32)) type = &kTypes[0];
    dtype_ = type->dtype, units_ = type->units, bytes_ = type->bytes;
    choose_strides(input);
    for (std::size_t i = 0; i < codes_.size(); ++i) codes_[i] = static_cast<std::uint8_t>(random());
    if (scales_inside()) {
      for (std::size_t block = 0; block < codes_.size(); block += static_cast<std::size_t>(bytes_)) {
        const std::uint16_t scale = rounded_to_f16(draw_scale(random));
        std::memcpy(codes_.data() + block, &scale, sizeof scale);
      }
    } else {
      choose_scales(input, random);
    }
    make_plain();
  }

  bool scales_inside() const { return units_ == 32; }
  // quant: what the view points to; it is written.
  mha_view view(mha_quant& quant, bool hadamard) const {
    mha_view view{};
    view.data = codes_.data(), view.dtype = dtype_;
    view.stride_b = stride_[0], view.stride_t = stride_[1], view.stride_h = stride_[2];
    if (scales_inside()) return view;
    quant = quant_;
    quant.hadamard = hadamard ? 1 : 0;
    view.quant = &quant;
    return view;
  }
  // What it is compared with, dense, from item or page `b` on. quant: what the view may point to; it is written.
  mha_view plain_view(mha_quant& quant, std::int64_t b) const {
    const std::int64_t rows = n_[1] * n_[2];
    if (!int8_) return mha::view<float>(wide_.data() + b * rows * width_);
    quant = {};
    quant.scales = row_scales_.data() + b * rows;
    quant.stride_b = rows, quant.stride_t = n_[2], quant.stride_h = 1;
    mha_view view{};
    view.data = row_codes_.data() + b * rows * width_, view.dtype = MHA_I8, view.quant = &quant;
    return view;
  }

 private:
  void make_plain() {
    const std::int64_t rows = n_[0] * n_[1] * n_[2];
    if (int8_) {
      row_codes_ = Buffer<std::int8_t>(rows * width_), row_scales_ = Buffer<float>(rows);
    } else {
      wide_ = Buffer<float>(rows * width_);
    }
    for (std::int64_t n = 0; n < rows * width_; ++n) {
      const auto at = static_cast<std::size_t>(n), row = at / static_cast<std::size_t>(width_);
      const std::int64_t r = n / width_, b = r / n_[2] / n_[1], t = r / n_[2] % n_[1], h = r % n_[2], d = n % width_;
      if (!int8_) {
        wide_[at] = value(b, t, h, d);
        continue;
      }
      row_codes_[at] = static_cast<std::int8_t>(codes_[static_cast<std::size_t>(offset(b, t, h) + d)]);
      row_scales_[row] = scales_.get(scale_place(b, t, h, 0));
    }
  }
  static float draw_scale(std::mt19937& random) {
    if (random() % 64 != 0) return (static_cast<float>(random() % 1000) - 200) * 2e-5F;
    constexpr float kOdd[] = {0.0F, 3e-44F, 1e-35F, 3e38F, HUGE_VALF};
    return kOdd[random() % std::size(kOdd)];
  }

  // Rows of whole bytes or blocks, tokens and heads in either order, with gaps.
  void choose_strides(FuzzedDataProvider& input) {
    const std::int64_t row = (width_ + units_ - 1) / units_ * units_;
    std::int64_t next = row + units_ * input.ConsumeIntegralInRange<int>(0, 2);
    const bool heads_first = input.ConsumeBool();
    for (const int dimension : {heads_first ? 1 : 2, heads_first ? 2 : 1, 0}) {
      stride_[dimension] = next;
      next = next * std::max<std::int64_t>(n_[dimension], 1) + units_ * input.ConsumeIntegralInRange<int>(0, 1);
    }
    const bool empty = n_[0] == 0 || n_[1] == 0 || n_[2] == 0;
    const std::int64_t end = empty ? 0 : offset(n_[0] - 1, n_[1] - 1, n_[2] - 1) + row;
    codes_ = Buffer<std::uint8_t>(end / units_ * bytes_);
  }

  void choose_scales(FuzzedDataProvider& input, std::mt19937& random) {
    constexpr std::int64_t kGroups[] = {0, 0, 1, 5, 16, 32, 64};
    quant_.group = kGroups[input.ConsumeIntegralInRange<std::size_t>(0, std::size(kGroups) - 1)];
    if (int8_ && quant_.group > 0) quant_.group += width_ - 1;
    quant_.group_tokens = input.ConsumeIntegralInRange<int>(0, 3);
    const std::int64_t tokens = std::max<std::int64_t>(quant_.group_tokens, 1);
    std::int64_t count = 1;
    const auto stride = [&](std::int64_t size) {
      if (input.ConsumeIntegralInRange<int>(0, 3) == 0) return std::int64_t{0};
      const std::int64_t step = count;
      count *= std::max<std::int64_t>(size, 1);
      return step;
    };
    if (quant_.group > 0) quant_.stride_d = stride((width_ + quant_.group - 1) / quant_.group);
    quant_.stride_h = stride(n_[2]);
    quant_.stride_t = stride((n_[1] + tokens - 1) / tokens);
    quant_.stride_b = stride(n_[0]);
    const Buffer<float> drawn(count);
    for (std::size_t i = 0; i < drawn.size(); ++i) drawn[i] = draw_scale(random);
    quant_.scale_dtype = choose_dtype(input);
    scales_ = Elements(quant_.scale_dtype, drawn.data(), drawn.size());
    quant_.scales = scales_.data();
    if (int8_ || input.ConsumeBool()) return;
    constexpr mha_dtype kZeros[] = {MHA_F32, MHA_F16, MHA_I8, MHA_U8};
    quant_.zero_dtype = kZeros[input.ConsumeIntegralInRange<std::size_t>(0, std::size(kZeros) - 1)];
    for (std::size_t i = 0; i < drawn.size(); ++i) drawn[i] = static_cast<float>(random() % 200) * 0.25F;
    if (quant_.zero_dtype == MHA_F32 || quant_.zero_dtype == MHA_F16) {
      zeros_ = Elements(quant_.zero_dtype, drawn.data(), drawn.size());
      quant_.zeros = zeros_.data();
    } else {
      zero_bytes_ = Buffer<std::uint8_t>(count);
      for (std::size_t i = 0; i < drawn.size(); ++i) zero_bytes_[i] = static_cast<std::uint8_t>(random());
      quant_.zeros = zero_bytes_.data();
    }
  }

  std::int64_t offset(std::int64_t b, std::int64_t t, std::int64_t h) const {
    return b * stride_[0] + t * stride_[1] + h * stride_[2];
  }
  std::size_t scale_place(std::int64_t b, std::int64_t t, std::int64_t h, std::int64_t d) const {
    const std::int64_t tokens = std::max<std::int64_t>(quant_.group_tokens, 1);
    const std::int64_t group = quant_.group > 0 ? d / quant_.group : 0;
    return static_cast<std::size_t>(b * quant_.stride_b + t / tokens * quant_.stride_t + h * quant_.stride_h +
                                    group * quant_.stride_d);
  }
  static int nibble(const std::uint8_t* at, std::int64_t place) { return place == 0 ? *at & 15 : *at >> 4; }

  float value(std::int64_t b, std::int64_t t, std::int64_t h, std::int64_t d) const {
    const std::int64_t element = offset(b, t, h) + d, in_block = element % units_;
    const std::uint8_t* at = codes_.data() + element / units_ * bytes_;
    if (scales_inside()) {
      std::uint16_t scale = 0;
      std::memcpy(&scale, at, sizeof scale);
      const int code = dtype_ == MHA_Q8_0 ? static_cast<std::int8_t>(at[2 + in_block])
                                          : nibble(at + 2 + in_block % 16, in_block / 16) - 8;
      return widened_f16(scale) * static_cast<float>(code);
    }
    int code = units_ == 2 ? nibble(at, in_block) : *at;
    if (dtype_ == MHA_I8) code = static_cast<std::int8_t>(*at);
    if (dtype_ == MHA_I4) code -= 8;
    const std::size_t n = scale_place(b, t, h, d);
    float zero = dtype_ == MHA_U8 ? 128.0F : dtype_ == MHA_U4 ? 8.0F : 0.0F;
    if (zeros_.size() > 0) zero = zeros_.get(n);
    if (zero_bytes_.size() > 0)
      zero =
          static_cast<float>(quant_.zero_dtype == MHA_I8 ? static_cast<std::int8_t>(zero_bytes_[n]) : zero_bytes_[n]);
    const float scale = scales_.get(n);
    return (std::fpclassify(scale) == FP_SUBNORMAL ? 0.0F : scale) * (static_cast<float>(code) - zero);
  }

  std::int64_t n_[3], width_, stride_[3] = {0, 0, 0};
  bool int8_;
  mha_dtype dtype_ = MHA_I8;
  std::int64_t units_ = 1, bytes_ = 1;
  mha_quant quant_{};
  Buffer<std::uint8_t> codes_, zero_bytes_;
  Elements scales_, zeros_;
  Buffer<float> wide_, row_scales_;
  Buffer<std::int8_t> row_codes_;
};

}  // namespace mha::fuzz

#endif  // MHA_TOOLS_FUZZ_CODE_TENSOR_H
