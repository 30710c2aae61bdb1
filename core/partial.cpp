// SPDX-License-Identifier: Apache-2.0
// Partial results of attention, one for each chunk of keys, and their merge: a context split over calls, processes or
// machines. What run_attention.cpp keeps in the workspace between its phases, handed out.
#include "core/items.h"
#include "core/log_sum_exp.h"
#include "core/rows.h"
#include "core/run_attention.h"
#include "core/validate.h"
#include "simd/float_mode.h"

namespace mha {
namespace {

using ll = long long;

mha_status prepare(const mha_attention_args* args, Check check, AttentionProblem* p, int64_t* floats,
                   mha_error* error) {
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  mha_attention_args a = *args;
  a.output = {}, a.log_sum_exp = nullptr, a.weights_mode = MHA_WEIGHTS_NONE, a.mods.sink_logits = nullptr;
  const mha_status status = validate_attention(&a, check, p, error);
  if (status != MHA_OK) return status;
  if (!p->uniform() && p->batch > 1) {
    return fail(error, MHA_ERR_UNSUPPORTED, "batch is %lld: partial results of items of unequal length come one by one",
                ll{p->batch});
  }
  const Size chunks = Size(most(1, divide_up(p->longest_key_len, kChunk)));
  const Size all = chunks * Size(p->heads) * Size(p->total_queries()) * Size(partial_width(p->value_head_dim));
  if (!(all * Size(sizeof(float))).ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "the partial results for key_len %lld exceed 2^63 bytes",
                ll{p->longest_key_len});
  }
  *floats = p->nothing_to_do() ? 0 : all.value();
  return MHA_OK;
}

struct MergeJob {
  const KernelTable* table;
  mha_merge_args args;
  Tensor output;
  int64_t rows;
};

void run_merge_row(const void* data, int64_t row, int64_t) {
  const MergeJob& job = *static_cast<const MergeJob*>(data);
  const mha_merge_args& a = job.args;
  const int64_t i = row % a.query_len, h = row / a.query_len % a.num_heads, b = row / a.query_len / a.num_heads;
  RowState state = {};
  MergeArgs merge = {};
  if (a.num_chunks > 0) {  // else partials may be null
    merge.partial_outputs = a.partials + row * a.value_head_dim;
    merge.partial_states = reinterpret_cast<const RowState*>(a.partials + job.rows * a.value_head_dim + row * 2);
  }
  merge.step = job.rows * partial_width(a.value_head_dim);
  merge.num_chunks = a.num_chunks;
  merge.value_head_dim = a.value_head_dim;
  merge.output = job.output.data + b * job.output.stride_b + i * job.output.stride_t + h * job.output.stride_h;
  merge.state = &state;
  merge.has_sink = a.sink_logits != nullptr;
  merge.sink = a.sink_logits != nullptr ? sink_in_log2(a.sink_logits[h]) : 0;
  job.table->merge(&merge);
  if (a.log_sum_exp != nullptr) a.log_sum_exp[row] = log_sum_exp(state);
}

mha_status check_merge(const mha_merge_args& a, MergeJob* job, mha_error* error) {
  const struct {
    const char* name;
    int64_t value, least;
  } sizes[] = {{"batch", a.batch, 0},
               {"num_heads", a.num_heads, 0},
               {"query_len", a.query_len, 0},
               {"value_head_dim", a.value_head_dim, 1},
               {"num_chunks", a.num_chunks, 0}};
  for (const auto& s : sizes) {
    const mha_status status = check_size(s.name, s.value, s.least, error);
    if (status != MHA_OK) return status;
  }
  const Size rows = Size(a.batch) * Size(a.num_heads) * Size(a.query_len);
  const Size floats = rows * (Size(a.value_head_dim) + Size(2)) * Size(most(a.num_chunks, 1));
  if (!(floats * Size(sizeof(float))).ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "batch %lld, num_heads %lld, query_len %lld, num_chunks %lld: too large",
                ll{a.batch}, ll{a.num_heads}, ll{a.query_len}, ll{a.num_chunks});
  }
  job->rows = rows.value();
  if (job->rows > 0 && a.num_chunks > 0 && a.partials == nullptr) {
    return fail(error, MHA_ERR_NULL, "partials is NULL");
  }
  return check_view("output", a.output, {a.batch, a.query_len, a.num_heads, a.value_head_dim}, &job->output, error);
}

}  // namespace
}  // namespace mha

extern "C" mha_status mha_attention_partial_floats(const mha_attention_args* args, int64_t* count, mha_error* error) {
  using namespace mha;
  if (count == nullptr) return fail(error, MHA_ERR_NULL, "count is NULL");
  AttentionProblem problem = {};
  return prepare(args, Check::kSizesOnly, &problem, count, error);
}

extern "C" mha_status mha_attention_partial(const mha_context* context, const mha_attention_args* args, float* partials,
                                            int64_t count, mha_error* error) {
  using namespace mha;
  const FloatMode mode;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  AttentionJob job = {};
  job.table = context->table;
  int64_t needed = 0;
  mha_status status = prepare(args, Check::kNoResults, &job.problem, &needed, error);
  if (status != MHA_OK || needed == 0) return status;
  if (partials == nullptr) return fail(error, MHA_ERR_NULL, "partials is NULL");
  if (count < needed) {
    return fail(error, MHA_ERR_WORKSPACE, "count is %lld floats: %lld are needed", ll{count}, ll{needed});
  }
  job.given_partials = partials;
  job.problem.output = {partials, 0, 0, 0};  // a row's output is set to its place there, chunk by chunk
  status = plan_call(*context->table, context->num_threads, job.problem, true, &job.plan, error);
  return status == MHA_OK ? run_attention(*context, *args, &job, error) : status;
}

extern "C" mha_status mha_attention_merge_partials(const mha_context* context, const mha_merge_args* args,
                                                   mha_error* error) {
  using namespace mha;
  const FloatMode mode;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  MergeJob job = {context->table, *args, {}, 0};
  const mha_status status = check_merge(*args, &job, error);
  if (status != MHA_OK || job.rows == 0) return status;
  const double bytes = static_cast<double>(job.rows) * static_cast<double>(args->num_chunks) *
                       static_cast<double>(partial_width(args->value_head_dim)) * sizeof(float);
  const Phase phase = {run_merge_row, &job, job.rows};
  run_phases(*context, useful_threads(context->num_threads, work_of(0, bytes)), &phase, 1);
  return MHA_OK;
}
