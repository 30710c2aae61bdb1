// SPDX-License-Identifier: Apache-2.0
// Linear: the public calls. A packed linear is a blob: a header of 128 bytes, then the packed weights and the bias,
// each on a 64-byte line.
#include <cstring>

#include "core/api/pack_weights.h"
#include "core/base/fields.h"
#include "core/call/linear.h"
#include "core/plan/explain.h"
#include "core/run/project.h"
#include "simd/dispatch.h"
#include "simd/float_mode.h"

namespace mha {
namespace {

using ll = long long;
using ull = unsigned long long;

struct LinearHeader {
  BlobHead head;
  uint32_t has_bias;
  uint32_t arithmetic;
  int64_t in_features, out_features;
  BlobStorage storage;
  uint64_t reserved[7];
  uint64_t checksum;  // FNV-1a of all before
};
static_assert(sizeof(LinearHeader) == 128, "the blob's header is part of its format");

constexpr BlobFormat kFormat = {
    {'m', 'h', 'a', 'l', 'i', 'n', 'e', 'a'}, "a packed mha linear", 1, sizeof(LinearHeader)};

struct LinearLayout {
  WeightOffsets weight;
  int64_t bias;
  Size bytes;
};

LinearLayout lay_out(Arithmetic arithmetic, int64_t in_features, int64_t out_features, const WeightForm& form,
                     bool has_bias) {
  Layout layout;
  layout.append(Size(sizeof(LinearHeader)));
  const WeightOffsets weight = append_weight(arithmetic, in_features, out_features, form, &layout);
  const int64_t bias = layout.append(has_bias ? packed_bias_bytes(out_features) : Size(0));
  return {weight, bias, layout.bytes()};
}

// A handle that points into a blob; the caller fills in its other fields.
mha_linear point_into(const char* blob, const LinearLayout& layout, const LinearHeader& header,
                      const WeightForm& form) {
  mha_linear linear = {};
  linear.in_features = header.in_features, linear.out_features = header.out_features;
  linear.arithmetic = static_cast<Arithmetic>(header.arithmetic);
  linear.weight = weight_at(blob, layout.weight, form);
  linear.bias = header.has_bias != 0 ? reinterpret_cast<const float*>(blob + layout.bias) : nullptr;
  linear.blob = blob, linear.blob_bytes = static_cast<size_t>(layout.bytes.value());
  return linear;
}

mha_status read_header(const void* blob, size_t bytes, LinearHeader* header, WeightForm* form, LinearLayout* layout,
                       mha_error* error) {
  MHA_TRY(check_blob(kFormat, blob, bytes, error));
  LinearHeader& h = *header;
  memcpy(&h, blob, sizeof(h));
  bool known = h.has_bias <= 1 && is_known_arithmetic(h.arithmetic);
  for (uint64_t word : h.reserved) known = known && word == 0;
  if (!known) return fail(error, MHA_ERR_BLOB, "blob has fields that this library does not know");
  MHA_TRY(read_form("weight", h.arithmetic, h.storage, form, error));
  const bool sound = check_size("in_features", h.in_features, 1, nullptr) == MHA_OK &&
                     check_size("out_features", h.out_features, 1, nullptr) == MHA_OK;
  *layout = {{0, 0, 0}, 0, Size(-1)};
  if (sound) {
    *layout = lay_out(static_cast<Arithmetic>(h.arithmetic), h.in_features, h.out_features, *form, h.has_bias != 0);
  }
  if (!layout->bytes.ok() || static_cast<uint64_t>(layout->bytes.value()) != h.head.bytes) {
    return fail(error, MHA_ERR_BLOB, "blob's header is unsound: in_features %lld, out_features %lld, bytes %llu",
                ll{h.in_features}, ll{h.out_features}, ull{h.head.bytes});
  }
  if (bytes >= h.head.bytes) return MHA_OK;
  return fail(error, MHA_ERR_BLOB, "bytes is %zu: the blob has %llu", bytes, ull{h.head.bytes});
}

int64_t scratch_bytes(const LinearPlan& plan, int64_t threads) { return threads * plan.scratch_floats * kFloatBytes; }

// The bytes of the workspace: none if all is F32, since weights are packed already and gemm writes the output itself.
size_t needed_bytes(const LinearPlan& plan, int64_t threads) {
  return plan.scratch_floats == 0 ? 0 : workspace_bytes(scratch_bytes(plan, threads));
}

// Checks the arguments of a call, and applies its `resources` to a copy of the context.
mha_status validate_call(const mha_context* context, const mha_linear* linear, const mha_linear_args* args, Check check,
                         mha_context* lent, LinearProblem* problem, mha_error* error) {
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (linear == nullptr) return fail(error, MHA_ERR_NULL, "linear is NULL");
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  MHA_TRY(lend(*context, args->resources, lent, error));
  MHA_TRY(check_target(*context->table, linear->arithmetic, error));
  return linear_problem(*linear, *args, check, problem, error);
}

}  // namespace
}  // namespace mha

extern "C" mha_status mha_linear_create(const mha_context* context, const mha_linear_config* config,
                                        mha_linear** linear, mha_error* error) {
  using namespace mha;
  if (linear == nullptr) return fail(error, MHA_ERR_NULL, "linear is NULL");
  *linear = nullptr;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (config == nullptr) return fail(error, MHA_ERR_NULL, "config is NULL");
  const mha_linear_config& c = *config;
  Packing packing = {};
  MHA_TRY(validate_linear_config(c, &packing.source, error));
  const auto arithmetic = static_cast<Arithmetic>(enum_value(c.arithmetic));
  MHA_TRY(check_target(*context->table, arithmetic, error));
  MHA_TRY(prepare_packing(*context->table, c.packed, c.arithmetic, {c.in_features, c.out_features}, &packing, error));
  const LinearLayout layout = lay_out(arithmetic, c.in_features, c.out_features, packing.form, c.bias != nullptr);
  const Size total = layout.bytes + Size(round_up(sizeof(mha_linear), 64));
  const Size rounding = packing_bytes(packing);
  if (!(total + rounding).ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "in_features %lld x out_features %lld: the packed weights exceed 2^63 bytes",
                ll{c.in_features}, ll{c.out_features});
  }
  Workspace scratch(*context, nullptr);
  if (packing.rounds) MHA_TRY(scratch.reserve(workspace_bytes(rounding.value()), error));
  const size_t bytes = static_cast<size_t>(total.value());
  char* block = static_cast<char*>(allocate(context->allocator, bytes));
  if (block == nullptr) return fail(error, MHA_ERR_OUT_OF_MEMORY, "no memory for packed weights of %zu bytes", bytes);
  char* blob = block + round_up(sizeof(mha_linear), 64);
  LinearHeader header = {};
  header.head.bytes = static_cast<uint64_t>(layout.bytes.value());
  header.has_bias = c.bias != nullptr ? 1 : 0;
  header.arithmetic = static_cast<uint32_t>(arithmetic);
  header.in_features = c.in_features, header.out_features = c.out_features;
  header.storage = blob_storage(packing.form);
  seal_blob(kFormat, &header);
  memcpy(blob, &header, sizeof(header));
  const FloatMode mode;  // weights are rounded to nearest
  pack_weight(packing, parts_at(blob, layout.weight), scratch.data());
  if (c.bias != nullptr) pack_bias(c.bias, c.out_features, reinterpret_cast<float*>(blob + layout.bias));
  mha_linear* made = reinterpret_cast<mha_linear*>(block);
  *made = point_into(blob, layout, header, packing.form);
  if (c.packed_error != nullptr) *c.packed_error = measure_weight(packing, scratch.data());
  made->allocator = context->allocator, made->bytes = bytes;
  *linear = made;
  return MHA_OK;
}

extern "C" void mha_linear_destroy(mha_linear* linear) {
  if (linear == nullptr) return;
  const mha_allocator allocator = linear->allocator;
  mha::release(allocator, linear, linear->bytes);
}

extern "C" void mha_linear_get_config(const mha_linear* linear, mha_linear_config* config) {
  if (linear == nullptr || config == nullptr) return;
  *config = {};
  config->in_features = linear->in_features, config->out_features = linear->out_features;
  config->arithmetic = static_cast<mha_arithmetic>(linear->arithmetic);
}

extern "C" mha_status mha_linear_save_bytes(const mha_linear* linear, size_t* bytes, mha_error* error) {
  using namespace mha;
  if (linear == nullptr) return fail(error, MHA_ERR_NULL, "linear is NULL");
  if (bytes == nullptr) return fail(error, MHA_ERR_NULL, "bytes is NULL");
  *bytes = linear->blob_bytes;
  return MHA_OK;
}

extern "C" mha_status mha_linear_save(const mha_linear* linear, void* blob, size_t bytes, mha_error* error) {
  using namespace mha;
  if (linear == nullptr) return fail(error, MHA_ERR_NULL, "linear is NULL");
  if (blob == nullptr) return fail(error, MHA_ERR_NULL, "blob is NULL");
  if (bytes < linear->blob_bytes) {
    return fail(error, MHA_ERR_BUFFER, "bytes is %zu: the blob has %zu", bytes, linear->blob_bytes);
  }
  memcpy(blob, linear->blob, linear->blob_bytes);
  return MHA_OK;
}

extern "C" mha_status mha_linear_map(const mha_context* context, const void* blob, size_t bytes, mha_linear** linear,
                                     mha_error* error) {
  using namespace mha;
  if (linear == nullptr) return fail(error, MHA_ERR_NULL, "linear is NULL");
  *linear = nullptr;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  MHA_TRY(check_blob_pointer(blob, error));
  LinearHeader header = {};
  WeightForm form = {};
  LinearLayout layout = {{0, 0, 0}, 0, Size(0)};
  MHA_TRY(read_header(blob, bytes, &header, &form, &layout, error));
  mha_linear* handle = static_cast<mha_linear*>(allocate(context->allocator, sizeof(mha_linear)));
  if (handle == nullptr) return fail(error, MHA_ERR_OUT_OF_MEMORY, "no memory for a linear");
  *handle = point_into(static_cast<const char*>(blob), layout, header, form);
  handle->allocator = context->allocator, handle->bytes = sizeof(mha_linear);
  *linear = handle;
  return MHA_OK;
}

extern "C" mha_status mha_linear_forward(const mha_context* context, const mha_linear* linear,
                                         const mha_linear_args* args, mha_error* error) {
  using namespace mha;
  mha_context lent;
  LinearProblem problem = {};
  MHA_TRY(validate_call(context, linear, args, Check::kAll, &lent, &problem, error));
  if (problem.rows == 0) return MHA_OK;
  const int64_t threads = useful_threads(lent.num_threads, problem.work());
  LinearJob job = make_linear_job(*context->table, threads, problem);
  Workspace workspace(lent, args->resources);
  if (job.plan.scratch_floats > 0) {
    MHA_TRY(workspace.reserve(workspace_bytes(scratch_bytes(job.plan, threads)), error));
    job.scratch = reinterpret_cast<float*>(workspace.data()), job.scratch_step = job.plan.scratch_floats;
  }
  LinearPhase work = {};
  work.jobs[work.count++] = &job;
  const Phase phase = linear_phase(work);
  const FloatMode mode;
  run_phases(lent, threads, &phase, 1);
  return MHA_OK;
}

extern "C" mha_status mha_linear_workspace_bytes(const mha_context* context, const mha_linear* linear,
                                                 const mha_linear_args* args, size_t* bytes, mha_error* error) {
  using namespace mha;
  if (bytes == nullptr) return fail(error, MHA_ERR_NULL, "bytes is NULL");
  mha_context lent = {};
  LinearProblem problem = {};
  MHA_TRY(validate_call(context, linear, args, Check::kSizesOnly, &lent, &problem, error));
  const int64_t threads = useful_threads(lent.num_threads, problem.work());
  *bytes = needed_bytes(make_linear_job(*context->table, threads, problem).plan, threads);
  return MHA_OK;
}

extern "C" mha_status mha_linear_explain(const mha_context* context, const mha_linear* linear,
                                         const mha_linear_args* args, char* text, size_t capacity, size_t* needed,
                                         mha_error* error) {
  using namespace mha;
  mha_context lent = {};
  LinearProblem problem = {};
  MHA_TRY(validate_call(context, linear, args, Check::kSizesOnly, &lent, &problem, error));
  if (text == nullptr && capacity > 0) return fail(error, MHA_ERR_NULL, "text is NULL, but capacity is %zu", capacity);
  const int64_t threads = useful_threads(lent.num_threads, problem.work());
  Text out(text, capacity);
  explain_context(lent, lost_threads(lent), threads, problem.work(), &out);
  if (problem.rows == 0) {
    out.line("work: none, a size is 0");
  } else {
    const LinearJob job = make_linear_job(*context->table, threads, problem);
    const LinearPlan& plan = job.plan;
    explain_linear_kernel(*job.kernels, &out);
    explain_linear("product", problem, plan, threads, &out);
    out.line("fallback: none");
    if (plan.scratch_floats == 0) {
      out.line("workspace: 0 bytes: the weights were packed once, the output is written in place");
    } else {
      out.line("workspace: %zu bytes: blocks of input, weights and output as floats", needed_bytes(plan, threads));
    }
  }
  out.finish(needed);
  return MHA_OK;
}
