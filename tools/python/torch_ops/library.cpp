// SPDX-License-Identifier: Apache-2.0
// Registers the ops with torch, in the namespace mha, through torch's stable ABI only.
#include "ops.h"
#include "runtime.h"

namespace {

void target_op(StableIValue* stack, uint64_t /*num_args*/, uint64_t /*num_outputs*/) {
  const mha_context* context = mha_torch::current_context();
  stack[0] = torch::stable::detail::from(std::string(mha_context_target(context)));
}

// What a process without Python has instead of the implementation in Python.
void requires_grad_op(StableIValue* stack, uint64_t /*num_args*/, uint64_t /*num_outputs*/) {
  mha_torch::Stack reader(stack);
  for (int i = 0; i < 3; ++i) reader.next<mha_torch::Tensor>();
  stack[0] = torch::stable::detail::from(false);
}

}  // namespace

STABLE_TORCH_LIBRARY(mha, library) {
  library.def(mha_torch::attention_schema().c_str());
  library.def(mha_torch::attention_with_weights_schema().c_str());
  library.def(mha_torch::linear_pack_schema().c_str());
  library.def(mha_torch::linear_schema().c_str());
  library.def(mha_torch::layer_pack_schema().c_str());
  library.def(mha_torch::layer_schema().c_str());
  library.def(mha_torch::layer_with_weights_schema().c_str());
  library.def("_target() -> str");
  // Whether one of the tensors requires a gradient. Python implements it; torch's stable ABI cannot tell.
  library.def("_requires_grad(Tensor first, Tensor second, Tensor third) -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(mha, CPU, library) {
  library.impl("scaled_dot_product_attention", mha_torch::attention_op);
  library.impl("scaled_dot_product_attention_with_weights", mha_torch::attention_with_weights_op);
  library.impl("linear_pack", mha_torch::linear_pack_op);
  library.impl("linear", mha_torch::linear_op);
  library.impl("layer_pack", mha_torch::layer_pack_op);
  library.impl("layer", mha_torch::layer_op);
  library.impl("layer_with_weights", mha_torch::layer_with_weights_op);
}

STABLE_TORCH_LIBRARY_IMPL(mha, CompositeExplicitAutograd, library) {
  library.impl("_target", target_op);
  library.impl("_requires_grad", requires_grad_op);
}
