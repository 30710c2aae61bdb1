// SPDX-License-Identifier: Apache-2.0
// The operators of com.microsoft.
#include "op.h"

namespace host {

const char* domain_name() { return "com.microsoft"; }

std::vector<Op> domain_ops() {
  std::vector<Op> ops;
  add_multi_head_attention(ops);
  add_group_query_attention(ops);
  return ops;
}

}  // namespace host
