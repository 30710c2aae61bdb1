// SPDX-License-Identifier: Apache-2.0
// The arguments of calls on parts of attention: partial results and their merge, and the merge of finished results.
#include "core/call/checks.h"
#include "core/call/items.h"
#include "core/call/merge.h"

namespace mha {
namespace {

using ll = long long;

// Refuses results and sink logits: partial results go into the caller's partials, and the merge applies the sinks.
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

}  // namespace

mha_status validate_partial(const mha_attention_args* args, Check check, AttentionProblem* p, int64_t* floats,
                            mha_error* error) {
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
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
  // A single item may be shorter than key_len (items.key_lengths); the items of a larger batch are equally long.
  const int64_t keys = p->batch == 1 ? key_len_of(*p, 0) : p->longest_key_len;
  const Size chunks = Size(most(1, divide_up(keys, kChunk)));
  const Size all = chunks * Size(p->heads) * Size(p->total_queries()) * Size(partial_width(p->value_head_dim));
  if (!(all * Size(sizeof(float))).ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "the partial results for key_len %lld exceed 2^63 bytes", ll{keys});
  }
  *floats = p->nothing_to_do() ? 0 : all.value();
  return MHA_OK;
}

namespace {

mha_status check_parts(const char* name, const float* const* parts, int64_t count, mha_error* error) {
  if (parts == nullptr) return fail(error, MHA_ERR_NULL, "%s is NULL", name);
  for (int64_t n = 0; n < count; ++n) {
    if (parts[n] == nullptr) return fail(error, MHA_ERR_NULL, "%s[%lld] is NULL", name, ll{n});
  }
  return MHA_OK;
}

}  // namespace

mha_status validate_merge(const mha_merge_args& a, mha_error* error) {
  MHA_TRY(check_reserved("args", a.reserved, error));
  MHA_TRY(check_sizes({{"num_parts", a.num_parts, 0}, {"rows", a.rows, 0}, {"value_head_dim", a.value_head_dim, 1}},
                      error));
  if (!(Size(a.rows) * Size(a.value_head_dim) * Size(sizeof(float))).ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "rows %lld x value_head_dim %lld exceeds 2^63 bytes", ll{a.rows},
                ll{a.value_head_dim});
  }
  if (a.rows == 0) return MHA_OK;
  if (a.output == nullptr) return fail(error, MHA_ERR_NULL, "output is NULL");
  if (a.num_parts == 0) return MHA_OK;
  MHA_TRY(check_parts("outputs", a.outputs, a.num_parts, error));
  return check_parts("log_sum_exps", a.log_sum_exps, a.num_parts, error);
}

mha_status validate_merge_partials(const mha_merge_partials_args& a, PartialsProblem* p, mha_error* error) {
  MHA_TRY(check_reserved("args", a.reserved, error));
  MHA_TRY(check_arithmetic(a.arithmetic, error));
  MHA_TRY(check_sizes({{"batch", a.batch, 0},
                       {"num_heads", a.num_heads, 0},
                       {"query_len", a.query_len, 0},
                       {"value_head_dim", a.value_head_dim, 1},
                       {"num_chunks", a.num_chunks, 0}},
                      error));
  MHA_TRY(check_hadamard("hadamard", a.hadamard, a.value_head_dim, error));
  const Size rows = Size(a.batch) * Size(a.num_heads) * Size(a.query_len);
  const Size floats = rows * (Size(a.value_head_dim) + Size(2)) * Size(most(a.num_chunks, 1));
  if (!(floats * Size(sizeof(float))).ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "batch %lld, num_heads %lld, query_len %lld, num_chunks %lld: too large",
                ll{a.batch}, ll{a.num_heads}, ll{a.query_len}, ll{a.num_chunks});
  }
  p->rows = rows.value();
  if (p->rows > 0 && a.num_chunks > 0 && a.partials == nullptr) {
    return fail(error, MHA_ERR_NULL, "partials is NULL");
  }
  MHA_TRY(check_aligned("partials", a.partials, error));
  const Dimensions output = {a.batch, a.query_len, a.num_heads, a.value_head_dim};
  MHA_TRY(check_result("output", a.output, output, Order::kBthd, Check::kAll, &p->output, error));
  const int64_t partials = a.num_chunks > 0 ? floats.value() : 0;
  const NamedExtent input = {"partials", extent_of(static_cast<const float*>(a.partials), partials)};
  const NamedExtent results[] = {{"output", extent_of(p->output, output)},
                                 {"log_sum_exp", extent_of(a.log_sum_exp, p->rows)}};
  return check_overlaps(results, 2, &input, 1, error);
}

}  // namespace mha
