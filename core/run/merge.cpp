// SPDX-License-Identifier: Apache-2.0
// Merging finished results over disjoint sets of keys by their log-sum-exp. In double, row by row, parts in the order
// given: the same bits on every target.
#include "core/run/merge.h"

#include "core/kernels/kernel_table.h"
#include "core/math/elementary.h"

namespace mha {
namespace {

constexpr double kInfinity = __builtin_inf();

// Over the parts of a row: the greatest log-sum-exp, the sum of e^(lse - most), and the ln of the sum of e^lse, which
// is -inf if no part saw a key, NaN if one part is NaN, +inf if one is +inf.
struct Total {
  double most, sum, log_sum_exp;

  // Adding ln(sum) to a greater `most` rounds it away, so that shares by log_sum_exp would not add up to 1.
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

// Columns that are summed at a time.
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

}  // namespace

Phase merge_phase(const MergeJob& job) { return {run_merge, &job, divide_up(job.args.rows, job.block_rows)}; }

}  // namespace mha
