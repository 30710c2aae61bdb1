// SPDX-License-Identifier: Apache-2.0
// An extension of OpenVINO: a model that ov::Core reads gets MhaAttention in the place of ScaledDotProductAttention, and
// the CPU plugin runs it on the threads of the request.
#include <mha/mha.h>

#include <algorithm>
#include <memory>
#include <openvino/core/op_extension.hpp>
#include <openvino/core/parallel.hpp>
#include <openvino/op/scaled_dot_product_attention.hpp>
#include <string>
#include <vector>

namespace {

using Standard = ov::op::v13::ScaledDotProductAttention;

void run_in_arena(void* /*user*/, int64_t count, void (*task)(void*, int64_t), void* data) {
  ov::parallel_for(count, [&](int64_t index) { task(data, index); });
}

const mha_context* shared_context() {
  static const mha_context* const shared = [] {
    mha_context_options options = {};
    options.parallel_for.run = run_in_arena;
    mha_context* context = nullptr;
    mha_error error = {};
    mha_context_create(&options, &context, &error);
    OPENVINO_ASSERT(context != nullptr, "mha: ", error.message);
    return context;
  }();
  return shared;
}

// The CPU plugin turns boolean tensors into bytes.
bool is_bool(const ov::element::Type& type) { return type == ov::element::boolean || type == ov::element::u8; }

mha_dtype dtype_of(const ov::Tensor& tensor) {
  if (tensor.get_element_type() == ov::element::f16) return MHA_F16;
  return tensor.get_element_type() == ov::element::bf16 ? MHA_BF16 : MHA_F32;
}

// The four last dimensions; those that are missing are 1.
std::vector<int64_t> four(const ov::Tensor& tensor) {
  const ov::Shape& shape = tensor.get_shape();
  std::vector<int64_t> sizes(shape.size() < 4 ? 4 - shape.size() : 0, 1);
  sizes.insert(sizes.end(), shape.begin(), shape.end());
  return sizes;
}

// A batch of 1 and one head are repeated, as the operation broadcasts them.
mha_view view_of(const ov::Tensor& tensor, int64_t batch, int64_t heads) {
  const std::vector<int64_t> size = four(tensor);
  mha_view view = {};
  view.data = tensor.data();
  view.dtype = dtype_of(tensor);
  view.stride_t = size[3];
  view.stride_h = size[1] == 1 && heads != 1 ? MHA_BROADCAST : size[2] * size[3];
  view.stride_b = size[0] == 1 && batch != 1 ? MHA_BROADCAST : size[1] * size[2] * size[3];
  return view;
}

// A dimension of 1 is repeated.
template <typename Mask>
void set_strides(Mask& mask, const ov::Tensor& tensor) {
  const std::vector<int64_t> size = four(tensor);
  mask.stride_k = size[3] == 1 ? MHA_BROADCAST : 1;
  mask.stride_q = size[2] == 1 ? 0 : size[3];
  mask.stride_h = size[1] == 1 ? 0 : size[2] * size[3];
  mask.stride_b = size[0] == 1 ? 0 : size[1] * size[2] * size[3];
}

void set_mask(mha_masks& masks, const ov::Tensor& tensor) {
  if (is_bool(tensor.get_element_type())) {
    masks.bool_mask.data = static_cast<const uint8_t*>(tensor.data());
    set_strides(masks.bool_mask, tensor);
  } else {
    masks.add_mask.data = tensor.data();
    masks.add_mask.dtype = dtype_of(tensor);
    set_strides(masks.add_mask, tensor);
  }
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

  // The standard operation refuses a mask of bytes. It has checked the mask before the plugin turned it into bytes.
  void validate_and_infer_types() override {
    NODE_VALIDATION_CHECK(this, serves(input_values()), "mha: needs three or four dimensions and f32, f16 or bf16");
    if (get_input_size() < 4 || get_input_element_type(3) != ov::element::u8) return Standard::validate_and_infer_types();
    const Standard without_mask({input_value(0), input_value(1), input_value(2)}, get_causal());
    set_output_type(0, without_mask.get_output_element_type(0), without_mask.get_output_partial_shape(0));
  }

  bool has_evaluate() const override { return true; }

  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
    mha_attention_args args = {};
    const std::vector<int64_t> size = four(outputs[0]), key = four(inputs[1]), value = four(inputs[2]);
    args.batch = size[0];
    args.num_heads = size[1];
    args.num_kv_heads = std::max(key[1], value[1]);
    args.query_len = size[2];
    args.key_len = key[2];
    args.head_dim = key[3];
    args.value_head_dim = size[3];
    args.query = view_of(inputs[0], args.batch, args.num_heads);
    args.key = view_of(inputs[1], args.batch, args.num_kv_heads);
    args.value = view_of(inputs[2], args.batch, args.num_kv_heads);
    const mha_view output = view_of(outputs[0], args.batch, args.num_heads);
    args.output = {outputs[0].data(), output.dtype, 0, output.stride_b, output.stride_t, output.stride_h};
    args.causal = get_causal();
    mha_masks masks = {};
    // As the operation has it: causal without the mask; a scalar in its place is none.
    if (inputs.size() > 3 && !get_causal() && !inputs[3].get_shape().empty()) set_mask(masks, inputs[3]);
    args.masks = &masks;
    if (inputs.size() > 4) {
      args.scale = scalar(inputs[4]);
      args.scale_is_exact = 1;
    }
    mha_positions positions = {};
    positions.align = MHA_ALIGN_START;
    args.positions = &positions;
    mha_resources resources = {};
    resources.max_threads = parallel_get_max_threads();  // of the arena in which the plugin runs the request
    args.resources = &resources;
    mha_error error = {};
    OPENVINO_ASSERT(mha_attention(shared_context(), &args, &error) == MHA_OK, "mha: ", error.message);
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
