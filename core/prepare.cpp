// SPDX-License-Identifier: Apache-2.0
// Norm and rotation of tokens. A work item is a run of tokens, each with all its heads, whose angles are computed once.
#include "core/prepare.h"

#include <cstring>

#include "core/items.h"
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
  TokenPreparer prepare(*job->table, job->rope, job->epsilon, job->weight, job->heads, job->width);
  const int64_t begin = item * job->block_tokens, end = least(begin + job->block_tokens, job->tokens());
  for (int64_t token = begin; token < end; ++token) {
    const Token at = token_at(*job, token);
    const int64_t b = job->offsets != nullptr ? 0 : at.batch, t = job->offsets != nullptr ? token : at.index;
    prepare.run(position_of(*job, token, at), job->input.data + b * job->input.stride_b + t * job->input.stride_t,
                job->input.stride_h, job->output.data + b * job->output.stride_b + t * job->output.stride_t,
                job->output.stride_h);
  }
}

mha_status check_given(const mha_rope& rope, const char* name, const int64_t* positions, int64_t count,
                       mha_error* error) {
  for (int64_t i = 0; i < count; ++i) {
    const mha_status status = check_position(rope, name, i, positions[i], error);
    if (status != MHA_OK) return status;
  }
  return MHA_OK;
}

// Positions that count on from `first`, which is called `name`.
mha_status check_counted(const mha_rope& rope, const char* name, int64_t first, int64_t count, mha_error* error) {
  const mha_status status = check_position(rope, name, -1, first, error);
  return status != MHA_OK ? status : check_position(rope, "the last position", -1, first + (count - 1), error);
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
  const ViewSizes view = {a.batch, a.length, a.num_heads, a.head_dim};
  mha_status status = check_view("input", a.input, view, &job->input, error);
  if (status == MHA_OK) status = check_view("output", a.output, view, &job->output, error);
  if (status == MHA_OK) status = validate_rope(a.rope, a.head_dim, &job->rope, error);
  const bool norm = is_given(a.norm_epsilon);
  if (status == MHA_OK && norm) status = check_norm("norm_epsilon", a.norm_epsilon, error);
  if (status == MHA_OK && a.norm_weight != nullptr && !norm) {
    status = fail(error, MHA_ERR_ARGUMENT, "norm_epsilon is 0 (no norm), but norm_weight is given: must be > 0");
  }
  const bool empty = a.batch == 0 || a.length == 0 || a.num_heads == 0;
  if (status == MHA_OK && !empty && job->rope.dims > 0) {
    status = a.positions != nullptr ? check_given(job->rope, "positions", a.positions, a.batch * a.length, error)
                                    : check_counted(job->rope, "first_position", a.first_position, a.length, error);
  }
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
  return work_of(static_cast<double>(tokens()) * static_cast<double>(rope.dims) / 2 * kWorkOfAngle,
                 rows * static_cast<double>(width) * 2 * sizeof(float));
}

TokenPreparer::TokenPreparer(const KernelTable& table, const mha_rope& rope, float epsilon, const float* weight,
                             int64_t heads, int64_t width)
    : table_(table), angles_(table, rope), args_() {
  args_.count = heads, args_.width = width;
  args_.norm = epsilon > 0, args_.epsilon = epsilon, args_.weight = weight;
  args_.dims = rope.dims, args_.interleaved = rope.style == MHA_ROPE_INTERLEAVED;
  args_.cos = angles_.cosines(), args_.sin = angles_.sines();
}

void TokenPreparer::run(int64_t position, const float* input, int64_t input_stride, float* output,
                        int64_t output_stride) {
  if (args_.dims > 0) angles_.turn_to(position);
  args_.input = input, args_.input_stride = input_stride;
  args_.output = output, args_.output_stride = output_stride;
  table_.prepare_rows(&args_);
}

int64_t plan_prepare(const PrepareJob& job, int64_t threads) {
  const int64_t share = divide_up(job.tokens(), threads > 1 ? threads * kItemsPerThread : 1);
  return most(share, kLeastTokens);
}

Phase prepare_phase(const PreparePhase& work) {
  int64_t count = 0;
  for (int i = 0; i < work.count; ++i) count += items(work.jobs[i]);
  return {run_prepare, &work, count};
}

bool is_given(float epsilon) {
  uint32_t bits = 0;
  memcpy(&bits, &epsilon, sizeof(bits));
  return bits != 0;
}

namespace {

mha_status check_query_positions(const AttentionProblem& p, mha_error* error) {
  const Preparation& r = p.preparation;
  if (r.positions != nullptr) return check_given(r.rope, "positions", r.positions, p.total_queries(), error);
  mha_status status = MHA_OK;
  for (int64_t b = 0; b < p.batch && status == MHA_OK; ++b) {
    if (query_len_of(p, b) == 0) continue;
    status = check_counted(r.rope, "position of the first query (by the masks, since positions is NULL)",
                           position_of(p, b, 0), query_len_of(p, b), error);
    if (p.uniform()) break;
  }
  return status;
}

}  // namespace

mha_status check_preparation(const PreparationArgs& args, Check check, AttentionProblem* p, mha_error* error) {
  Preparation r = {};
  r.norm = args.norm != nullptr, r.rotate = args.rope != nullptr;
  r.positions = args.positions, r.key_positions = args.key_positions;
  if (check != Check::kSizesOnly) {
    mha_status status = validate_rope(args.rope, p->head_dim, &r.rope, error);
    if (status == MHA_OK && r.norm) status = check_norm("norm.epsilon", args.norm->epsilon, error);
    if (status != MHA_OK) return status;
    if (r.norm) {
      r.epsilon = args.norm->epsilon;
      r.query_weight = args.norm->query_weight, r.key_weight = args.norm->key_weight;
    }
  }
  p->preparation = r;
  if (check == Check::kSizesOnly || !r.rotate || p->nothing_to_do()) return MHA_OK;
  const mha_status status = check_query_positions(*p, error);
  if (status != MHA_OK || p->copies_queries || p->longest_key_len == 0) return status;  // no keys are prepared
  if (r.key_positions == nullptr) return check_counted(r.rope, "position of key 0", 0, p->longest_key_len, error);
  const int64_t keys = p->key_offsets != nullptr ? p->key_len : p->batch * p->key_len;
  return check_given(r.rope, "key_positions", r.key_positions, keys, error);
}

PrepareJob query_job(const KernelTable& table, const AttentionProblem& p, int64_t threads, const Tensor& output,
                     int64_t* first_positions) {
  const Preparation& r = p.preparation;
  PrepareJob job = {};
  job.table = &table, job.input = p.query, job.output = output;
  job.batch = p.batch, job.length = p.query_len, job.offsets = p.query_offsets;
  job.heads = p.heads, job.width = p.head_dim;
  job.rope = r.rope, job.epsilon = r.epsilon, job.weight = r.query_weight, job.positions = r.positions;
  if (p.uniform()) {
    job.first_position = position_of(p, 0, 0);
  } else {
    for (int64_t b = 0; b < p.batch; ++b) first_positions[b] = position_of(p, b, 0);
    job.first_positions = first_positions;
  }
  job.block_tokens = plan_prepare(job, threads);
  return job;
}

PrepareJob key_job(const KernelTable& table, const AttentionProblem& p, int64_t threads, const Tensor& keys,
                   int64_t* first_positions) {
  const Preparation& r = p.preparation;
  PrepareJob job = {};
  job.table = &table, job.input = {keys.data, keys.stride_b, keys.stride_t, keys.stride_h}, job.output = keys;
  job.batch = p.batch, job.length = p.key_len - p.tail, job.offsets = p.key_offsets;
  job.heads = p.kv_heads, job.width = p.head_dim;
  job.rope = r.rope, job.epsilon = r.epsilon, job.weight = r.key_weight, job.positions = r.key_positions;
  if (p.cache != nullptr) {  // the new tokens, which follow those that are there
    job.length = p.query_len, job.offsets = p.query_offsets;
    for (int64_t b = 0; b < p.batch; ++b) first_positions[b] = key_len_of(p, b) - query_len_of(p, b);
    job.first_positions = first_positions;
  }
  job.block_tokens = plan_prepare(job, threads);
  return job;
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
