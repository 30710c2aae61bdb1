// SPDX-License-Identifier: Apache-2.0
// Weights of linears and layers that are codes, in every layout, and the floats that they stand for.
#ifndef MHA_TESTS_SUPPORT_WEIGHT_CODES_H
#define MHA_TESTS_SUPPORT_WEIGHT_CODES_H

#include "tests/support/codes.h"

namespace mha::test {

/// How codes of 4 bits with a scale, and a zero maybe, for each group lie in memory.
enum class Nibbles { kRows, kGptq, kGptqV2, kAwq };

/// A weight [N, K].
class WeightCodes {
 public:
  WeightCodes(Random& random, int64_t N, int64_t K) : N_(N), K_(K) {
    const bool words = N % 8 == 0 && one_in(random, 2);
    if (words || one_in(random, 4)) {
      const Nibbles layout = one_of(random, {Nibbles::kGptq, Nibbles::kGptqV2, Nibbles::kAwq});
      draw_nibbles(random, !words ? Nibbles::kRows : K % 8 == 0 ? layout : Nibbles::kAwq);
      return;
    }
    do {
      rows_ = std::make_unique<CodeTensor>(random, CodeTensor::draw_type(random, K), Extent{1, N, 1, K});
      view_ = rows_->view();
    } while (view_.quant != nullptr && view_.quant->group % 16 != 0 && view_.quant->group < K);
    view_.stride_b = view_.stride_h = 0;
    wide_ = rows_->widened(), text_ = rows_->describe();
    parts_ = rows_->parts(), group_ = rows_->group(), float_zeros_ = rows_->has_float_zeros();
  }
  /// Of that layout; codes and zeros of all values.
  WeightCodes(Random& random, int64_t N, int64_t K, Nibbles layout) : N_(N), K_(K) { draw_nibbles(random, layout); }
  WeightCodes(const WeightCodes&) = delete;
  WeightCodes& operator=(const WeightCodes&) = delete;

  mha_view view() const { return view_; }
  mha_weight_layout layout() const { return layout_; }
  const std::vector<float>& widened() const { return wide_; }
  const mha_quant& quant() const { return quant_; }
  const std::vector<CodeParts>& parts() const { return parts_; }
  /// Inputs that share a scale; 0: all.
  int64_t group() const { return group_; }
  /// Zeros that may have a fraction.
  bool has_float_zeros() const { return float_zeros_; }
  std::string describe() const { return text_; }

 private:
  static void put_nibble(std::vector<unsigned char>* bytes, int64_t n, int value) {
    (*bytes)[static_cast<size_t>(n / 2)] |= static_cast<unsigned char>(value << (n % 2 * 4));
  }

  void draw_nibbles(Random& random, Nibbles layout) {
    const int64_t group = group_ = one_of<int64_t>(random, {0, 16, 32, 64, 128});
    const int64_t groups = group > 0 ? (K_ + group - 1) / group : 1;
    const bool has_zeros = one_in(random, 2), rows = layout == Nibbles::kRows;
    const int64_t zero_row = (groups + 1) / 2 * 2, code_row = (K_ + 1) / 2 * 2;
    const int place[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // of AWQ's outputs in a word
    codes_.assign(static_cast<size_t>((rows ? N_ * code_row : N_ * K_) / 2), 0);
    zeros_.assign(static_cast<size_t>((rows ? N_ * zero_row : groups * N_) / 2 + 1), 0);
    std::vector<float> scales;
    for (int64_t n = 0; n < N_ * groups; ++n) scales.push_back((0.5f + random.uniform() * 0.4f) * 0.1f);
    scales_ = Elements(random_dtype(random), scales);
    std::vector<int> zeros;
    for (int64_t n = 0; n < N_ * groups; ++n) zeros.push_back(static_cast<int>(random.below(16)));
    wide_.resize(static_cast<size_t>(N_ * K_)), parts_.resize(wide_.size());
    for (int64_t n = 0; n < N_; ++n) {
      for (int64_t k = 0; k < K_; ++k) {
        const int64_t g = group > 0 ? k / group : 0;
        const int64_t scale = rows ? n * groups + g : g * N_ + n, out = n / 8 * 8 + place[n % 8];
        const int code = static_cast<int>(random.below(16));
        int zero = zeros[static_cast<size_t>(n * groups + g)];
        const int64_t code_at = rows                      ? n * code_row + k
                                : layout == Nibbles::kAwq ? k * N_ + out
                                                          : (k / 8 * N_ + n) * 8 + k % 8;
        put_nibble(&codes_, code_at, code);
        if (k % (group > 0 ? group : K_) == 0) {
          put_nibble(&zeros_, rows ? n * zero_row + g : layout == Nibbles::kAwq ? g * N_ + out : g * N_ + n, zero);
        }
        if (layout == Nibbles::kGptq) ++zero;
        const float value = static_cast<float>(code) - static_cast<float>(has_zeros ? zero : 8);
        const CodeParts parts = {value, mha::test::widened(scales_.dtype(), scales_.bits(scale))};
        parts_[static_cast<size_t>(n * K_ + k)] = parts, wide_[static_cast<size_t>(n * K_ + k)] = parts.value();
      }
    }
    quant_.scales = scales_.data(), quant_.scale_dtype = scales_.dtype(), quant_.group = group;
    if (rows) quant_.stride_t = groups, quant_.stride_d = group > 0 ? 1 : 0;
    if (has_zeros) quant_.zeros = zeros_.data(), quant_.zero_dtype = MHA_U4;
    view_.data = codes_.data(), view_.dtype = MHA_U4, view_.quant = &quant_;
    const char* const names[] = {"rows", "GPTQ", "GPTQ v2", "AWQ"};
    constexpr mha_weight_layout kLayouts[] = {MHA_WEIGHT_ROWS, MHA_WEIGHT_GPTQ, MHA_WEIGHT_GPTQ_V2, MHA_WEIGHT_AWQ};
    layout_ = kLayouts[static_cast<int>(layout)];
    text_ = std::string("nibbles in ") + names[static_cast<int>(layout)] + ", groups of " + std::to_string(group) +
            ", scales " + dtype_name(scales_.dtype()) + (has_zeros ? ", zeros" : "");
  }

  int64_t N_, K_;
  mha_view view_ = {};
  mha_weight_layout layout_ = MHA_WEIGHT_ROWS;
  mha_quant quant_ = {};
  std::unique_ptr<CodeTensor> rows_;
  std::vector<unsigned char> codes_, zeros_;
  Elements scales_;
  std::vector<float> wide_;
  std::vector<CodeParts> parts_;
  int64_t group_ = 0;
  bool float_zeros_ = false;
  std::string text_;
};

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_WEIGHT_CODES_H
