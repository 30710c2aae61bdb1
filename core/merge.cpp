// SPDX-License-Identifier: Apache-2.0
// Merging finished results over disjoint sets of keys by their log-sum-exp. In double, row by row, parts in the order
// given: the same bits on every target.
#include <cstring>

#include "core/context.h"
#include "core/elementary.h"
#include "core/parallel.h"
#include "core/plan.h"
#include "core/validate.h"
#include "simd/float_mode.h"

namespace mha {
namespace {

using ll = long long;

constexpr double kInfinity = __builtin_inf();

struct MergeJob {
  int64_t parts, rows, width;
  const float* const* outputs;
  const float* const* log_sum_exps;
  float* output;
  float* log_sum_exp;  // or null
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
  for (int64_t n = 0; n < job.parts; ++n) {
    const double lse = static_cast<double>(job.log_sum_exps[n][row]);
    if (lse != lse) return {lse, lse, lse};
    if (lse > most) most = lse;
  }
  if (most == kInfinity || most == -kInfinity) return {most, 0, most};
  double sum = 0;
  for (int64_t n = 0; n < job.parts; ++n) {
    sum += elementary::exp(static_cast<double>(job.log_sum_exps[n][row]) - most);
  }
  return {most, sum, most + elementary::log(sum)};
}

// Columns that are summed up side by side.
constexpr int64_t kColumns = 64;

void merge_row(const MergeJob& job, int64_t row) {
  const Total total = total_of(job, row);
  float* output = job.output + row * job.width;
  for (int64_t begin = 0; begin < job.width; begin += kColumns) {
    const int64_t count = least(kColumns, job.width - begin);
    double sums[kColumns] = {};
    for (int64_t n = 0; n < job.parts && total.most != -kInfinity; ++n) {
      const double lse = static_cast<double>(job.log_sum_exps[n][row]);
      // A part that saw nothing is left out, whatever its output is. A total of NaN or +inf makes the row NaN.
      if (lse == -kInfinity) continue;
      const double share = total.share(lse);
      const float* part = job.outputs[n] + row * job.width + begin;
      for (int64_t d = 0; d < count; ++d) sums[d] += share * static_cast<double>(part[d]);
    }
    for (int64_t d = 0; d < count; ++d) output[begin + d] = static_cast<float>(sums[d]);
  }
  if (job.log_sum_exp != nullptr) job.log_sum_exp[row] = static_cast<float>(total.log_sum_exp);
}

void run_merge(const void* data, int64_t item, int64_t) {
  const MergeJob& job = *static_cast<const MergeJob*>(data);
  const int64_t begin = item * job.block_rows, end = least(begin + job.block_rows, job.rows);
  for (int64_t row = begin; row < end; ++row) merge_row(job, row);
}

mha_status check_parts(const char* name, const float* const* parts, int64_t count, mha_error* error) {
  if (parts == nullptr) return fail(error, MHA_ERR_NULL, "%s is NULL", name);
  for (int64_t n = 0; n < count; ++n) {
    if (parts[n] == nullptr) return fail(error, MHA_ERR_NULL, "%s[%lld] is NULL", name, ll{n});
  }
  return MHA_OK;
}

mha_status check(const MergeJob& job, mha_error* error) {
  mha_status status = check_size("num_parts", job.parts, 0, error);
  if (status == MHA_OK) status = check_size("rows", job.rows, 0, error);
  if (status == MHA_OK) status = check_size("value_head_dim", job.width, 1, error);
  if (status != MHA_OK) return status;
  if (!(Size(job.rows) * Size(job.width) * Size(sizeof(float))).ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "rows %lld x value_head_dim %lld exceeds 2^63 bytes", ll{job.rows},
                ll{job.width});
  }
  if (job.rows == 0) return MHA_OK;
  if (job.output == nullptr) return fail(error, MHA_ERR_NULL, "output is NULL");
  if (job.parts > 0) status = check_parts("outputs", job.outputs, job.parts, error);
  if (job.parts > 0 && status == MHA_OK) status = check_parts("log_sum_exps", job.log_sum_exps, job.parts, error);
  return status;
}

}  // namespace
}  // namespace mha

extern "C" mha_status mha_attention_merge(const mha_context* context, int64_t num_parts, int64_t rows,
                                          int64_t value_head_dim, const float* const* outputs,
                                          const float* const* log_sum_exps, float* output, float* log_sum_exp,
                                          mha_error* error) {
  using namespace mha;
  const FloatMode mode;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  MergeJob job = {num_parts, rows, value_head_dim, outputs, log_sum_exps, output, log_sum_exp, 0};
  const mha_status status = check(job, error);
  if (status != MHA_OK || rows == 0) return status;
  const double elements = static_cast<double>(rows) * static_cast<double>(value_head_dim);
  const double work = work_of(0, elements * static_cast<double>(num_parts + 1) * sizeof(float));
  const int64_t threads = useful_threads(context->num_threads, work);
  job.block_rows = divide_up(rows, threads > 1 ? threads * kItemsPerThread : 1);
  const Phase phase = {run_merge, &job, divide_up(rows, job.block_rows)};
  run_phases(*context, threads, &phase, 1);
  return MHA_OK;
}
