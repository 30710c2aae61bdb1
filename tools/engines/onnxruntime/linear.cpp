// SPDX-License-Identifier: Apache-2.0
// MatMul and Gemm of ai.onnx with a constant weight of floats of 32 or 16 bits, which is packed once, when the session
// is made. All others are ONNX Runtime's own.
#include <memory>

#include "op.h"

namespace host {
namespace {

struct LinearDeleter {
  void operator()(mha_linear* linear) const { mha_linear_destroy(linear); }
};

// rows x columns of floats, transposed.
std::vector<float> transposed(const float* source, std::int64_t rows, std::int64_t columns) {
  constexpr std::int64_t kTile = 16;
  std::vector<float> result(static_cast<std::size_t>(rows * columns));
  for (std::int64_t top = 0; top < rows; top += kTile) {
    for (std::int64_t column = 0; column < columns; ++column) {
      for (std::int64_t row = top; row < rows && row < top + kTile; ++row) {
        result[static_cast<std::size_t>(column * rows + row)] = source[row * columns + column];
      }
    }
  }
  return result;
}

mha_linear* pack(const mha_linear_config& config) {
  // The packed weight comes from the library's own allocator, which asks for huge pages.
  mha_context_options options = {};
  options.num_threads = 1;
  mha_context* context = nullptr;
  mha_error error = {};
  check(mha_context_create(&options, &context, &error), error);
  mha_linear* linear = nullptr;
  const mha_status status = mha_linear_create(context, &config, &linear, &error);
  mha_context_destroy(context);
  check(status, error);
  return linear;
}

class Linear : public Kernel {
 public:
  // weight: [in, out], or [out, in] where out_first.
  Linear(const Node& node, const Tensor& weight, bool out_first, const Tensor& bias) : Kernel(node) {
    mha_linear_config config = {};
    config.in_features = in_ = weight.dim(out_first ? 1 : 0);
    config.out_features = out_ = weight.dim(out_first ? 0 : 1);
    type_ = dtype(weight.type);
    std::vector<float> wide, rows, wide_bias;
    const float* values = floats(weight, wide);
    if (!out_first) rows = transposed(values, in_, out_);
    config.weight.data = out_first ? values : rows.data();
    config.bias = bias ? floats(bias, wide_bias) : nullptr;
    mha_storage storage = {};
    storage.dtype = type_;  // of 16 bits: as the model has it, without rounding
    config.packed = type_ == MHA_F32 ? nullptr : &storage;
    linear_.reset(pack(config));
  }

  void compute(Call& call) override {
    const Tensor input = call.input(0);
    if (input.rank == 0 || input.dim(input.rank - 1) != in_) {
      refuse("MatMul or Gemm: A is " + input.text() + ", but B takes rows of " + std::to_string(in_));
    }
    std::vector<std::int64_t> shape(input.shape, input.shape + input.rank - 1);
    shape.push_back(out_);
    mha_linear_args args = {};
    args.rows = input.elements() / in_;
    args.input.data = input.data;
    args.input.dtype = args.output.dtype = type_;
    args.output.data = call.output(0, shape);
    args.resources = &call.resources;
    mha_error error = {};
    check(mha_linear_forward(context(), linear_.get(), &args, &error), error);
  }

 private:
  std::int64_t in_ = 0, out_ = 0;
  mha_dtype type_ = MHA_F32;
  std::unique_ptr<mha_linear, LinearDeleter> linear_;
};

bool is_weight(const Tensor& tensor) {
  const bool is_float = tensor && (tensor.type == ort::kFloat || is_narrow(tensor.type));
  return is_float && tensor.rank == 2 && tensor.dim(0) > 0 && tensor.dim(1) > 0;
}

// As numpy.matmul: vectors get a dimension, which the result does not have; the leading dimensions are broadcast.
Shapes matmul_shapes(const Call& call) {
  const Tensor a = call.input(0), b = call.input(1);
  if (a.rank == 0 || b.rank == 0) refuse("MatMul: A is " + a.text() + ", B is " + b.text());
  std::vector<std::int64_t> shape;
  const std::size_t lead_a = a.rank > 2 ? a.rank - 2 : 0, lead_b = b.rank > 2 ? b.rank - 2 : 0;
  const std::size_t lead = lead_a > lead_b ? lead_a : lead_b;
  for (std::size_t i = 0; i < lead; ++i) {
    const std::int64_t from_a = i + lead_a >= lead ? a.dim(i + lead_a - lead) : 1;
    const std::int64_t from_b = i + lead_b >= lead ? b.dim(i + lead_b - lead) : 1;
    shape.push_back(from_a == 1 ? from_b : from_a);
  }
  if (a.rank > 1) shape.push_back(a.dim(a.rank - 2));
  if (b.rank > 1) shape.push_back(b.dim(b.rank - 1));
  return {shape};
}

Kernel* make_matmul(const Node& node) {
  const Tensor weight = node.constant(1);
  if (is_weight(weight)) return new Linear(node, weight, false, {});
  return leave_to_ort(node, {"MatMul", "", 13, {}, {}, {}, {{"T", node.input_type(0)}}, matmul_shapes}, "");
}

Kernel* make_gemm(const Node& node) {
  const Tensor weight = node.constant(1), bias = node.has_input(2) ? node.constant(2) : Tensor();
  const bool in_last = node.integer("transA", 0) == 0, out_first = node.integer("transB", 0) != 0;
  // One row: [M, 1], which gives each row of the result a number, may have as many elements.
  const auto is_row = [&bias](std::int64_t size) {
    return bias.rank > 0 && bias.dim(bias.rank - 1) == size && bias.elements() == size;
  };
  const bool bias_fits = !node.has_input(2) || (is_weight(weight) && is_row(weight.dim(out_first ? 0 : 1)));
  if (is_weight(weight) && bias_fits && in_last && node.real("alpha", 1) == 1 && node.real("beta", 1) == 1) {
    return new Linear(node, weight, out_first, bias);
  }
  const auto shapes = [in_last, out_first](const Call& call) -> Shapes {
    return {{call.input(0).dim(in_last ? 0 : 1), call.input(1).dim(out_first ? 0 : 1)}};
  };
  return leave_to_ort(node,
                      {"Gemm",
                       "",
                       13,
                       {{"transA", 0}, {"transB", 0}},
                       {{"alpha", 1.0F}, {"beta", 1.0F}},
                       {},
                       {{"T", node.input_type(0)}},
                       shapes},
                      "");
}

}  // namespace

void add_linear(std::vector<Op>& ops) {
  for (ort::ElementType type : {ort::kFloat, ort::kFloat16, ort::kDouble, ort::kBfloat16, ort::kInt32, ort::kInt64,
                                ort::kUint32, ort::kUint64}) {
    const Port needed = {type, ort::kRequired}, optional = {type, ort::kOptional};
    ops.emplace_back("MatMul", 13, std::vector<Port>{needed, needed}, std::vector<Port>{needed}, make_matmul);
    ops.emplace_back("Gemm", 13, std::vector<Port>{needed, needed, optional}, std::vector<Port>{needed}, make_gemm);
  }
}

}  // namespace host
