// SPDX-License-Identifier: Apache-2.0
// The planner of products and of stages that go over tokens, and the cost model.
#include "core/plan/plan.h"

#include "simd/dispatch.h"

namespace mha {
namespace {

// Rows of A that pass over all columns of B: a block of so many floats (of one block of k) stays in L2 beside the
// groups of B's columns, which are prefetched from the outer caches once per block of rows (gemm-inl.h).
constexpr int64_t kLinearBlockFloats = 128 * 1024;
constexpr int64_t kLeastLinearRows = 96;

// Of norm and rotation: an item computes the frequencies anew, which costs as much as a token or two.
constexpr int64_t kLeastTokens = 16;

}  // namespace

mha_status check_target(const KernelTable& table, Arithmetic arithmetic, mha_error* error) {
  if (attention_kernels_of(table, arithmetic, keys_of(arithmetic)).packed != nullptr) return MHA_OK;
  if (arithmetic == Arithmetic::kInt8) {
    return fail(error, MHA_ERR_UNSUPPORTED,
                "arithmetic is MHA_ARITHMETIC_INT8: this library was built without codes (-DMHA_CODES=OFF)");
  }
  if (!kHasBf16) {
    return fail(error, MHA_ERR_UNSUPPORTED,
                "arithmetic is MHA_ARITHMETIC_BF16: this library was built without it (-DMHA_BF16=OFF)");
  }
  return fail(error, MHA_ERR_UNSUPPORTED,
              "arithmetic is MHA_ARITHMETIC_BF16: target %s has no fused multiply-add, which its bits need; "
              "MHA_ARITHMETIC_F32 serves there",
              table.name);
}

int64_t useful_threads(int64_t num_threads, double work) {
  const double worth = work / kMultiplyAddsPerThread;
  return worth >= static_cast<double>(num_threads) ? num_threads : most(1, static_cast<int64_t>(worth));
}

namespace {

// Rows of a block at most, where rows are many.
int64_t most_linear_rows(const LinearKernels& kernels, int64_t in_features) {
  return most(kLeastLinearRows, kLinearBlockFloats / least(in_features, kernels.depth));
}

}  // namespace

LinearPlan plan_linear(const LinearKernels& kernels, int64_t threads, const LinearProblem& p) {
  LinearPlan plan = {};
  plan.block_rows = most(p.rows, 1), plan.row_blocks = least(p.rows, 1);
  if (p.rows > kLeastLinearRows) {  // divisions show in small calls
    plan.block_rows = even_piece(p.rows, most_linear_rows(kernels, p.in_features), kernels.tile_rows);
    plan.row_blocks = divide_up(p.rows, plan.block_rows);
  }
  plan.block_columns = p.out_features, plan.column_blocks = least(p.out_features, 1);
  if (threads > 1) {
    const int64_t pieces = divide_up(threads * kItemsPerThread, most(p.batch * plan.row_blocks, 1));
    plan.block_columns =
        even_piece(p.out_features, most(divide_up(p.out_features, pieces), kernels.tile_columns), kPanel);
    plan.column_blocks = divide_up(p.out_features, plan.block_columns);
  }
  plan.items = p.batch * plan.row_blocks * plan.column_blocks;
  if (!p.is_float()) {
    // Of a greater call never less, so that bounds hold.
    const int64_t rows = least(p.rows, most_linear_rows(kernels, p.in_features) + kernels.tile_rows);
    plan.scratch_floats = kernels.gemm_scratch(rows, p.in_features);
  }
  return plan;
}

LinearJob make_linear_job(const KernelTable& table, int64_t threads, const LinearProblem& problem) {
  LinearJob job = {};
  job.kernels = &linear_kernels_of(table, problem.arithmetic, problem.weight.form.element);
  job.problem = problem, job.plan = plan_linear(*job.kernels, threads, problem);
  return job;
}

int64_t plan_norm_rope(int64_t tokens, int64_t threads) {
  const int64_t share = divide_up(tokens, threads > 1 ? threads * kItemsPerThread : 1);
  return most(share, kLeastTokens);
}

int64_t plan_append(int64_t tokens, int64_t threads) {
  return threads > 1 ? divide_up(tokens, threads * kItemsPerThread) : tokens;
}

}  // namespace mha
