// SPDX-License-Identifier: Apache-2.0
// linear_pack and linear.
#include "tools/python/torch_ops/ops.h"
#include "tools/python/torch_ops/packed.h"
#include "tools/python/torch_ops/runtime.h"

namespace mha_torch {
namespace {

// Weights of GPTQ and AWQ are words of 8 codes, whose layout mha.h states.
mha_weight_layout layout_of(const std::string& format) {
  if (format == "gptq") return MHA_WEIGHT_GPTQ;
  if (format == "gptq_v2") return MHA_WEIGHT_GPTQ_V2;
  if (format == "awq") return MHA_WEIGHT_AWQ;
  return MHA_WEIGHT_ROWS;
}

class Weight {
 public:
  explicit Weight(Stack& stack) : weight_(stack.next<Tensor>()), bias_(stack.next<OptionalTensor>()) {}
  void read_codes(Stack& stack) {
    codes_.format = stack.next_text();
    codes_.scales = stack.next<OptionalTensor>();
    codes_.zeros = stack.next<OptionalTensor>();
  }
  void fill(mha_linear_config& config);

 private:
  void fill_words(mha_linear_config& config);
  void fill_rows(mha_linear_config& config);

  Tensor weight_;
  OptionalTensor bias_;
  Codes codes_;
  List bias_list_;
  Rows rows_;
  OptionalTensor words_zeros_;
  mha_quant quant_ = {};
};

void Weight::fill(mha_linear_config& config) {
  require(weight_.dim() == 2, "weight must have 2 dimensions [out_features, in_features]");
  config.layout = layout_of(codes_.format);
  if (config.layout == MHA_WEIGHT_ROWS) {
    fill_rows(config);
  } else {
    fill_words(config);
  }
  bias_list_.set(bias_, ScalarType::Float, config.out_features, "bias");
  config.bias = bias_list_.data<float>();
}

void Weight::fill_rows(mha_linear_config& config) {
  // Zeros of 4 bits are two in a byte. They differ from zeros of bytes by the length of their rows.
  const bool short_zeros = codes_.zeros && codes_.scales && codes_.zeros->dim() == 2 && codes_.scales->dim() == 2 &&
                           codes_.zeros->scalar_type() == ScalarType::Byte &&
                           codes_.zeros->size(1) != codes_.scales->size(1);
  OptionalTensor zeros;
  if (short_zeros) {
    zeros = torch::stable::contiguous(*codes_.zeros);
    codes_.scales = torch::stable::contiguous(*codes_.scales);
    require(zeros->size(0) == codes_.scales->size(0) && zeros->size(1) == (codes_.scales->size(1) + 1) / 2,
            "zeros of uint8 must have the shape of scales, or hold two zeros in a byte");
    codes_.zeros.reset();
  }
  rows_.set(torch::stable::unsqueeze(torch::stable::unsqueeze(weight_, 0), 0), codes_, 0, "weight");
  if (short_zeros) {
    words_zeros_ = zeros;
    rows_.quant.zeros = data_of(*words_zeros_);
    rows_.quant.zero_dtype = MHA_U4;
  }
  config.in_features = rows_.width;
  config.out_features = rows_.tokens;
  config.weight = rows_.view;
  config.weight.stride_b = config.weight.stride_h = 0;
}

void Weight::fill_words(mha_linear_config& config) {
  require(weight_.scalar_type() == ScalarType::Int && weight_.is_contiguous(),
          "weight of GPTQ and AWQ must be contiguous int32");
  require(codes_.scales && codes_.scales->dim() == 2, "weight of GPTQ and AWQ needs scales [groups, out_features]");
  const bool awq = config.layout == MHA_WEIGHT_AWQ;
  config.in_features = awq ? weight_.size(0) : weight_.size(0) * 8;
  config.out_features = awq ? weight_.size(1) * 8 : weight_.size(1);
  const Tensor scales = torch::stable::contiguous(*codes_.scales);
  const int64_t groups = scales.size(0);
  require(scales.size(1) == config.out_features && groups >= 1 && config.in_features % groups == 0,
          "scales must be [groups, out_features], with a number of groups that divides in_features");
  rows_.kept.push_back(scales);
  quant_.scales = data_of(scales);
  quant_.scale_dtype = float_dtype(scales, "scales");
  quant_.group = groups == 1 ? 0 : config.in_features / groups;
  quant_.zero_dtype = MHA_U4;
  if (codes_.zeros) {
    words_zeros_ = torch::stable::contiguous(*codes_.zeros);
    require(words_zeros_->scalar_type() == ScalarType::Int && words_zeros_->numel() * 8 == groups * config.out_features,
            "zeros of GPTQ and AWQ must be int32 [groups, out_features / 8]");
    quant_.zeros = data_of(*words_zeros_);
  }
  config.weight.data = data_of(weight_);
  config.weight.dtype = MHA_U4;
  config.weight.quant = &quant_;
}

// The rows of an input [..., in_features]: one matrix if one stride steps all of them, else a dense copy of it.
struct Matrix {
  Tensor tensor;
  int64_t rows = 1, stride = 0;
};
Matrix matrix_of(const Tensor& input) {
  Matrix result = {input};
  const int64_t width = input.size(input.dim() - 1);
  bool simple = width <= 1 || input.stride(input.dim() - 1) == 1;
  result.stride = width;
  int64_t expected = -1;
  for (int64_t i = input.dim() - 1; i-- > 0;) {
    result.rows *= input.size(i);
    if (input.size(i) == 1) continue;
    const int64_t stride = input.stride(i);
    if (expected < 0) {
      result.stride = stride;
      expected = stride;
    }
    simple = simple && stride == expected && stride > 0;
    expected = stride * input.size(i);
  }
  if (!simple) {
    result.tensor = torch::stable::contiguous(input);
    result.stride = width;
  }
  return result;
}

}  // namespace

std::string linear_pack_schema() {
  return std::string("linear_pack(Tensor weight, Tensor? bias=None, *, ") + kStorageSchema +
         ", str? weight_format=None, Tensor? scales=None, Tensor? zeros=None) -> Tensor";
}

std::string linear_schema() {
  return "linear(Tensor input, Tensor packed, SymInt out_features, *, ScalarType? out_dtype=None) -> Tensor";
}

void linear_pack_op(StableIValue* stack, uint64_t /*num_args*/, uint64_t /*num_outputs*/) {
  Stack reader(stack);
  Weight weight(reader);
  Storage storage(reader);
  weight.read_codes(reader);
  mha_linear_config config = {};
  weight.fill(config);
  config.arithmetic = storage.arithmetic();
  config.packed = storage.make();
  mha_linear* linear = nullptr;
  mha_error error = {};
  check(mha_linear_create(current_context(), &config, &linear, &error), error);
  const LinearHandle handle(linear);
  stack[0] = torch::stable::detail::from(saved(linear, mha_linear_save_bytes, mha_linear_save));
}

void linear_op(StableIValue* stack, uint64_t /*num_args*/, uint64_t /*num_outputs*/) {
  Stack reader(stack);
  const auto input = reader.next<Tensor>();
  const auto packed = reader.next<Tensor>();
  const auto out_features = reader.next<int64_t>();
  const auto out_dtype = reader.next<std::optional<ScalarType>>();
  refuse_gradient(input, input, input);
  require(input.dim() >= 1, "input must have at least 1 dimension");
  const LinearHandle linear = map_linear(packed);
  mha_linear_config config = {};
  mha_linear_get_config(linear.get(), &config);
  if (input.size(input.dim() - 1) != config.in_features || out_features != config.out_features) {
    fail("packed is a linear of " + std::to_string(config.in_features) + " to " + std::to_string(config.out_features) +
         " features, but the call is one of " + std::to_string(input.size(input.dim() - 1)) + " to " +
         std::to_string(out_features));
  }
  const Matrix matrix = matrix_of(input);
  std::vector<int64_t> sizes;
  for (int64_t i = 0; i + 1 < input.dim(); ++i) sizes.push_back(input.size(i));
  sizes.push_back(out_features);
  const Tensor output = make_dense(sizes, out_dtype ? *out_dtype : input.scalar_type());
  mha_linear_args args = {};
  args.rows = matrix.rows;
  args.input.data = data_of(matrix.tensor);
  args.input.dtype = float_dtype(input, "input");
  args.input.stride_t = matrix.stride;
  args.output.data = data_of(output);
  args.output.dtype = float_dtype(output, "out_dtype");
  mha_error error = {};
  check(mha_linear_forward(current_context(), linear.get(), &args, &error), error);
  check_threads();
  stack[0] = torch::stable::detail::from(output);
}

}  // namespace mha_torch
