// SPDX-License-Identifier: Apache-2.0
// Case i takes the i-th entry of each list of sizes, round and round. The lists' lengths share no factor, so that sizes
// meet each other in ever new combinations as i grows.
#include "tools/cli/verify_cases.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>

#include "core/reference/reference.h"
#include "tools/cli/support.h"

namespace mha::cli {
namespace {

constexpr std::int64_t kCases[] = {60, 240, 60};  // by VerifyKind
constexpr std::int64_t kQuickDivisor = 4;

// By VerifyKind. Results are of magnitude 1 to 6 and rounded once per product: a little over twice the worst error that
// `mha verify` prints for avx512, avx2 and sse2.
constexpr double kBounds[] = {4e-6, 1e-6, 4e-6};
// The same of BF16, whose operands have eight bits.
constexpr double kBf16Bounds[] = {1.5e-2, 1.5e-2, 2e-2};
// The same of INT8, whose weights, keys and values have eight bits with a scale for each row, and inputs eight.
constexpr double kInt8Bounds[] = {3e-2, 1e-2, 5e-2};

template <std::size_t kCount>
std::int64_t pick(const std::int64_t (&list)[kCount], std::int64_t index) {
  return list[static_cast<std::size_t>(index) % kCount];
}

// Weights [rows, columns] that turn inputs of magnitude 1 into results of magnitude 1.
std::vector<float> weight_values(std::int64_t rows, std::int64_t columns, std::uint32_t seed) {
  std::vector<float> values = random_values(rows * columns, seed);
  const double factor = std::sqrt(3.0 / static_cast<double>(columns));
  for (float& value : values) value = static_cast<float>(value * factor);
  return values;
}

// Rows of `width` rounded to signed bytes, each with a scale.
class RowCodes {
 public:
  RowCodes() = default;
  RowCodes(const std::vector<float>& values, std::int64_t width) {
    for (std::size_t row = 0; row < values.size(); row += static_cast<std::size_t>(width)) {
      float most = 0;
      for (std::int64_t d = 0; d < width; ++d)
        most = std::max(most, std::abs(values[row + static_cast<std::size_t>(d)]));
      scales_.push_back(most > 0 ? most / 127 : 1);
      for (std::int64_t d = 0; d < width; ++d) {
        const float code = std::nearbyint(values[row + static_cast<std::size_t>(d)] / scales_.back());
        codes_.push_back(static_cast<std::int8_t>(code));
      }
    }
  }
  // As the floats' view; `rows` are the strides of rows.
  mha_view as(mha_view floats, const mha_quant& rows) {
    quant_ = rows, quant_.scales = scales_.data();
    floats.data = codes_.data(), floats.dtype = MHA_I8, floats.quant = &quant_;
    return floats;
  }

 private:
  std::vector<std::int8_t> codes_;
  std::vector<float> scales_;
  mha_quant quant_{};
};

class LinearCase final : public VerifyCase {
 public:
  explicit LinearCase(std::int64_t index) : VerifyCase(VerifyKind::kLinear) {
    constexpr std::int64_t kRows[] = {1, 2, 3, 5, 6, 7, 8, 13, 31, 64, 129};                // 11
    constexpr std::int64_t kInputs[] = {1, 3, 16, 20, 64, 65, 257};                         // 7
    constexpr std::int64_t kOutputs[] = {1, 2, 7, 8, 15, 16, 17, 20, 31, 33, 63, 64, 100};  // 13
    rows_ = pick(kRows, index);
    in_ = pick(kInputs, index);
    out_ = pick(kOutputs, index);
    stride_ = in_ + index % 3;
    input_ = random_values(rows_ * stride_, 11);
    weight_ = weight_values(out_, in_, 12);
    bias_ = random_values(out_, 13);
    has_bias_ = index % 4 != 0;
  }

  std::vector<double> reference() const override {
    std::vector<double> output(static_cast<std::size_t>(rows_ * out_));
    reference::linear<double>(input_.data(), stride_, rows_, in_, weight_.data(), bias(), out_, output.data());
    return output;
  }

  std::vector<float> run(const Context& context, mha_arithmetic arithmetic) const override {
    mha_linear_config config{};
    config.arithmetic = arithmetic;
    config.in_features = in_;
    config.out_features = out_;
    config.weight = view(weight_.data());
    config.bias = bias();
    const Linear linear = take(Linear::create(context, config));
    std::vector<float> output(static_cast<std::size_t>(rows_ * out_));
    mha_linear_args args{};
    args.rows = rows_;
    args.input = view(input_.data(), {0, stride_, 0});
    args.output = mut_view(output.data());
    check(linear.forward(context, args));
    return output;
  }

 private:
  std::vector<std::pair<const char*, std::int64_t>> sizes() const override {
    return {{"M", rows_}, {"N", out_}, {"K", in_}, {"row stride", stride_}, {"bias", has_bias_ ? 1 : 0}};
  }
  const float* bias() const { return has_bias_ ? bias_.data() : nullptr; }

  std::int64_t rows_, in_, out_, stride_;
  bool has_bias_;
  std::vector<float> input_, weight_, bias_;
};

// Masks for B, H, Tq, Tk; bits of `kind`: 1 causal (from the end of the padded keys on), 2 key lengths, 4 boolean, 8
// additive.
class MaskData {
 public:
  static constexpr std::int64_t kKinds[] = {0, 1, 2, 4, 8, 3, 15};  // 7

  void make(std::int64_t kind, std::int64_t B, std::int64_t H, std::int64_t Tq, std::int64_t Tk) {
    if ((kind & 1) != 0) {
      causal_ = 1;
      positions_.align = MHA_ALIGN_OFFSET;
      positions_.offset = Tk - Tq;
    }
    if ((kind & 2) != 0) {
      for (std::int64_t b = 0; b < B; ++b) lengths_.push_back(std::max<std::int64_t>(0, Tk - 3 * b - 1));
    }
    if ((kind & 4) != 0) {  // one for all heads
      for (const float x : random_values(B * Tq * Tk, 21)) booleans_.push_back(x < 0.5F ? 1 : 0);
      masks_.bool_mask = {booleans_.data(), Tq * Tk, 0, Tk, 1};
    }
    if ((kind & 8) != 0) {  // one for all batch items
      added_ = random_values(H * Tq * Tk, 22);
      for (float& x : added_) x = x < -0.8F ? -std::numeric_limits<float>::infinity() : x;
      masks_.add_mask = {added_.data(), MHA_F32, 0, 0, Tq * Tk, Tk, 1};
    }
  }
  // What is put there points into this.
  template <class Call>
  void put_into(Call& call) const {
    call.causal = causal_;
    call.positions = positions_;
    call.items.key_lengths = lengths_.empty() ? nullptr : lengths_.data();
    call.masks = masks_;
  }

 private:
  std::vector<std::int64_t> lengths_;
  std::vector<std::uint8_t> booleans_;
  std::vector<float> added_;
  int causal_ = 0;
  mha_positions positions_{};
  mha_masks masks_{};
};

class AttentionCase final : public VerifyCase {
 public:
  explicit AttentionCase(std::int64_t index) : VerifyCase(VerifyKind::kAttention) {
    choose_sizes(index);
    const AttentionCall& a = args_;
    query_ = random_values(a.batch * a.query_len * a.num_heads * a.head_dim, 31);
    key_ = random_values(a.batch * a.key_len * a.num_kv_heads * a.head_dim, 32);
    value_ = random_values(a.batch * a.key_len * a.num_kv_heads * a.value_head_dim, 33);
    args_.query = view(query_.data());
    args_.key = view(key_.data());
    args_.value = view(value_.data());
    const bool heads_first = index / 5 % 2 == 0;
    if (heads_first) {
      args_.query = view(query_.data(), {a.num_heads * a.query_len * a.head_dim, a.head_dim, a.query_len * a.head_dim});
      args_.key = view(key_.data(), {a.num_kv_heads * a.key_len * a.head_dim, a.head_dim, a.key_len * a.head_dim});
    }
    mha_quant key_rows{}, value_rows{};
    value_rows.stride_h = 1, value_rows.stride_t = a.num_kv_heads, value_rows.stride_b = a.key_len * a.num_kv_heads;
    key_rows = value_rows;
    if (heads_first) key_rows.stride_t = 1, key_rows.stride_h = a.key_len;
    key_codes_ = RowCodes(key_, a.head_dim), value_codes_ = RowCodes(value_, a.value_head_dim);
    coded_key_ = key_codes_.as(args_.key, key_rows), coded_value_ = value_codes_.as(args_.value, value_rows);
    mask_kind_ = pick(MaskData::kKinds, index);
    masks_.make(mask_kind_, a.batch, a.num_heads, a.query_len, a.key_len);
    masks_.put_into(args_);
    output_size_ = static_cast<std::size_t>(a.batch * a.query_len * a.num_heads * a.value_head_dim);
    if (a.results.weights_mode != MHA_WEIGHTS_NONE) {
      const std::int64_t heads = a.results.weights_mode == MHA_WEIGHTS_AVERAGED ? 1 : a.num_heads;
      weights_size_ = static_cast<std::size_t>(a.batch * heads * a.query_len * a.key_len);
    }
    total_ = output_size_ + weights_size_ + static_cast<std::size_t>(a.batch * a.num_heads * a.query_len);
  }

  std::vector<double> reference() const override {
    std::vector<double> all(total_);
    reference::attention<double>(args_.raw(), all.data(), weights_size_ != 0 ? all.data() + output_size_ : nullptr,
                                 all.data() + output_size_ + weights_size_);
    return all;
  }

  std::vector<float> run(const Context& context, mha_arithmetic arithmetic) const override {
    std::vector<float> all(total_);
    AttentionCall args = args_;
    args.arithmetic = arithmetic;
    if (arithmetic == MHA_ARITHMETIC_INT8) args.key = coded_key_, args.value = coded_value_;
    args.output = mut_view(all.data());
    if (weights_size_ != 0) args.results.weights = mut_view(all.data() + output_size_);
    args.results.log_sum_exp = all.data() + output_size_ + weights_size_;
    check(context.attention(args));
    return all;
  }

 private:
  void choose_sizes(std::int64_t index) {
    constexpr std::int64_t kHeadDims[] = {1, 3, 5, 8, 16, 20, 33, 48, 64, 80, 128};             // 11
    constexpr std::int64_t kQueries[] = {1, 2, 3, 7, 17};                                       // 5
    constexpr std::int64_t kKeys[] = {1, 2, 9, 31, 32, 65, 127, 200, 255, 256, 257, 513, 600};  // 13
    constexpr std::int64_t kHeads[][2] = {{1, 1}, {4, 4}, {4, 2}, {6, 1}};                      // 4: H, Hkv
    constexpr std::int64_t kValueDims[] = {0, 24, 7};                                           // 3; 0: as D
    args_.batch = 1 + index / 4 % 2;
    args_.num_heads = kHeads[index % 4][0];
    args_.num_kv_heads = kHeads[index % 4][1];
    args_.query_len = pick(kQueries, index);
    args_.key_len = pick(kKeys, index);
    args_.head_dim = pick(kHeadDims, index);
    args_.value_head_dim = pick(kValueDims, index);
    if (args_.value_head_dim == 0) args_.value_head_dim = args_.head_dim;
    args_.results.weights_mode = static_cast<mha_weights_mode>(index / 3 % 3);
  }

  std::vector<std::pair<const char*, std::int64_t>> sizes() const override {
    return {{"B", args_.batch},           {"H", args_.num_heads}, {"Hkv", args_.num_kv_heads},
            {"Tq", args_.query_len},      {"Tk", args_.key_len},  {"D", args_.head_dim},
            {"Dv", args_.value_head_dim}, {"masks", mask_kind_},  {"weights", args_.results.weights_mode}};
  }

  AttentionCall args_;
  std::int64_t mask_kind_ = 0;
  MaskData masks_;
  std::vector<float> query_, key_, value_;
  RowCodes key_codes_, value_codes_;
  mha_view coded_key_{}, coded_value_{};
  std::size_t output_size_ = 0, weights_size_ = 0, total_ = 0;
};

class LayerCase final : public VerifyCase {
 public:
  explicit LayerCase(std::int64_t index) : VerifyCase(VerifyKind::kLayer) {
    choose_sizes(index);
    const mha_layer_config& c = config_;
    query_weight_ = weight_values(c.num_heads * c.head_dim, c.embed_dim, 41);
    key_weight_ = weight_values(c.num_kv_heads * c.head_dim, c.kdim, 42);
    value_weight_ = weight_values(c.num_kv_heads * c.value_head_dim, c.vdim, 43);
    output_weight_ = weight_values(c.out_dim, c.num_heads * c.value_head_dim, 44);
    const std::int64_t rows[] = {c.num_heads * c.head_dim, c.num_kv_heads * c.value_head_dim, c.out_dim};
    bias_ = random_values(*std::max_element(std::begin(rows), std::end(rows)), 45);
    weights_.query_weight = view(query_weight_.data());
    weights_.key_weight = view(key_weight_.data());
    weights_.value_weight = view(value_weight_.data());
    weights_.output_weight = view(output_weight_.data());
    // The key has none: some of them may be missing.
    if (index / 2 % 2 == 0) weights_.query_bias = weights_.value_bias = weights_.output_bias = bias_.data();

    query_ = random_values(args_.batch * args_.query_len * c.embed_dim, 46);
    key_ = random_values(args_.batch * args_.key_len * c.kdim, 47);
    value_ = random_values(args_.batch * args_.key_len * c.vdim, 48);
    args_.query = view(query_.data());
    args_.key = view(key_.data());
    args_.value = view(value_.data());
    mask_kind_ = pick(MaskData::kKinds, index);
    masks_.make(mask_kind_, args_.batch, c.num_heads, args_.query_len, args_.key_len);
    masks_.put_into(args_);
    output_size_ = static_cast<std::size_t>(args_.batch * args_.query_len * c.out_dim);
    total_ = output_size_;
    if (averaged()) total_ += static_cast<std::size_t>(args_.batch * args_.query_len * args_.key_len);
  }

  std::vector<double> reference() const override {
    std::vector<double> all(total_);
    reference::forward<double>(config_, weights_, args_.raw(), all.data(),
                               averaged() ? all.data() + output_size_ : nullptr);
    return all;
  }

  std::vector<float> run(const Context& context, mha_arithmetic arithmetic) const override {
    mha_layer_config config = config_;
    config.arithmetic = arithmetic;
    const Layer layer = take(Layer::create(context, config, weights_));
    std::vector<float> all(total_);
    LayerCall args = args_;
    // Keys that a layer projects are floats, which INT8 does not multiply.
    args.arithmetic = arithmetic == MHA_ARITHMETIC_INT8 ? MHA_ARITHMETIC_F32 : arithmetic;
    args.output = mut_view(all.data());
    if (averaged()) args.results.weights = mut_view(all.data() + output_size_);
    check(layer.forward(context, args));
    return all;
  }

 private:
  void choose_sizes(std::int64_t index) {
    constexpr std::int64_t kHeads[][2] = {{1, 1}, {2, 2}, {4, 4}, {4, 2}, {4, 1}};              // 5
    constexpr std::int64_t kWidths[] = {4, 20, 48, 64, 96, 128, 200, 8, 32, 40, 72, 112, 160};  // 13
    constexpr std::int64_t kLengths[] = {1, 2, 3, 10, 33, 64, 70, 100, 130, 257, 300};          // 11
    config_.embed_dim = pick(kWidths, index);
    config_.num_heads = kHeads[index % 5][0];
    config_.num_kv_heads = kHeads[index % 5][1];
    config_.head_dim = config_.embed_dim / config_.num_heads;
    config_.value_head_dim = index % 3 == 0 ? 9 : config_.head_dim;
    config_.kdim = index % 2 == 0 ? config_.embed_dim : 30;
    config_.vdim = index % 2 == 0 ? config_.embed_dim : 17;
    config_.out_dim = index % 4 == 0 ? 11 : config_.embed_dim;
    args_.batch = 1 + index / 2 % 3;
    args_.query_len = pick(kLengths, index);
    args_.key_len = pick(kLengths, index + index / 11);
    args_.results.weights_mode = index / 3 % 2 == 0 ? MHA_WEIGHTS_AVERAGED : MHA_WEIGHTS_NONE;
  }

  std::vector<std::pair<const char*, std::int64_t>> sizes() const override {
    return {{"B", args_.batch},      {"H", config_.num_heads},       {"Hkv", config_.num_kv_heads},
            {"Tq", args_.query_len}, {"Tk", args_.key_len},          {"E", config_.embed_dim},
            {"D", config_.head_dim}, {"Dv", config_.value_head_dim}, {"masks", mask_kind_}};
  }

  bool averaged() const { return args_.results.weights_mode == MHA_WEIGHTS_AVERAGED; }

  mha_layer_config config_{};
  mha_layer_weights weights_{};
  LayerCall args_;
  std::int64_t mask_kind_ = 0;
  MaskData masks_;
  std::vector<float> query_weight_, key_weight_, value_weight_, output_weight_, bias_, query_, key_, value_;
  std::size_t output_size_ = 0, total_ = 0;
};

}  // namespace

double VerifyCase::bound(mha_arithmetic arithmetic) const {
  const double* const bounds = arithmetic == MHA_ARITHMETIC_F32    ? kBounds
                               : arithmetic == MHA_ARITHMETIC_BF16 ? kBf16Bounds
                                                                   : kInt8Bounds;
  return bounds[static_cast<int>(kind_)];
}

std::string VerifyCase::name() const {
  std::string text = kVerifyKindNames[static_cast<int>(kind_)];
  for (const auto& [name, value] : sizes()) text += std::string(" ") + name + " " + std::to_string(value);
  return text;
}

std::int64_t verify_case_count(bool quick) {
  std::int64_t count = 0;
  for (const std::int64_t of_kind : kCases) count += of_kind / (quick ? kQuickDivisor : 1);
  return count;
}

std::unique_ptr<VerifyCase> make_verify_case(std::int64_t index, bool quick) {
  const std::int64_t divisor = quick ? kQuickDivisor : 1;
  if (index < kCases[0] / divisor) return std::make_unique<LinearCase>(index);
  index -= kCases[0] / divisor;
  if (index < kCases[1] / divisor) return std::make_unique<AttentionCase>(index);
  return std::make_unique<LayerCase>(index - kCases[1] / divisor);
}

}  // namespace mha::cli
