// SPDX-License-Identifier: Apache-2.0
// mha_rows_prepare: the caller's rows normed, rotated and stored in tensors or pages of its own; and the table of
// rope's angles.
#include <cstring>

#include "core/base/fields.h"
#include "core/base/layout.h"
#include "core/base/memory.h"
#include "core/call/rope.h"
#include "core/call/validate.h"
#include "core/plan/plan.h"
#include "core/run/norm_rope.h"
#include "simd/float_mode.h"

namespace mha {
namespace {

// The workspace, in bytes from its start: what measuring the error of rounding needs, then floats of each thread.
struct RowsLayout {
  int64_t measuring = 0, floats = 0, floats_step = 0;  // the step in floats
  Size bytes = Size(0);

  RowsLayout() = default;
  RowsLayout(const mha_rows_args& args, const NormRopeProblem& p, int64_t threads) {
    Layout all;
    if (args.storage_error != nullptr) measuring = all.append(measuring_bytes(p));
    if (p.needs_floats()) {
      const Size row = Size(p.heads) * Size(p.width) + Size(kPanel);
      floats_step = row.ok() ? row.value() / kPanel * kPanel : 0;
      floats = all.append(Size(threads) * Size(floats_step) * Size(kFloatBytes));
      if (!row.ok()) all.append(row);
    }
    bytes = all.bytes();
  }
};

mha_status plan_rows(const mha_context& context, const mha_rows_args& args, const NormRopeProblem& p,
                     RowsLayout* layout, mha_error* error) {
  *layout = RowsLayout(args, p, context.num_threads);
  if (layout->bytes.ok()) return MHA_OK;
  return fail(error, MHA_ERR_OVERFLOW, "num_heads %lld of head_dim %lld: the workspace exceeds 2^63 bytes",
              static_cast<long long>(p.heads), static_cast<long long>(p.width));
}

// 0 where none is needed.
size_t needed_bytes(const RowsLayout& layout) {
  return layout.bytes.value() > 0 ? workspace_bytes(layout.bytes.value()) : 0;
}

}  // namespace
}  // namespace mha

extern "C" mha_status mha_rows_prepare(const mha_context* context, const mha_rows_args* args, mha_error* error) {
  using namespace mha;
  const FloatMode mode;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  mha_context lent = {};
  MHA_TRY(lend(*context, args->resources, &lent, error));
  NormRopePhase work = {};
  NormRopeJob& job = work.jobs[work.count++];
  NormRopeProblem& p = job.problem;
  MHA_TRY(validate_rows(*args, Check::kAll, &p, error));
  job.table = context->table;
  RowsLayout layout;
  MHA_TRY(plan_rows(lent, *args, p, &layout, error));
  Workspace workspace(lent, args->resources);
  if (needed_bytes(layout) > 0) MHA_TRY(workspace.reserve(needed_bytes(layout), error));
  job.floats = reinterpret_cast<float*>(workspace.data() + layout.floats), job.floats_step = layout.floats_step;
  if (args->storage_error != nullptr) {
    *args->storage_error = measure_rounding(job, workspace.data() + layout.measuring);
  }
  if (p.tokens() == 0 || p.heads == 0) return MHA_OK;
  const int64_t threads = useful_threads(lent.num_threads, p.work());
  job.block_tokens = plan_norm_rope(p.tokens(), threads);
  const Phase phase = norm_rope_phase(work);
  run_phases(lent, threads, &phase, 1);
  return MHA_OK;
}

extern "C" mha_status mha_rows_workspace_bytes(const mha_context* context, const mha_rows_args* args, size_t* bytes,
                                               mha_error* error) {
  using namespace mha;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  if (bytes == nullptr) return fail(error, MHA_ERR_NULL, "bytes is NULL");
  const FloatMode mode;
  mha_context lent = {};
  NormRopeProblem problem = {};
  MHA_TRY(lend(*context, args->resources, &lent, error));
  MHA_TRY(validate_rows(*args, Check::kSizesOnly, &problem, error));
  RowsLayout layout;
  MHA_TRY(plan_rows(lent, *args, problem, &layout, error));
  *bytes = needed_bytes(layout);
  return MHA_OK;
}

extern "C" mha_status mha_rope_table(const mha_context* context, const mha_rope* rope, int64_t head_dim, int64_t first,
                                     int64_t count, float* cos, float* sin, mha_error* error) {
  using namespace mha;
  const FloatMode mode;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (rope == nullptr) return fail(error, MHA_ERR_NULL, "rope is NULL");
  MHA_TRY(check_sizes({{"head_dim", head_dim, 1}, {"first", first, 0}, {"count", count, 0}}, error));
  mha_rope r = {};
  MHA_TRY(validate_rope(rope, head_dim, &r, error));
  if (r.cos != nullptr) return fail(error, MHA_ERR_SHAPE, "rope.cos is given: such a rope has its table");
  if (count == 0 || r.dims == 0) return MHA_OK;
  MHA_TRY(check_counted_positions(r, "first", first, count, error));
  if (cos == nullptr) return fail(error, MHA_ERR_NULL, "cos is NULL");
  if (sin == nullptr) return fail(error, MHA_ERR_NULL, "sin is NULL");
  r.style = MHA_ROPE_HALF;  // in which a pair has its cosine and sine once
  RopeAngles angles(*context->table, r);
  const int64_t pairs = r.dims / 2;
  const size_t bytes = static_cast<size_t>(pairs) * sizeof(float);
  for (int64_t n = 0; n < count; ++n) {
    angles.turn_to(first + n);
    memcpy(cos + n * pairs, angles.cosines(), bytes);
    memcpy(sin + n * pairs, angles.sines(), bytes);
  }
  return MHA_OK;
}
