// SPDX-License-Identifier: Apache-2.0
// The packed GEMM as a stage of calls.
#include "core/run/project.h"

namespace mha {
namespace {

// Weights of this size or more (32 MiB) come from memory, or the far end of the outermost cache, in each call, so gemm
// prefetches them further ahead. Smaller ones come soon enough without, and the prefetches would only take time.
constexpr int64_t kFarFloats = 8 * 1024 * 1024;

void run_linear(const void* data, int64_t item, int64_t slot) {
  const LinearPhase& work = *static_cast<const LinearPhase*>(data);
  const LinearJob* const* jobs = work.jobs;
  for (; item >= (*jobs)->plan.items; ++jobs) item -= (*jobs)->plan.items;
  const LinearJob* job = *jobs;
  const LinearProblem& p = job->problem;
  // Row blocks innermost: the threads then share the columns of the weights in the outer caches.
  int64_t row = 0, batch = 0, column = 0;
  if (job->plan.items > 1) {
    row = item % job->plan.row_blocks * job->plan.block_rows;
    batch = item / job->plan.row_blocks % p.batch;
    column = item / (job->plan.row_blocks * p.batch) * job->plan.block_columns;
  }
  GemmArgs args;  // not cleared: every field follows
  args.a = p.input.data + batch * p.input.stride_b + row * p.input.stride_t;
  args.a_stride = p.input.stride_t, args.a_element = p.input.element;
  const WeightForm& form = p.weight.form;
  const int64_t panel = column / kPanel;
  args.panels = p.weight.panels + panel * panel_bytes(p.arithmetic, form.element, p.in_features);
  args.panels_element = form.element;
  args.scales = args.zeros = nullptr, args.group = 0;
  args.scale_element = form.scale_element, args.zero_element = form.zero_element;
  if (is_code(form.element)) {
    const int64_t scale = panel * weight_groups(form, p.in_features) * kPanel;
    args.scales = p.weight.scales + scale * bytes_of(form.scale_element);
    if (form.has_zeros) args.zeros = p.weight.zeros + scale * row_bytes(form.zero_element, 1);
    args.group = form.group != 0 ? form.group : p.in_features;
  }
  args.bias = p.bias != nullptr ? p.bias + column : nullptr;
  args.c = p.output.data + batch * p.output.stride_b + row * p.output.stride_t + column * bytes_of(p.output.element);
  args.c_stride = p.output.stride_t, args.c_element = p.output.element;
  args.scratch = job->plan.scratch_floats > 0 ? job->scratch + slot * job->scratch_step : nullptr;
  args.m = p.rows - row < job->plan.block_rows ? p.rows - row : job->plan.block_rows;
  args.n = p.out_features - column < job->plan.block_columns ? p.out_features - column : job->plan.block_columns;
  args.k = p.in_features;
  args.far = p.in_features * p.out_features >= kFarFloats;
  job->kernels->gemm(&args);
}

}  // namespace

Phase linear_phase(const LinearPhase& work) {
  int64_t items = 0;
  for (int i = 0; i < work.count; ++i) items += work.jobs[i]->plan.items;
  return {run_linear, &work, items};
}

}  // namespace mha
