// SPDX-License-Identifier: Apache-2.0
// Checks of the results other than the output: attention weights, the queries chosen for them, the log-sum-exp.
#include "core/call/checks.h"
#include "core/call/items.h"

namespace mha {
namespace {

using ll = long long;

mha_status check_weights_rows(const mha_results& r, AttentionProblem* p, mha_error* error) {
  if (r.weights_rows == nullptr) {
    if (r.num_weights_rows == 0) return MHA_OK;
    return fail(error, MHA_ERR_ARGUMENT, "results.num_weights_rows is %lld, but results.weights_rows is NULL",
                ll{r.num_weights_rows});
  }
  MHA_TRY(check_size("results.num_weights_rows", r.num_weights_rows, 0, error));
  int64_t shortest = p->query_len;
  for (int64_t b = 0; b < (p->query_offsets != nullptr ? p->batch : 0); ++b) {
    shortest = least(shortest, query_len_of(*p, b));
  }
  for (int64_t n = 0; n < r.num_weights_rows; ++n) {
    if (r.weights_rows[n] < 0 || r.weights_rows[n] >= shortest) {
      return fail(error, MHA_ERR_ARGUMENT, "results.weights_rows[%lld] is %lld: must be 0 to %lld", ll{n},
                  ll{r.weights_rows[n]}, ll{shortest - 1});
    }
    if (n > 0 && r.weights_rows[n] <= r.weights_rows[n - 1]) {
      return fail(error, MHA_ERR_ARGUMENT, "results.weights_rows[%lld] is %lld, not more than the one before it (%lld)",
                  ll{n}, ll{r.weights_rows[n]}, ll{r.weights_rows[n - 1]});
    }
  }
  p->weights_rows = r.weights_rows, p->num_weights_rows = r.num_weights_rows;
  return MHA_OK;
}

// The sizes of the attention weights, which are stored as [B, H, Tq, Tk].
Dimensions weights_dimensions(const AttentionProblem& p) {
  Dimensions n = {p.batch, p.query_len, p.heads, p.longest_key_len};
  if (p.query_offsets != nullptr && p.weights_rows == nullptr) n.b = least(n.b, 1);  // packed as the queries are
  if (p.weights_rows != nullptr) n.t = p.num_weights_rows;
  if (p.weights_mode == MHA_WEIGHTS_KEY_SUMS) n.b = p.batch, n.t = 1;
  if (p.weights_mode == MHA_WEIGHTS_AVERAGED) n.h = 1;
  return n;
}

}  // namespace

mha_status check_results(const mha_results& r, Check check, AttentionProblem* p, mha_error* error) {
  const int mode = enum_value(r.weights_mode);
  if (mode < MHA_WEIGHTS_NONE || mode > MHA_WEIGHTS_KEY_SUMS) {
    return fail(error, MHA_ERR_ARGUMENT, "results.weights_mode is %d: not a value of mha_weights_mode", mode);
  }
  p->log_sum_exp = r.log_sum_exp;
  if (check != Check::kSizesOnly) MHA_TRY(check_aligned("results.log_sum_exp", r.log_sum_exp, error));
  p->weights_mode = r.weights_mode;
  if (mode != MHA_WEIGHTS_NONE) {
    MHA_TRY(check_weights_rows(r, p, error));
    MHA_TRY(check_float("results.weights", r.weights.dtype, error));
    return check_result("results.weights", r.weights, weights_dimensions(*p), Order::kBhtd, check, &p->weights, error);
  }
  const char* unused = nullptr;
  if (r.num_weights_rows != 0) unused = "results.num_weights_rows";
  if (r.weights_rows != nullptr) unused = "results.weights_rows";
  const char* why = "results.weights_mode is MHA_WEIGHTS_NONE";
  return unused != nullptr ? fail_unused(unused, why, error) : check_unused("results.weights", r.weights, why, error);
}

int result_extents(const AttentionProblem& p, NamedExtent* results) {
  int count = 0;
  if (p.log_sum_exp != nullptr) {
    results[count++] = {"results.log_sum_exp", extent_of(p.log_sum_exp, p.heads * p.total_queries())};
  }
  if (p.weights_mode != MHA_WEIGHTS_NONE) {
    results[count++] = {"results.weights", extent_of(p.weights, weights_dimensions(p))};
  }
  return count;
}

}  // namespace mha
