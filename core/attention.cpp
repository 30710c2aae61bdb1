// SPDX-License-Identifier: Apache-2.0
// Attention on its own: the public calls.
#include "core/items.h"
#include "core/prepare.h"
#include "core/run_attention.h"
#include "core/validate.h"
#include "simd/float_mode.h"

namespace mha {
namespace {

mha_status prepare(const mha_context* context, const mha_attention_args* args, Check check, AttentionJob* job,
                   mha_error* error) {
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  job->table = context->table;
  mha_status status = validate_attention(args, check, &job->problem, error);
  if (status != MHA_OK || job->problem.nothing_to_do()) return status;
  const int64_t threads = useful_threads(context->num_threads, work_of_call(job->problem));
  return plan_attention(*context->table, threads, job->problem, job->given_partials != nullptr, &job->plan, error);
}

// Queries are normed and rotated into the workspace, where attention then finds them.
PrepareJob prepared_queries(AttentionJob* job) {
  AttentionProblem& p = job->problem;
  float* data = reinterpret_cast<float*>(job->workspace + job->plan.queries_offset);
  const Tensor dense = {data, p.query_len * p.heads * p.head_dim, p.heads * p.head_dim, p.head_dim};
  int64_t* first_positions = reinterpret_cast<int64_t*>(job->workspace + job->plan.positions_offset);
  const PrepareJob prepare = query_job(*job->table, p, job->plan.threads, dense, first_positions);
  p.query = {dense.data, dense.stride_b, dense.stride_t, dense.stride_h};
  return prepare;
}

mha_status run(const mha_context& context, const mha_attention_args& args, AttentionJob* job, mha_error* error) {
  Workspace workspace(context, args.workspace);
  const mha_status status = workspace.reserve(workspace_bytes(job->plan.bytes), args.workspace_bytes, error);
  if (status != MHA_OK) return status;
  job->workspace = workspace.data();
  Phase phases[kMaxPhases];
  int count = 0;
  PreparePhase queries = {};
  if (job->problem.preparation.wanted()) {
    queries.jobs[queries.count++] = prepared_queries(job);
    phases[count++] = prepare_phase(queries);
  }
  count += attention_phases(*job, phases + count);
  run_phases(context, job->plan.threads, phases, count);
  return MHA_OK;
}

}  // namespace
}  // namespace mha

extern "C" mha_status mha_attention(const mha_context* context, const mha_attention_args* args, mha_error* error) {
  using namespace mha;
  const FloatMode mode;  // from here on: the default scale is rounded too
  AttentionJob job = {};
  const mha_status status = prepare(context, args, Check::kAll, &job, error);
  if (status != MHA_OK || job.problem.nothing_to_do()) return status;
  return run(*context, *args, &job, error);
}

extern "C" mha_status mha_attention_workspace(const mha_context* context, const mha_attention_args* args, size_t* bytes,
                                              mha_error* error) {
  using namespace mha;
  if (context != nullptr && bytes == nullptr) return fail(error, MHA_ERR_NULL, "bytes is NULL");
  AttentionJob job = {};
  const mha_status status = prepare(context, args, Check::kSizesOnly, &job, error);
  if (status == MHA_OK) *bytes = job.problem.nothing_to_do() ? 0 : workspace_bytes(job.plan.bytes);
  return status;
}
