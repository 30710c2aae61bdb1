// SPDX-License-Identifier: Apache-2.0
// The plan of the layer's forward.
#include "core/plan/forward.h"

#include "core/base/layout.h"
#include "core/call/items.h"

namespace mha {
namespace {

// The tokens that a projection reads or writes: [batch, rows]. With a cache keys are projected from the new tokens,
// which the queries are.
struct Tokens {
  int64_t batch, rows;
};
Tokens tokens_of(const AttentionProblem& p, int projection) {
  const bool keys = (projection == kKey || projection == kValue) && p.cache == nullptr;
  const bool packed = (keys ? p.key_offsets : p.query_offsets) != nullptr;
  return {packed ? 1 : p.batch, keys ? p.key_len : p.query_len};
}

// A projection's sizes alone.
LinearProblem projection_sizes(const Forward& f, int projection) {
  const ProjectionSize size = projection_size(f.layer->config, projection);
  const Tokens tokens = tokens_of(f.attention.problem, projection);
  LinearProblem p = {};
  if (!f.projects(projection)) return p;
  p.in_features = size.in_features, p.out_features = size.out_features;
  p.batch = tokens.batch, p.rows = tokens.rows;
  p.panels_element = f.layer->element[projection];
  if (projection == kKey || projection == kValue) p.rows -= f.attention.problem.tail;
  return p;
}

}  // namespace

LinearProblem projection_problem(const Forward& f, int projection, const ConstTensor& input, const Tensor& output) {
  LinearProblem p = projection_sizes(f, projection);
  p.input = input, p.output = output;
  p.panels = f.layer->panels[projection], p.bias = f.layer->bias[projection];
  const bool one_block =
      p.batch <= 1 || p.rows == 0 ||
      (p.input.stride_b == p.rows * p.input.stride_t && p.output.stride_b == p.rows * p.output.stride_t);
  if (one_block || p.rows == 1) {
    if (p.batch > 1 && p.rows == 1) p.input.stride_t = p.input.stride_b, p.output.stride_t = p.output.stride_b;
    p.rows *= p.batch;
    p.batch = 1;
  }
  return p;
}

Tensor projected(const Forward& f, int projection, char* workspace) {
  const mha_layer_config& c = f.layer->config;
  const bool keys = projection == kKey || projection == kValue;
  const int64_t head_dim = projection == kQuery || projection == kKey ? c.head_dim : c.value_head_dim;
  char* data = workspace != nullptr ? workspace + f.plan.projected_offset[projection] : nullptr;
  return dense_floats(data, tokens_of(f.attention.problem, projection).rows, keys ? c.num_kv_heads : c.num_heads,
                      head_dim);
}

namespace {

// What a projection reads and writes; the output projection: from the heads side by side.
LinearProblem planned_projection(const Forward& f, int projection) {
  const ConstTensor* inputs[kOutput] = {&f.views.query, &f.views.key, &f.views.value};
  const Tensor own = projected(f, projection, nullptr);
  return projection == kOutput ? projection_problem(f, projection, as_const(own), f.views.output)
                               : projection_problem(f, projection, *inputs[projection], own);
}

}  // namespace

double work_of(const Forward& f) {
  double total = work_of_call(f.attention.problem);
  for (int i = 0; i < kProjections; ++i) total += projection_sizes(f, i).work();
  return total;
}

mha_status plan_forward(const mha_context& context, PlanFor what, Forward* f, mha_error* error) {
  const mha_layer_config& c = f->layer->config;
  ForwardPlan& plan = f->plan;
  // The planner looks at strides.
  f->attention.problem.query = as_const(projected(*f, kQuery, nullptr));
  f->attention.problem.key = as_const(projected(*f, kKey, nullptr));
  f->attention.problem.value = as_const(projected(*f, kValue, nullptr));
  if (what == PlanFor::kBound) {
    plan.threads = context.num_threads;
    MHA_TRY(bound_attention(*context.table, plan.threads, f->attention.problem, &f->attention.plan, error));
  } else {
    plan.threads = context.num_threads > 1 ? useful_threads(context.num_threads, work_of(*f)) : 1;
    MHA_TRY(plan_attention(*context.table, plan.threads, f->attention.problem, false, &f->attention.plan, error));
  }
  Layout layout;
  for (int i = 0; i < kProjections; ++i) {
    const int64_t width = i == kOutput ? c.num_heads * c.value_head_dim : projection_size(c, i).out_features;
    const Tokens tokens = tokens_of(f->attention.problem, i);
    const Size floats = f->projects(i) ? Size(tokens.batch) * Size(tokens.rows) * Size(width) : Size(0);
    plan.projected_offset[i] = layout.append(floats * Size(kFloatBytes));
  }
  plan.attention_offset = layout.append(Size(f->attention.plan.bytes));
  plan.linear_scratch = 0;
  for (int i = 0; i < kProjections; ++i) {
    if (!f->projects(i)) continue;
    const LinearPlan linear = plan_linear(*context.table, plan.threads, planned_projection(*f, i));
    plan.linear_scratch = most(plan.linear_scratch, round_up(linear.scratch_floats, kPanel));
  }
  plan.linear_offset = layout.append(Size(plan.threads) * Size(plan.linear_scratch) * Size(kFloatBytes));
  if (!(layout.bytes() + Size(64)).ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "batch %lld, query_len %lld, key_len %lld: the workspace exceeds 2^63 bytes",
                static_cast<long long>(f->attention.problem.batch),
                static_cast<long long>(f->attention.problem.query_len),
                static_cast<long long>(f->attention.problem.key_len));
  }
  plan.bytes = layout.bytes().value();
  return MHA_OK;
}

void explain_projections(const mha_context& context, const Forward& f, Text* out) {
  static const char* const kNames[kProjections] = {"query projection", "key projection", "value projection",
                                                   "output projection"};
  explain_linear_kernel(*context.table, out);
  for (int i = 0; i < kProjections; ++i) {
    if (!f.projects(i)) {
      out->line("%s: none, the cache is read as it is", kNames[i]);
      continue;
    }
    const LinearProblem p = planned_projection(f, i);
    explain_linear(kNames[i], p, plan_linear(*context.table, f.plan.threads, p), f.plan.threads, out);
  }
}

}  // namespace mha
