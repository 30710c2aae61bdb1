// SPDX-License-Identifier: Apache-2.0
// Custom operators: what ONNX Runtime asks about one, in a table.
#pragma once

#include <vector>

#include "host.h"

namespace host {

struct Port {
  ort::ElementType type;
  ort::Characteristic characteristic;
};

struct Op : ort::CustomOp {
  const char* name;
  int first_version;  // of the operator set, from which on it is this operator
  std::vector<Port> inputs, outputs;
  Kernel* (*make)(const Node&);

  Op(const char* name, int first_version, std::vector<Port> inputs, std::vector<Port> outputs,
     Kernel* (*make)(const Node&));
};

// The domain of a library and its operators: onnx_domain.cpp, microsoft_domain.cpp. A library has one domain, because
// the other must not always be registered (README.md).
const char* domain_name();
std::vector<Op> domain_ops();

// Each file of operators adds its own.
void add_linear(std::vector<Op>& ops);                 // MatMul and Gemm of ai.onnx
void add_onnx_attention(std::vector<Op>& ops);         // Attention of ai.onnx
void add_multi_head_attention(std::vector<Op>& ops);   // MultiHeadAttention of com.microsoft
void add_group_query_attention(std::vector<Op>& ops);  // GroupQueryAttention of com.microsoft

}  // namespace host
