// SPDX-License-Identifier: Apache-2.0
// Partial results of attention, one for each chunk of keys, and their merge: a context split over calls, processes or
// machines. What run_attention.cpp keeps in the workspace between its phases, handed out.
#include "core/call/checks.h"
#include "core/call/items.h"
#include "core/call/rows.h"
#include "core/call/validate.h"
#include "core/math/log_sum_exp.h"
#include "core/run/attention.h"
#include "simd/float_mode.h"

namespace mha {
namespace {

using ll = long long;

// Partial results go into the caller's partials, and a sink into their merge.
mha_status check_no_results(const mha_attention_args& a, mha_error* error) {
  const char* what = nullptr;
  if (a.output.data != nullptr) what = "output.data";
  const mha_results& r = given_or_default(a.results);
  const bool weights = r.weights_mode != MHA_WEIGHTS_NONE || r.weights.data != nullptr;
  if (weights || r.weights_rows != nullptr || r.num_weights_rows != 0) what = "results.weights";
  if (r.log_sum_exp != nullptr) what = "results.log_sum_exp";
  if (given_or_default(a.score_mods).sink_logits != nullptr) what = "score_mods.sink_logits";
  return what != nullptr ? fail(error, MHA_ERR_ARGUMENT, "%s is given, but results are made by merging the parts", what)
                         : MHA_OK;
}

mha_status prepare(const mha_context* context, const mha_attention_args* args, Check check, mha_context* lent,
                   AttentionProblem* p, int64_t* floats, mha_error* error) {
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  MHA_TRY(lend(*context, args->resources, lent, error));
  MHA_TRY(check_no_results(*args, error));
  MHA_TRY(validate_attention(args, check, p, error));
  const Groups groups = groups_of(*args);
  if (given_or_default(args->positions).align == MHA_ALIGN_DEFAULT && looks_at_positions(groups)) {
    return fail(
        error, MHA_ERR_ARGUMENT,
        "positions.align is MHA_ALIGN_DEFAULT, which a part cannot know: say MHA_ALIGN_OFFSET, where offset is the "
        "first query's position less the number of keys before this part");
  }
  if (!p->uniform() && p->batch > 1) {
    return fail(error, MHA_ERR_UNSUPPORTED,
                "batch is %lld: partial results of items that differ in length or position come one by one",
                ll{p->batch});
  }
  // One item may be shorter than key_len (items.key_lengths); the batch of several is uniform.
  const int64_t keys = p->batch == 1 ? key_len_of(*p, 0) : p->longest_key_len;
  const Size chunks = Size(most(1, divide_up(keys, kChunk)));
  const Size all = chunks * Size(p->heads) * Size(p->total_queries()) * Size(partial_width(p->value_head_dim));
  if (!(all * Size(sizeof(float))).ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "the partial results for key_len %lld exceed 2^63 bytes", ll{keys});
  }
  *floats = p->nothing_to_do() ? 0 : all.value();
  return MHA_OK;
}

struct MergeJob {
  const KernelTable* table;
  mha_merge_partials_args args;
  Tensor output;
  int64_t rows;
};

void run_merge_row(const void* data, int64_t row, int64_t) {
  const MergeJob& job = *static_cast<const MergeJob*>(data);
  const mha_merge_partials_args& a = job.args;
  const float* partials = static_cast<const float*>(a.partials);
  const int64_t i = row % a.query_len, h = row / a.query_len % a.num_heads, b = row / a.query_len / a.num_heads;
  RowState state = {};
  MergeArgs merge = {};
  if (a.num_chunks > 0) {  // else partials may be null
    merge.partial_outputs = partials + row * a.value_head_dim;
    merge.partial_states = reinterpret_cast<const RowState*>(partials + job.rows * a.value_head_dim + row * 2);
  }
  merge.step = job.rows * partial_width(a.value_head_dim);
  merge.num_chunks = a.num_chunks;
  merge.value_head_dim = a.value_head_dim;
  merge.output = job.output.data + b * job.output.stride_b + i * job.output.stride_t + h * job.output.stride_h;
  merge.state = &state;
  merge.has_sink = a.sink_logits != nullptr;
  merge.sink = a.sink_logits != nullptr ? sink_score(a.sink_logits[h]) : 0;
  job.table->merge(&merge);
  if (a.log_sum_exp != nullptr) a.log_sum_exp[row] = log_sum_exp(state);
}

mha_status check_merge(const mha_merge_partials_args& a, MergeJob* job, mha_error* error) {
  MHA_TRY(check_reserved("args", a.reserved_int, a.reserved, error));
  MHA_TRY(check_arithmetic("arithmetic", a.arithmetic, error));
  MHA_TRY(check_sizes({{"batch", a.batch, 0},
                       {"num_heads", a.num_heads, 0},
                       {"query_len", a.query_len, 0},
                       {"value_head_dim", a.value_head_dim, 1},
                       {"num_chunks", a.num_chunks, 0}},
                      error));
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
  MHA_TRY(check_aligned("partials", a.partials, error));
  const Dimensions output = {a.batch, a.query_len, a.num_heads, a.value_head_dim};
  MHA_TRY(check_result("output", a.output, output, Order::kBthd, Check::kAll, &job->output, error));
  const Dimensions partials = {1, 1, 1, a.num_chunks > 0 ? floats.value() : 0}, lse = {1, 1, 1, job->rows};
  const NamedExtent input = {"partials", extent_of(static_cast<const float*>(a.partials), partials, {0, 0, 0})};
  const NamedExtent results[] = {{"output", extent_of(job->output, output)},
                                 {"log_sum_exp", extent_of(a.log_sum_exp, lse, {0, 0, 0})}};
  return check_overlaps(results, 2, &input, 1, error);
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
  MHA_TRY(prepare(context, args, Check::kSizesOnly, &lent, &problem, &floats, error));
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
  MHA_TRY(prepare(context, args, Check::kNoResults, &lent, &job.problem, &needed, error));
  if (needed == 0) return MHA_OK;
  if (partials == nullptr) return fail(error, MHA_ERR_NULL, "partials is NULL");
  MHA_TRY(check_aligned("partials", partials, error));
  if (bytes / sizeof(float) < static_cast<size_t>(needed)) {
    return fail(error, MHA_ERR_BUFFER, "bytes is %zu: %zu are needed", bytes,
                static_cast<size_t>(needed) * sizeof(float));
  }
  job.table = context->table;
  job.given_partials = static_cast<float*>(partials);
  job.problem.output = {job.given_partials, 0, 0, 0};  // a row's output is set to its place there, chunk by chunk
  MHA_TRY(plan_call(*context->table, lent.num_threads, job.problem, true, &job.plan, error));
  return run_attention(lent, args->resources, &job, error);
}

extern "C" mha_status mha_attention_merge_partials(const mha_context* context, const mha_merge_partials_args* args,
                                                   mha_error* error) {
  using namespace mha;
  const FloatMode mode;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  mha_context lent;
  MHA_TRY(lend(*context, args->resources, &lent, error));
  MergeJob job = {context->table, *args, {}, 0};
  MHA_TRY(check_merge(*args, &job, error));
  if (job.rows == 0) return MHA_OK;
  const double bytes = static_cast<double>(job.rows) * static_cast<double>(args->num_chunks) *
                       static_cast<double>(partial_width(args->value_head_dim)) * sizeof(float);
  const Phase phase = {run_merge_row, &job, job.rows};
  run_phases(lent, useful_threads(lent.num_threads, work_of(0, bytes)), &phase, 1);
  return MHA_OK;
}
