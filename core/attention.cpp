// SPDX-License-Identifier: Apache-2.0
// Attention on its own: the public calls.
#include "core/items.h"
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
  return plan_call(*context->table, context->num_threads, job->problem, false, &job->plan, error);
}

}  // namespace
}  // namespace mha

extern "C" mha_status mha_attention(const mha_context* context, const mha_attention_args* args, mha_error* error) {
  using namespace mha;
  const FloatMode mode;  // from here on: the default scale is rounded too
  AttentionJob job = {};
  const mha_status status = prepare(context, args, Check::kAll, &job, error);
  if (status != MHA_OK || job.problem.nothing_to_do()) return status;
  return run_attention(*context, *args, &job, error);
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
