// SPDX-License-Identifier: Apache-2.0
// Attention on its own: the public calls.
#include "core/call/checks.h"
#include "core/call/items.h"
#include "core/call/validate.h"
#include "core/plan/explain.h"
#include "core/run/attention.h"
#include "simd/float_mode.h"

namespace mha {
namespace {

mha_status validate_and_plan(const mha_context* context, const mha_attention_args* args, Check check, mha_context* lent,
                             AttentionJob* job, mha_error* error) {
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  MHA_TRY(lend(*context, args->resources, lent, error));
  job->table = context->table;
  MHA_TRY(validate_attention(args, check, &job->problem, error));
  if (job->problem.nothing_to_do()) return MHA_OK;
  return plan_call(*context->table, lent->num_threads, job->problem, false, &job->plan, error);
}

}  // namespace
}  // namespace mha

extern "C" mha_status mha_attention(const mha_context* context, const mha_attention_args* args, mha_error* error) {
  using namespace mha;
  const FloatMode mode;  // from here on: the default scale is rounded too
  mha_context lent;
  AttentionJob job = {};
  MHA_TRY(validate_and_plan(context, args, Check::kAll, &lent, &job, error));
  return job.problem.nothing_to_do() ? MHA_OK : run_attention(lent, args->resources, &job, error);
}

extern "C" mha_status mha_attention_workspace_bytes(const mha_context* context, const mha_attention_args* args,
                                                    size_t* bytes, mha_error* error) {
  using namespace mha;
  if (bytes == nullptr) return fail(error, MHA_ERR_NULL, "bytes is NULL");
  const FloatMode mode;
  mha_context lent;
  AttentionJob job = {};
  MHA_TRY(validate_and_plan(context, args, Check::kSizesOnly, &lent, &job, error));
  *bytes = job.problem.nothing_to_do() ? 0 : workspace_bytes(job.plan.bytes);
  return MHA_OK;
}

extern "C" mha_status mha_attention_workspace_bound(const mha_context* context, const mha_attention_args* args,
                                                    size_t* bytes, mha_error* error) {
  using namespace mha;
  if (bytes == nullptr) return fail(error, MHA_ERR_NULL, "bytes is NULL");
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  const FloatMode mode;
  mha_context lent;
  MHA_TRY(lend(*context, args->resources, &lent, error));
  BoundSizes sizes;
  MHA_TRY(bound_sizes(groups_of(*args), args->key_len, &sizes, error));
  mha_attention_args greatest = *args;
  greatest.key_len = sizes.key_len;
  greatest.items = nullptr, greatest.positions = nullptr, greatest.cache = nullptr, greatest.pages = nullptr;
  mha_results results;
  drop_strides(&greatest, &results);
  AttentionProblem problem = {};
  MHA_TRY(validate_attention(&greatest, Check::kSizesOnly, &problem, error, args->cache));
  problem.cache = args->cache;  // the type of its keys chooses kernels
  set_bound(sizes, &problem);
  AttentionPlan plan = {};
  if (!problem.nothing_to_do()) MHA_TRY(bound_attention(*context->table, lent.num_threads, problem, &plan, error));
  *bytes = problem.nothing_to_do() ? 0 : workspace_bytes(plan.bytes);
  return MHA_OK;
}

extern "C" mha_status mha_attention_explain(const mha_context* context, const mha_attention_args* args, char* text,
                                            size_t capacity, size_t* needed, mha_error* error) {
  using namespace mha;
  const FloatMode mode;
  mha_context lent;
  AttentionJob job = {};
  MHA_TRY(validate_and_plan(context, args, Check::kSizesOnly, &lent, &job, error));
  if (text == nullptr && capacity > 0) return fail(error, MHA_ERR_NULL, "text is NULL, but capacity is %zu", capacity);
  Text out(text, capacity);
  if (job.problem.nothing_to_do()) {
    explain_context(lent, lost_threads(lent), 1, 0, &out);
    out.line("work: none, a size is 0");
  } else {
    explain_context(lent, lost_threads(lent), job.plan.threads, work_of_call(job.problem), &out);
    explain_attention(job.problem, job.plan, &out);
    explain_attention_workspace("workspace", workspace_bytes(job.plan.bytes), job.plan, &out);
  }
  out.finish(needed);
  return MHA_OK;
}
