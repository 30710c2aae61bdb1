// SPDX-License-Identifier: Apache-2.0
// Partial results of attention, one for each chunk of keys: a context split over calls, processes or machines. They are
// what run/attention.cpp has in the workspace between its phases.
#include "core/base/fields.h"
#include "core/call/merge.h"
#include "core/plan/plan.h"
#include "core/run/attention.h"
#include "simd/float_mode.h"

namespace mha {
namespace {

mha_status validate_call(const mha_context* context, const mha_attention_args* args, Check check, mha_context* lent,
                         AttentionProblem* p, int64_t* floats, mha_error* error) {
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  MHA_TRY(lend(*context, args->resources, lent, error));
  return validate_partial(args, check, p, floats, error);
}

}  // namespace
}  // namespace mha

extern "C" mha_status mha_attention_partial_bytes(const mha_context* context, const mha_attention_args* args,
                                                  size_t* bytes, mha_error* error) {
  using namespace mha;
  if (bytes == nullptr) return fail(error, MHA_ERR_NULL, "bytes is NULL");
  const FloatMode mode;
  mha_context lent;
  AttentionProblem problem = {};
  int64_t floats = 0;
  MHA_TRY(validate_call(context, args, Check::kSizesOnly, &lent, &problem, &floats, error));
  *bytes = static_cast<size_t>(floats) * sizeof(float);
  return MHA_OK;
}

extern "C" mha_status mha_attention_partial(const mha_context* context, const mha_attention_args* args, void* partials,
                                            size_t bytes, mha_error* error) {
  using namespace mha;
  const FloatMode mode;
  mha_context lent;
  AttentionJob job = {};
  int64_t needed = 0;
  MHA_TRY(validate_call(context, args, Check::kNoResults, &lent, &job.problem, &needed, error));
  if (needed == 0) return MHA_OK;
  if (partials == nullptr) return fail(error, MHA_ERR_NULL, "partials is NULL");
  MHA_TRY(check_aligned("partials", partials, error));
  if (bytes / sizeof(float) < static_cast<size_t>(needed)) {
    return fail(error, MHA_ERR_BUFFER, "bytes is %zu: %zu are needed", bytes,
                static_cast<size_t>(needed) * sizeof(float));
  }
  MHA_TRY(check_partials_overlap(*args, job.problem, static_cast<const float*>(partials), needed, error));
  job.table = context->table;
  job.given_partials = static_cast<float*>(partials);
  // Only a base: each chunk of a row sets the row's output to its place in `partials`.
  job.problem.output = {};
  job.problem.output.data = static_cast<char*>(partials), job.problem.output.element = Element::kF32;
  job.problem.attended = job.problem.output;
  MHA_TRY(plan_call(*context->table, lent.num_threads, job.problem, true, &job.plan, error));
  return run_attention(lent, args->resources, &job, error);
}
