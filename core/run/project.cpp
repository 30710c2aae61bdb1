// SPDX-License-Identifier: Apache-2.0
// The packed GEMM as a stage of calls.
#include "core/run/project.h"

#include <cstring>

#include "core/run/storage_error.h"

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
  args.panels = p.panels + column * packed_depth(p.arithmetic, p.in_features) * bytes_of(p.panels_element);
  args.panels_element = p.panels_element;
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

void pack_bias(const float* bias, int64_t out_features, float* packed) {
  const size_t used = static_cast<size_t>(out_features) * sizeof(float);
  memcpy(packed, bias, used);
  memset(packed + out_features, 0, static_cast<size_t>(round_up(out_features, kPanel)) * sizeof(float) - used);
}

void pack_weight(const LinearKernels& kernels, const ConstTensor& weight, int64_t rows, int64_t columns, int64_t depth,
                 Element element, char* panels) {
  ConvertArgs args = {};
  args.src = weight.data, args.src_stride = weight.stride_t, args.src_element = weight.element;
  args.dst = panels, args.dst_element = element;
  args.rows = rows, args.columns = columns;
  kernels.pack_weights(&args);
  // The rest of the last line is saved, too, so it must not hold what was in memory before.
  const int64_t bytes = round_up(rows, kPanel) * depth * bytes_of(element);
  memset(panels + bytes, 0, static_cast<size_t>(round_up(bytes, 64) - bytes));
}

mha_storage_error measure_storage(const KernelTable& table, const ConstTensor& given, int64_t rows, int64_t columns,
                                  Element kept) {
  StorageErrorSum sum(table);
  for (int64_t r = 0; r < rows; ++r) sum.add(given.data + r * given.stride_t, given.element, columns, kept);
  return sum.error();
}

Phase linear_phase(const LinearPhase& work) {
  int64_t items = 0;
  for (int i = 0; i < work.count; ++i) items += work.jobs[i]->plan.items;
  return {run_linear, &work, items};
}

}  // namespace mha
