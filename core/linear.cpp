// SPDX-License-Identifier: Apache-2.0
// Linear: the packed GEMM as a public call, and its stage for the layer.
#include "core/linear.h"

#include <cstring>

#include "simd/float_mode.h"

struct mha_linear {
  int64_t in_features, out_features;
  const float* panels;
  const float* bias;  // padded, or null
  mha_allocator allocator;
  size_t bytes;  // of the allocation that begins with this struct
};

namespace mha {
namespace {

// Weights from here on (32 MiB) come from memory, or the far end of the outermost cache, in each call: gemm then asks
// for them further ahead. Below it is of no use (M 1 and 4, N and K 1024: 1 % slower; M 1, N and K 2048: as fast).
constexpr int64_t kFarFloats = 8 * 1024 * 1024;

void run_linear(const void* data, int64_t item, int64_t) {
  const LinearPhase& work = *static_cast<const LinearPhase*>(data);
  const LinearJob* job = work.jobs;
  for (; item >= job->plan.items; ++job) item -= job->plan.items;
  const LinearProblem& p = job->problem;
  // Row blocks innermost: the threads then share the columns of the weights in the outer caches.
  int64_t row = 0, batch = 0, column = 0;
  if (job->plan.items > 1) {
    row = item % job->plan.row_blocks * job->plan.block_rows;
    batch = item / job->plan.row_blocks % p.batch;
    column = item / (job->plan.row_blocks * p.batch) * job->plan.block_columns;
  }
  GemmArgs args = {};
  args.a = p.input + batch * p.input_stride_b + row * p.input_stride;
  args.a_stride = p.input_stride;
  args.panels = p.panels + column * p.in_features;
  args.bias = p.bias != nullptr ? p.bias + column : nullptr;
  args.c = p.output + batch * p.output_stride_b + row * p.output_stride + column;
  args.c_stride = p.output_stride;
  args.m = p.rows - row < job->plan.block_rows ? p.rows - row : job->plan.block_rows;
  args.n = p.out_features - column < job->plan.block_columns ? p.out_features - column : job->plan.block_columns;
  args.k = p.in_features;
  args.far = p.in_features * p.out_features >= kFarFloats;
  job->table->gemm(&args);
}

}  // namespace

void pack_bias(const float* bias, int64_t out_features, float* packed) {
  const size_t used = static_cast<size_t>(out_features) * sizeof(float);
  memcpy(packed, bias, used);
  memset(packed + out_features, 0, static_cast<size_t>(round_up(out_features, kPanel)) * sizeof(float) - used);
}

LinearJob make_linear_job(const KernelTable& table, int64_t threads, const LinearProblem& problem) {
  return {&table, problem, plan_linear(table, threads, problem)};
}

Phase linear_phase(const LinearPhase& work) {
  int64_t items = 0;
  for (int i = 0; i < work.count; ++i) items += work.jobs[i].plan.items;
  return {run_linear, &work, items};
}

mha_status linear_problem(const mha_linear& linear, const mha_linear_args& a, Check check, LinearProblem* p,
                          mha_error* error) {
  using ll = long long;
  mha_status status = check_size("rows", a.rows, 0, error);
  if (status != MHA_OK) return status;
  if (a.input_stride < 0) {
    return fail(error, MHA_ERR_STRIDE, "input_stride is %lld: must be >= 0", static_cast<ll>(a.input_stride));
  }
  p->input_stride = a.input_stride != 0 ? a.input_stride : linear.in_features;
  p->output_stride = a.output_stride != 0 ? a.output_stride : linear.out_features;
  if (p->output_stride < linear.out_features) {
    return fail(error, MHA_ERR_STRIDE, "output_stride is %lld: must be 0 or at least out_features (%lld)",
                static_cast<ll>(a.output_stride), static_cast<ll>(linear.out_features));
  }
  const Size input = (Size(a.rows) * Size(p->input_stride) + Size(linear.in_features)) * Size(sizeof(float));
  const Size output = (Size(a.rows) * Size(p->output_stride) + Size(linear.out_features)) * Size(sizeof(float));
  if (!input.ok() || !output.ok()) {
    return fail(error, MHA_ERR_OVERFLOW,
                "rows %lld with input_stride %lld and output_stride %lld ends beyond 2^63 bytes",
                static_cast<ll>(a.rows), static_cast<ll>(p->input_stride), static_cast<ll>(p->output_stride));
  }
  const bool pointers = check == Check::kAll && a.rows > 0;
  if (pointers && a.input == nullptr) return fail(error, MHA_ERR_NULL, "input is NULL");
  if (pointers && a.output == nullptr) return fail(error, MHA_ERR_NULL, "output is NULL");
  p->input = a.input, p->output = a.output, p->batch = 1, p->rows = a.rows;
  p->panels = linear.panels, p->bias = linear.bias;
  p->in_features = linear.in_features, p->out_features = linear.out_features;
  return MHA_OK;
}

}  // namespace mha

extern "C" mha_status mha_linear_create(const mha_context* context, int64_t in_features, int64_t out_features,
                                        const float* weight, const float* bias, mha_linear** linear, mha_error* error) {
  using namespace mha;
  if (linear == nullptr) return fail(error, MHA_ERR_NULL, "linear is NULL");
  *linear = nullptr;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (weight == nullptr) return fail(error, MHA_ERR_NULL, "weight is NULL");
  mha_status status = check_size("in_features", in_features, 1, error);
  if (status == MHA_OK) status = check_size("out_features", out_features, 1, error);
  if (status != MHA_OK) return status;
  Layout layout;
  layout.append(Size(sizeof(mha_linear)));
  const int64_t weight_at = layout.append(packed_weight_floats(in_features, out_features) * Size(sizeof(float)));
  const int64_t bias_at = layout.append(packed_bias_floats(out_features) * Size(sizeof(float)));
  if (!layout.bytes().ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "in_features %lld x out_features %lld: the packed weights exceed 2^63 bytes",
                static_cast<long long>(in_features), static_cast<long long>(out_features));
  }
  const size_t bytes = static_cast<size_t>(layout.bytes().value());
  char* block = static_cast<char*>(allocate(context->allocator, bytes));
  if (block == nullptr) return fail(error, MHA_ERR_OUT_OF_MEMORY, "no memory for packed weights of %zu bytes", bytes);
  float* panels = reinterpret_cast<float*>(block + weight_at);
  float* packed_bias = reinterpret_cast<float*>(block + bias_at);
  context->table->pack_panels(weight, in_features, out_features, in_features, panels);
  if (bias != nullptr) pack_bias(bias, out_features, packed_bias);
  mha_linear* made = reinterpret_cast<mha_linear*>(block);
  *made = {in_features, out_features, panels, bias != nullptr ? packed_bias : nullptr, context->allocator, bytes};
  *linear = made;
  return MHA_OK;
}

extern "C" void mha_linear_destroy(mha_linear* linear) {
  if (linear == nullptr) return;
  const mha_allocator allocator = linear->allocator;
  mha::release(allocator, linear, linear->bytes);
}

extern "C" int64_t mha_linear_in_features(const mha_linear* linear) {
  return linear != nullptr ? linear->in_features : 0;
}
extern "C" int64_t mha_linear_out_features(const mha_linear* linear) {
  return linear != nullptr ? linear->out_features : 0;
}

extern "C" mha_status mha_linear_forward(const mha_context* context, const mha_linear* linear,
                                         const mha_linear_args* args, mha_error* error) {
  using namespace mha;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (linear == nullptr) return fail(error, MHA_ERR_NULL, "linear is NULL");
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  LinearProblem problem = {};
  const mha_status status = linear_problem(*linear, *args, Check::kAll, &problem, error);
  if (status != MHA_OK || problem.rows == 0) return status;
  LinearPhase work = {};
  const int64_t threads = useful_threads(context->num_threads, problem.work());
  work.jobs[work.count++] = make_linear_job(*context->table, threads, problem);
  const Phase phase = linear_phase(work);
  const FloatMode mode;
  run_phases(*context, threads, &phase, 1);
  return MHA_OK;
}
