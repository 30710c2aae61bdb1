// SPDX-License-Identifier: Apache-2.0
// Norm and rotation of tokens. A work item is a run of tokens, each with all its heads, whose angles are computed once.
#include "core/prepare.h"

#include <cstring>

#include "core/plan.h"
#include "simd/float_mode.h"

namespace mha {
namespace {

using ll = long long;

// An item computes the frequencies anew, which costs as much as a token or two.
constexpr int64_t kLeastTokens = 16;

// What the sine and cosine of a pair cost, in multiply-adds of a vector kernel.
constexpr double kWorkOfAngle = 500;

int64_t items(const PrepareJob& job) { return divide_up(job.tokens(), job.block_tokens); }

struct Token {
  int64_t batch, index;  // in its item
};

Token token_at(const PrepareJob& job, int64_t token) {
  if (job.offsets == nullptr) return {token / job.length, token % job.length};
  int64_t low = 0, high = job.batch;  // offsets[low] <= token < offsets[high]
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (job.offsets[middle] <= token ? low : high) = middle;
  }
  return {low, token - job.offsets[low]};
}

int64_t position_of(const PrepareJob& job, int64_t token, const Token& at) {
  if (job.positions != nullptr) return job.positions[token];
  return (job.first_positions != nullptr ? job.first_positions[at.batch] : job.first_position) + at.index;
}

void run_prepare(const void* data, int64_t item, int64_t) {
  const PrepareJob* job = static_cast<const PreparePhase*>(data)->jobs;
  for (; item >= items(*job); ++job) item -= items(*job);
  const mha_rope& rope = job->rope;
  double frequencies[kMaxRopeDims / 2];
  float angles[2 * kMaxRopeDims];
  rope_frequencies(rope, frequencies);
  PrepareArgs args = {};
  args.input_stride = job->input.stride_h, args.output_stride = job->output.stride_h;
  args.count = job->heads, args.width = job->width;
  args.norm = job->epsilon > 0, args.epsilon = job->epsilon, args.weight = job->weight;
  args.dims = rope.dims, args.interleaved = rope.style == MHA_ROPE_INTERLEAVED;
  args.cos = angles, args.sin = angles + rope_row_floats(rope) / 2;
  const int64_t begin = item * job->block_tokens, left = job->tokens() - begin;
  const int64_t end = begin + (left < job->block_tokens ? left : job->block_tokens);
  for (int64_t token = begin; token < end; ++token) {
    const Token at = token_at(*job, token);
    if (rope.dims > 0) rope_row(rope, frequencies, position_of(*job, token, at), angles);
    const int64_t b = job->offsets != nullptr ? 0 : at.batch, t = job->offsets != nullptr ? token : at.index;
    args.input = job->input.data + b * job->input.stride_b + t * job->input.stride_t;
    args.output = job->output.data + b * job->output.stride_b + t * job->output.stride_t;
    job->table->prepare_rows(&args);
  }
}

mha_status check_positions(const mha_rope_args& a, const mha_rope& rope, mha_error* error) {
  if (rope.dims == 0) return MHA_OK;
  if (a.positions == nullptr) {
    mha_status status = check_position(rope, "first_position", -1, a.first_position, error);
    if (status != MHA_OK) return status;
    return check_position(rope, "the last position", -1, a.first_position + (a.length - 1), error);
  }
  for (int64_t i = 0; i < a.batch * a.length; ++i) {
    const mha_status status = check_position(rope, "positions", i, a.positions[i], error);
    if (status != MHA_OK) return status;
  }
  return MHA_OK;
}

mha_status validate_rope_apply(const mha_rope_args& a, PrepareJob* job, mha_error* error) {
  const struct {
    const char* name;
    int64_t value, least;
  } sizes[] = {
      {"batch", a.batch, 0}, {"length", a.length, 0}, {"num_heads", a.num_heads, 0}, {"head_dim", a.head_dim, 1}};
  for (const auto& s : sizes) {
    const mha_status status = check_size(s.name, s.value, s.least, error);
    if (status != MHA_OK) return status;
  }
  if (!(Size(a.batch) * Size(a.length) * Size(a.num_heads) * Size(a.head_dim) * Size(sizeof(float))).ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "batch %lld, length %lld, num_heads %lld, head_dim %lld: too large",
                ll{a.batch}, ll{a.length}, ll{a.num_heads}, ll{a.head_dim});
  }
  const Dimensions dimensions = {a.batch, a.length, a.num_heads, a.head_dim};
  mha_status status = check_input("input", a.input, dimensions, Check::kAll, &job->input, error);
  if (status == MHA_OK) {
    status = check_result("output", a.output, dimensions, Order::kBthd, Check::kAll, &job->output, error);
  }
  if (status == MHA_OK) status = validate_rope(a.rope, a.head_dim, &job->rope, error);
  // By its bits: a denormal epsilon compares equal to 0 here (float_mode.h).
  const float none = 0;
  const bool norm = memcmp(&a.norm_epsilon, &none, sizeof(none)) != 0;
  if (status == MHA_OK && norm) status = check_norm("norm_epsilon", a.norm_epsilon, error);
  if (status == MHA_OK && a.norm_weight != nullptr && !norm) {
    status = fail(error, MHA_ERR_ARGUMENT, "norm_epsilon is 0 (no norm), but norm_weight is given: must be > 0");
  }
  const bool empty = a.batch == 0 || a.length == 0 || a.num_heads == 0;
  if (status == MHA_OK && !empty) status = check_positions(a, job->rope, error);
  if (status != MHA_OK) return status;
  const ConstTensor& in = job->input;
  const Tensor& out = job->output;
  if (in.data == out.data && !empty &&
      (in.stride_b != out.stride_b || in.stride_t != out.stride_t || in.stride_h != out.stride_h)) {
    return fail(error, MHA_ERR_STRIDE,
                "output is the input, but its strides (%lld, %lld, %lld) are not (%lld, %lld, %lld)", ll{out.stride_b},
                ll{out.stride_t}, ll{out.stride_h}, ll{in.stride_b}, ll{in.stride_t}, ll{in.stride_h});
  }
  job->batch = a.batch, job->length = a.length, job->heads = a.num_heads, job->width = a.head_dim;
  job->epsilon = a.norm_epsilon, job->weight = a.norm_weight;
  job->positions = a.positions, job->first_position = a.first_position;
  return MHA_OK;
}

}  // namespace

double PrepareJob::work() const {
  const double rows = static_cast<double>(tokens()) * static_cast<double>(heads);
  return work_of(static_cast<double>(tokens()) * static_cast<double>(rope.dims / 2) * kWorkOfAngle,
                 rows * static_cast<double>(width) * 2 * sizeof(float));
}

int64_t plan_prepare(const PrepareJob& job, int64_t threads) {
  const int64_t share = divide_up(job.tokens(), threads > 1 ? threads * kItemsPerThread : 1);
  return share > kLeastTokens ? share : kLeastTokens;
}

Phase prepare_phase(const PreparePhase& work) {
  int64_t count = 0;
  for (int i = 0; i < work.count; ++i) count += items(work.jobs[i]);
  return {run_prepare, &work, count};
}

}  // namespace mha

extern "C" mha_status mha_rope_apply(const mha_context* context, const mha_rope_args* args, mha_error* error) {
  using namespace mha;
  const FloatMode mode;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  PreparePhase work = {};
  PrepareJob& job = work.jobs[work.count++];
  const mha_status status = validate_rope_apply(*args, &job, error);
  if (status != MHA_OK || job.tokens() == 0 || job.heads == 0) return status;
  job.table = context->table;
  const int64_t threads = useful_threads(context->num_threads, job.work());
  job.block_tokens = plan_prepare(job, threads);
  const Phase phase = prepare_phase(work);
  run_phases(*context, threads, &phase, 1);
  return MHA_OK;
}
