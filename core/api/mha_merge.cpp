// SPDX-License-Identifier: Apache-2.0
// Parts of attention merged: partial results, and finished results.
#include "core/base/fields.h"
#include "core/call/merge.h"
#include "core/plan/plan.h"
#include "core/run/merge.h"
#include "simd/float_mode.h"

extern "C" mha_status mha_attention_merge_partials(const mha_context* context, const mha_merge_partials_args* args,
                                                   mha_error* error) {
  using namespace mha;
  const FloatMode mode;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  mha_context lent;
  MHA_TRY(lend(*context, args->resources, &lent, error));
  MergePartialsJob job = {{}, &context->table->rows(), {*args, {}, 0}};
  MHA_TRY(validate_merge_partials(*args, &job.problem, error));
  const auto arithmetic = static_cast<Arithmetic>(enum_value(args->arithmetic));
  MHA_TRY(check_target(*context->table, arithmetic, error));
  job.kernels = attention_kernels_of(*context->table, arithmetic, keys_of(arithmetic));
  if (job.problem.rows == 0) return MHA_OK;
  const double bytes = static_cast<double>(job.problem.rows) * static_cast<double>(args->num_chunks) *
                       static_cast<double>(partial_width(args->value_head_dim)) * sizeof(float);
  const Phase phase = merge_partials_phase(job);
  run_phases(lent, useful_threads(lent.num_threads, work_of(0, bytes)), &phase, 1);
  return MHA_OK;
}

extern "C" mha_status mha_attention_merge(const mha_context* context, const mha_merge_args* args, mha_error* error) {
  using namespace mha;
  const FloatMode mode;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  mha_context lent;
  MHA_TRY(lend(*context, args->resources, &lent, error));
  MHA_TRY(validate_merge(*args, error));
  if (args->rows == 0) return MHA_OK;
  const double elements = static_cast<double>(args->rows) * static_cast<double>(args->value_head_dim);
  const double work = work_of(0, elements * static_cast<double>(args->num_parts + 1) * sizeof(float));
  const int64_t threads = useful_threads(lent.num_threads, work);
  const MergeJob job = {*args, divide_up(args->rows, threads > 1 ? threads * kItemsPerThread : 1)};
  const Phase phase = merge_phase(job);
  run_phases(lent, threads, &phase, 1);
  return MHA_OK;
}
