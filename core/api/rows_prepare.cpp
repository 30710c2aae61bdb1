// SPDX-License-Identifier: Apache-2.0
// mha_rows_prepare: rows that the caller keeps, normed, rotated and stored in tensors or pages of its own; and the table
// of rope's angles.
#include "core/call/checks.h"
#include "core/plan/plan.h"
#include "core/run/norm_rope.h"
#include "simd/float_mode.h"

namespace mha {
namespace {

using ll = long long;

mha_status check_slots(const mha_rows_args& a, Check check, mha_error* error) {
  if (a.slots == nullptr) {
    if (a.page_size == 0 && a.num_pages == 0) return MHA_OK;
    return fail(error, MHA_ERR_ARGUMENT, "page_size is %lld and num_pages %lld, but slots is NULL", ll{a.page_size},
                ll{a.num_pages});
  }
  MHA_TRY(check_sizes({{"page_size", a.page_size, 1}, {"num_pages", a.num_pages, 0}}, error));
  const Size slots = Size(a.page_size) * Size(a.num_pages);
  if (!slots.ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "num_pages %lld x page_size %lld exceeds 2^63", ll{a.num_pages},
                ll{a.page_size});
  }
  for (int64_t token = 0; check != Check::kSizesOnly && token < a.batch * a.length; ++token) {
    if (a.slots[token] < slots.value()) continue;
    return fail(error, MHA_ERR_ARGUMENT, "slots[%lld] is %lld: must be < num_pages * page_size (%lld)", ll{token},
                ll{a.slots[token]}, ll{slots.value()});
  }
  return MHA_OK;
}

// Fields that speak of codes, of which this version has none.
mha_status check_no_codes(const mha_rows_args& a, mha_error* error) {
  if (a.storage != nullptr) MHA_TRY(check_storage("storage", *a.storage, error));
  if (a.scales == nullptr && a.zeros == nullptr) return MHA_OK;
  return fail(error, MHA_ERR_ARGUMENT, "%s is given, but the output is MHA_F32, which has no scales",
              a.scales != nullptr ? "scales" : "zeros");
}

mha_status check_row_views(const mha_rows_args& a, Check check, PrepareJob* job, mha_error* error) {
  const Dimensions input = {a.batch, a.length, a.num_heads, a.head_dim};
  const Dimensions output = a.slots != nullptr ? Dimensions{a.num_pages, a.page_size, a.num_heads, a.head_dim} : input;
  MHA_TRY(check_input("input", a.input, input, check, &job->input, error));
  MHA_TRY(check_result("output", a.output, output, Order::kBthd, check, &job->output, error));
  const ConstTensor& in = job->input;
  const Tensor& out = job->output;
  const bool in_place = in.data == out.data && a.slots == nullptr;
  if (in_place && in.stride_b == out.stride_b && in.stride_t == out.stride_t && in.stride_h == out.stride_h) {
    return MHA_OK;
  }
  const Extent read = extent_of(in, input), written = extent_of(out, output);
  if (!certainly_overlap(read, written)) return MHA_OK;
  return fail(error, MHA_ERR_STRIDE, "output overlaps input%s: strides are (%lld, %lld, %lld) and (%lld, %lld, %lld)",
              in_place ? ", whose place it is, with other strides" : "", ll{out.stride_b}, ll{out.stride_t},
              ll{out.stride_h}, ll{in.stride_b}, ll{in.stride_t}, ll{in.stride_h});
}

mha_status check_row_positions(const mha_rows_args& a, Check check, const mha_rope& rope, mha_error* error) {
  if (a.rope == nullptr && (a.positions != nullptr || a.first_position != 0)) {
    return fail(error, MHA_ERR_ARGUMENT, "%s is given, but there is no rope, which alone looks at it",
                a.positions != nullptr ? "positions" : "first_position");
  }
  if (a.positions != nullptr && a.first_position != 0) {
    return fail(error, MHA_ERR_ARGUMENT, "first_position is %lld beside positions: give one of them",
                ll{a.first_position});
  }
  if (a.batch == 0 || a.length == 0 || a.num_heads == 0 || rope.dims == 0) return MHA_OK;
  if (check == Check::kSizesOnly && a.positions != nullptr) return MHA_OK;
  return a.positions != nullptr ? check_given_positions(rope, "positions", a.positions, a.batch * a.length, error)
                                : check_counted_positions(rope, "first_position", a.first_position, a.length, error);
}

mha_status validate_rows(const mha_rows_args& a, Check check, PrepareJob* job, mha_error* error) {
  MHA_TRY(check_reserved("args", a.reserved, error));
  MHA_TRY(check_sizes(
      {{"batch", a.batch, 0}, {"length", a.length, 0}, {"num_heads", a.num_heads, 0}, {"head_dim", a.head_dim, 1}},
      error));
  if (!(Size(a.batch) * Size(a.length) * Size(a.num_heads) * Size(a.head_dim) * Size(sizeof(float))).ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "batch %lld, length %lld, num_heads %lld, head_dim %lld: too large",
                ll{a.batch}, ll{a.length}, ll{a.num_heads}, ll{a.head_dim});
  }
  MHA_TRY(check_no_codes(a, error));
  MHA_TRY(check_slots(a, check, error));
  MHA_TRY(check_row_views(a, check, job, error));
  MHA_TRY(validate_rope(a.rope, a.head_dim, &job->rope, error));
  if (a.norm != nullptr) {
    MHA_TRY(check_norm("norm", *a.norm, error));
    job->epsilon = a.norm->epsilon, job->weight = a.norm->weight;
  }
  MHA_TRY(check_row_positions(a, check, job->rope, error));
  job->batch = a.batch, job->length = a.length, job->heads = a.num_heads, job->width = a.head_dim;
  job->positions = a.positions, job->first_position = a.first_position;
  job->slots = a.slots, job->page_size = a.page_size;
  return MHA_OK;
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
  PreparePhase work = {};
  PrepareJob& job = work.jobs[work.count++];
  MHA_TRY(validate_rows(*args, Check::kAll, &job, error));
  if (args->storage_error != nullptr) {  // floats are stored as they are
    *args->storage_error = {};
    args->storage_error->elements = job.tokens() * job.heads * job.width;
  }
  if (job.tokens() == 0 || job.heads == 0) return MHA_OK;
  job.table = context->table;
  const int64_t threads = useful_threads(lent.num_threads, job.work());
  job.block_tokens = plan_prepare(job, threads);
  const Phase phase = prepare_phase(work);
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
  PrepareJob job = {};
  MHA_TRY(lend(*context, args->resources, &lent, error));
  MHA_TRY(validate_rows(*args, Check::kSizesOnly, &job, error));
  *bytes = 0;
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
