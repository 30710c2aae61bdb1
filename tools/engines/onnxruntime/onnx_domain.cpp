// SPDX-License-Identifier: Apache-2.0
// The operators of ai.onnx.
#include "op.h"

namespace host {

const char* domain_name() { return ""; }

std::vector<Op> domain_ops() {
  std::vector<Op> ops;
  add_onnx_attention(ops);
  add_linear(ops);
  return ops;
}

}  // namespace host
