// SPDX-License-Identifier: Apache-2.0
// The plan of the layer's forward.
#include "core/plan/forward.h"

#include "core/base/layout.h"
#include "core/call/items.h"
#include "simd/dispatch.h"

namespace mha {
namespace {

// Writes the sizes of a projection into *p. Returning a problem would copy it, which costs too much in a small call.
void set_sizes(const Forward& f, int projection, LinearProblem* p) {
  if (!f.projects(projection)) return;
  p->arithmetic = static_cast<Arithmetic>(f.layer->config.arithmetic);
  const ProjectionSize size = projection_size(f.layer->config, projection);
  const ProjectedTokens tokens = projected_tokens(f.attention.problem, projection);
  p->in_features = size.in_features, p->out_features = size.out_features;
  p->batch = tokens.batch, p->rows = tokens.rows;
  p->weight = f.layer->weight[projection];
  p->bias = f.layer->bias[projection];
  if (projection == kKey || projection == kValue) p->rows -= f.attention.problem.tail;
}

// What a projection reads and writes, as far as it is known before there is a workspace.
void set_tensors(const Forward& f, int projection, LinearProblem* p) {
  const Tensor own = projected(f, projection, nullptr);
  if (projection == kOutput) {
    p->input = as_const(own), p->output = f.views.output;
  } else {
    p->input = projection == kQuery ? f.views.query : projection == kKey ? f.views.key : f.views.value;
    p->output = own;
  }
  const bool one_block =
      p->batch <= 1 || p->rows == 0 ||
      (p->input.stride_b == p->rows * p->input.stride_t && p->output.stride_b == p->rows * p->output.stride_t);
  if (!one_block && p->rows != 1) return;
  if (p->batch > 1 && p->rows == 1) p->input.stride_t = p->input.stride_b, p->output.stride_t = p->output.stride_b;
  p->rows *= p->batch;
  p->batch = 1;
}

}  // namespace

Tensor projected(const Forward& f, int projection, char* workspace) {
  char* data = workspace != nullptr ? workspace + f.plan.projected_offset[projection] : nullptr;
  return projected_tensor(f.layer->config, f.attention.problem, projection, data);
}

double work_of(const Forward& f) {
  double total = work_of_call(f.attention.problem);
  for (int i = 0; i < kProjections; ++i) {
    LinearProblem p = {};
    set_sizes(f, i, &p);
    total += p.work();
  }
  return total;
}

mha_status plan_forward(const mha_context& context, PlanFor what, Forward* f, mha_error* error) {
  const mha_layer_config& c = f->layer->config;
  ForwardPlan& plan = f->plan;
  if (what == PlanFor::kBound) {
    plan.threads = context.num_threads;
    MHA_TRY(bound_attention(*context.table, plan.threads, f->attention.problem, &f->attention.plan, error));
  } else {
    plan.threads = context.num_threads > 1 ? useful_threads(context.num_threads, work_of(*f)) : 1;
    MHA_TRY(plan_attention(*context.table, plan.threads, f->attention.problem, false, &f->attention.plan, error));
  }
  MHA_TRY(check_target(*context.table, static_cast<Arithmetic>(c.arithmetic), error));
  Layout layout;
  for (int i = 0; i < kProjections; ++i) {
    const int64_t width = i == kOutput ? c.num_heads * c.value_head_dim : projection_size(c, i).out_features;
    const ProjectedTokens tokens = projected_tokens(f->attention.problem, i);
    const Size floats = f->projects(i) ? Size(tokens.batch) * Size(tokens.rows) * Size(width) : Size(0);
    plan.projected_offset[i] = layout.append(floats * Size(kFloatBytes));
  }
  plan.attention_offset = layout.append(Size(f->attention.plan.bytes));
  plan.linear_scratch = 0;
  for (int i = 0; i < kProjections; ++i) {
    if (!f->projects(i)) continue;
    LinearJob& job = plan.linears[i];
    set_sizes(*f, i, &job.problem);
    job.kernels = &linear_kernels_of(*context.table, job.problem.arithmetic, job.problem.weight.form.element);
    set_tensors(*f, i, &job.problem);
    job.plan = plan_linear(*job.kernels, plan.threads, job.problem);
    plan.linear_scratch = most(plan.linear_scratch, round_up(job.plan.scratch_floats, kPanel));
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

void explain_projections(const Forward& f, Text* out) {
  static const char* const kNames[kProjections] = {"query projection", "key projection", "value projection",
                                                   "output projection"};
  explain_linear_kernel(*f.plan.linears[kOutput].kernels, out);
  for (int i = 0; i < kProjections; ++i) {
    if (!f.projects(i)) {
      out->line("%s: none, the cache is read as it is", kNames[i]);
      continue;
    }
    const LinearJob& job = f.plan.linears[i];
    explain_linear(kNames[i], job.problem, job.plan, f.plan.threads, out);
  }
}

}  // namespace mha
