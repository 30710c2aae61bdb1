// SPDX-License-Identifier: Apache-2.0
// An extension of OpenVINO: a model that ov::Core reads gets MhaAttention in the place of ScaledDotProductAttention, and
// the CPU plugin runs it on the threads of the request.
#include <memory>
#include <openvino/core/op_extension.hpp>
#include <openvino/core/parallel.hpp>
#include <openvino/op/scaled_dot_product_attention.hpp>
#include <vector>

#include "dense.h"

namespace {

using mha_engines::Tensor;
using Standard = ov::op::v13::ScaledDotProductAttention;

void run_in_arena(void* /*user*/, int64_t count, void (*task)(void*, int64_t), void* data) {
  ov::parallel_for(count, [&](int64_t index) { task(data, index); });
}

const mha::Context& shared_context() {
  static mha::Result<mha::Context> shared = mha_engines::make_context(run_in_arena);
  OPENVINO_ASSERT(shared, "mha: ", shared.status().message());
  return *shared;
}

// The CPU plugin turns boolean tensors into bytes.
bool is_bool(const ov::element::Type& type) { return type == ov::element::boolean || type == ov::element::u8; }

mha_dtype dtype_of(const ov::Tensor& tensor) {
  if (tensor.get_element_type() == ov::element::f16) return MHA_F16;
  return tensor.get_element_type() == ov::element::bf16 ? MHA_BF16 : MHA_F32;
}

Tensor tensor_of(const ov::Tensor& tensor) {
  return mha_engines::dense(const_cast<void*>(tensor.data()), dtype_of(tensor), tensor.get_shape());
}

float scalar(const ov::Tensor& tensor) {
  if (tensor.get_element_type() == ov::element::f16) return *tensor.data<const ov::float16>();
  if (tensor.get_element_type() == ov::element::bf16) return *tensor.data<const ov::bfloat16>();
  return *tensor.data<const float>();
}

// Whether mha computes the operation over these inputs: no sink, three or four dimensions, floats of up to 32 bits.
bool serves(const ov::OutputVector& inputs) {
  if (inputs.size() > 5) return false;
  for (size_t n = 0; n < inputs.size(); ++n) {
    const ov::Rank rank = inputs[n].get_partial_shape().rank();
    if (rank.is_dynamic() || rank.get_length() > 4 || (n < 3 && rank.get_length() < 3)) return false;
    const ov::element::Type type = inputs[n].get_element_type();
    const bool is_float = type == ov::element::f32 || type == ov::element::f16 || type == ov::element::bf16;
    if (!is_float && !(n == 3 && is_bool(type))) return false;
  }
  return true;
}

// Shapes, types and the attribute "causal" are those of the standard operation. Op is named as the parent, so that no
// pass of a plugin takes the operation for the standard one.
class MhaAttention : public Standard {
 public:
  OPENVINO_OP("MhaAttention", "mha", ov::op::Op);
  using Standard::Standard;

  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
    return std::make_shared<MhaAttention>(inputs, get_causal());
  }

  // The standard operation refuses a mask of bytes, so evaluate() checks its shape.
  void validate_and_infer_types() override {
    NODE_VALIDATION_CHECK(this, serves(input_values()), "mha: needs three or four dimensions and f32, f16 or bf16");
    if (get_input_size() < 4 || get_input_element_type(3) != ov::element::u8)
      return Standard::validate_and_infer_types();
    const Standard without_mask({input_value(0), input_value(1), input_value(2)}, get_causal());
    set_output_type(0, without_mask.get_output_element_type(0), without_mask.get_output_partial_shape(0));
  }

  bool has_evaluate() const override { return true; }

  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
    mha::AttentionCall call;
    mha_engines::set_tensors(call, mha_engines::Order::kHeadsFirst, tensor_of(inputs[0]), tensor_of(inputs[1]),
                             tensor_of(inputs[2]), tensor_of(outputs[0]));
    call.causal = get_causal();
    call.positions.align = MHA_ALIGN_START;
    // As the operation has it: causal without the mask; a scalar in its place is none.
    if (inputs.size() > 3 && !get_causal() && !inputs[3].get_shape().empty())
      OPENVINO_ASSERT(mha_engines::set_mask(call, tensor_of(inputs[3]), is_bool(inputs[3].get_element_type())),
                      "mha: the mask ", inputs[3].get_shape(), " does not broadcast to the scores [", call.batch, ",",
                      call.num_heads, ",", call.query_len, ",", call.key_len, "]");
    if (inputs.size() > 4) {
      call.scale = scalar(inputs[4]);
      call.scale_is_exact = 1;
    }
    call.resources.max_threads = parallel_get_max_threads();  // of the arena in which the plugin runs the request
    const mha::Status status = shared_context().attention(call);
    OPENVINO_ASSERT(status, "mha: ", status.message());
    return true;
  }
};

// Asked for a standard operation while a model is read, it gives MhaAttention where mha computes the operation.
class Replacement : public ov::OpExtension<Standard> {
 public:
  ov::OutputVector create(const ov::OutputVector& inputs, ov::AttributeVisitor& visitor) const override {
    const ov::OutputVector standard = ov::OpExtension<Standard>::create(inputs, visitor);
    if (!serves(inputs)) return standard;
    const auto* node = static_cast<const Standard*>(standard[0].get_node());
    return std::make_shared<MhaAttention>(inputs, node->get_causal())->outputs();
  }
};

}  // namespace

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>({std::make_shared<Replacement>(),
                                                            std::make_shared<ov::OpExtension<MhaAttention>>()}))
