// SPDX-License-Identifier: Apache-2.0
// The arguments of a linear's calls.
#include "core/call/checks.h"
#include "core/call/linear.h"

namespace mha {

mha_status linear_problem(const mha_linear& linear, const mha_linear_args& a, Check check, LinearProblem* p,
                          mha_error* error) {
  MHA_TRY(check_reserved("args", a.reserved, error));
  MHA_TRY(check_size("rows", a.rows, 0, error));
  MHA_TRY(check_no_stride("input", "b", a.input.stride_b, error));
  MHA_TRY(check_no_stride("input", "h", a.input.stride_h, error));
  MHA_TRY(check_no_stride("output", "b", a.output.stride_b, error));
  MHA_TRY(check_no_stride("output", "h", a.output.stride_h, error));
  const Dimensions in = {1, a.rows, 1, linear.in_features}, out = {1, a.rows, 1, linear.out_features};
  MHA_TRY(check_input("input", a.input, in, check, &p->input, error));
  MHA_TRY(check_result("output", a.output, out, Order::kBthd, check, &p->output, error));
  if (check != Check::kSizesOnly) {
    const NamedExtent result = {"output", extent_of(p->output, out)}, source = {"input", extent_of(p->input, in)};
    MHA_TRY(check_overlaps(&result, 1, &source, 1, error));
  }
  p->arithmetic = linear.arithmetic;
  p->batch = 1, p->rows = a.rows;
  p->weight = linear.weight, p->bias = linear.bias;
  p->in_features = linear.in_features, p->out_features = linear.out_features;
  return MHA_OK;
}

mha_status validate_linear_config(const mha_linear_config& c, WeightSource* weight, mha_error* error) {
  MHA_TRY(check_reserved("config", c.reserved, error));
  MHA_TRY(check_sizes({{"in_features", c.in_features, 1}, {"out_features", c.out_features, 1}}, error));
  MHA_TRY(check_arithmetic(c.arithmetic, error));
  MHA_TRY(check_layout(c.layout, error));
  return check_weight("weight", c.weight, c.layout, c.out_features, c.in_features, weight, error);
}

}  // namespace mha
