// SPDX-License-Identifier: Apache-2.0
// Merging finished results over disjoint sets of keys by their log-sum-exp. In double, row by row, parts in the order
// given: the same bits on every target.
#include <cstring>

#include "core/call/checks.h"
#include "core/math/elementary.h"
#include "core/plan/plan.h"
#include "core/run/parallel.h"
#include "simd/float_mode.h"

namespace mha {
namespace {

using ll = long long;

constexpr double kInfinity = __builtin_inf();

struct MergeJob {
  mha_merge_args args;
  int64_t block_rows;  // of a work item
};

// Of a row: the greatest log-sum-exp of its parts, the sum of e^(lse - most), and ln of the sum of e^lse: -inf where no
// part saw a key, NaN where one is NaN, +inf where one is.
struct Total {
  double most, sum, log_sum_exp;

  // A greater one absorbs ln(sum), so that shares by it would not add up to 1.
  bool absorbs() const { return most > 0x1p16 || most < -0x1p16; }
  double share(double lse) const {
    return absorbs() ? elementary::exp(lse - most) / sum : elementary::exp(lse - log_sum_exp);
  }
};

Total total_of(const MergeJob& job, int64_t row) {
  double most = -kInfinity;
  for (int64_t n = 0; n < job.args.num_parts; ++n) {
    const double lse = static_cast<double>(job.args.log_sum_exps[n][row]);
    if (lse != lse) return {lse, lse, lse};
    if (lse > most) most = lse;
  }
  if (most == kInfinity || most == -kInfinity) return {most, 0, most};
  double sum = 0;
  for (int64_t n = 0; n < job.args.num_parts; ++n) {
    sum += elementary::exp(static_cast<double>(job.args.log_sum_exps[n][row]) - most);
  }
  return {most, sum, most + elementary::log(sum)};
}

// Columns that are summed up side by side.
constexpr int64_t kColumns = 64;

void merge_row(const MergeJob& job, int64_t row) {
  const Total total = total_of(job, row);
  float* output = job.args.output + row * job.args.value_head_dim;
  for (int64_t begin = 0; begin < job.args.value_head_dim; begin += kColumns) {
    const int64_t count = least(kColumns, job.args.value_head_dim - begin);
    double sums[kColumns] = {};
    for (int64_t n = 0; n < job.args.num_parts && total.most != -kInfinity; ++n) {
      const double lse = static_cast<double>(job.args.log_sum_exps[n][row]);
      // A part that saw nothing is left out, whatever its output is. A total of NaN or +inf makes the row NaN.
      if (lse == -kInfinity) continue;
      const double share = total.share(lse);
      const float* part = job.args.outputs[n] + row * job.args.value_head_dim + begin;
      for (int64_t d = 0; d < count; ++d) sums[d] += share * static_cast<double>(part[d]);
    }
    for (int64_t d = 0; d < count; ++d) output[begin + d] = static_cast<float>(sums[d]);
  }
  if (job.args.log_sum_exp != nullptr) job.args.log_sum_exp[row] = static_cast<float>(total.log_sum_exp);
}

void run_merge(const void* data, int64_t item, int64_t) {
  const MergeJob& job = *static_cast<const MergeJob*>(data);
  const int64_t begin = item * job.block_rows, end = least(begin + job.block_rows, job.args.rows);
  for (int64_t row = begin; row < end; ++row) merge_row(job, row);
}

mha_status check_parts(const char* name, const float* const* parts, int64_t count, mha_error* error) {
  if (parts == nullptr) return fail(error, MHA_ERR_NULL, "%s is NULL", name);
  for (int64_t n = 0; n < count; ++n) {
    if (parts[n] == nullptr) return fail(error, MHA_ERR_NULL, "%s[%lld] is NULL", name, ll{n});
  }
  return MHA_OK;
}

mha_status check_merge(const mha_merge_args& a, mha_error* error) {
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

}  // namespace
}  // namespace mha

extern "C" mha_status mha_attention_merge(const mha_context* context, const mha_merge_args* args, mha_error* error) {
  using namespace mha;
  const FloatMode mode;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  mha_context lent;
  MHA_TRY(lend(*context, args->resources, &lent, error));
  MHA_TRY(check_merge(*args, error));
  if (args->rows == 0) return MHA_OK;
  const double elements = static_cast<double>(args->rows) * static_cast<double>(args->value_head_dim);
  const double work = work_of(0, elements * static_cast<double>(args->num_parts + 1) * sizeof(float));
  const int64_t threads = useful_threads(lent.num_threads, work);
  const MergeJob job = {*args, divide_up(args->rows, threads > 1 ? threads * kItemsPerThread : 1)};
  const Phase phase = {run_merge, &job, divide_up(args->rows, job.block_rows)};
  run_phases(lent, threads, &phase, 1);
  return MHA_OK;
}
