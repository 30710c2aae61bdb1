// SPDX-License-Identifier: Apache-2.0
// Query rows that share keys are computed in tiles, of as many rows as a target's registers allow: however many rows there
// are, each has the bits that it has alone.
#include "tests/support/calls.h"
#include "tests/support/codes.h"
#include "tests/support/dtypes.h"
#include "tests/support/row_codes.h"
#include "tests/support/shapes.h"
#include "tests/support/targets.h"

using namespace mha::test;

namespace {

constexpr int64_t kRows = 17;  // up to 16 of a head are read in place
constexpr int64_t kKeys = 290;

/// Calls with the first 1 to kRows heads of `query` [kRows][D] over one head of keys, and with each head alone.
void check_rows(const AttentionCall& all, const float* query, const std::vector<std::string>& targets) {
  for (const std::string& target : targets) {
    const mha_context* context = shared_context(target, 1);
    const auto run = [&](int64_t first, int64_t rows) {
      AttentionCall call = all;
      call.num_heads = rows;
      call.query = view(query + first * all.head_dim);
      return run_attention(context, call);
    };
    std::vector<float> output, log_sum_exp;
    for (int64_t row = 0; row < kRows; ++row) {
      const AttentionResult alone = run(row, 1);
      output.insert(output.end(), alone.output.begin(), alone.output.end());
      log_sum_exp.insert(log_sum_exp.end(), alone.log_sum_exp.begin(), alone.log_sum_exp.end());
    }
    for (int64_t rows = 2; rows <= kRows; ++rows) {
      INFO(target << ", " << rows << " rows");
      const AttentionResult got = run(0, rows);
      check_same_bits("output", got.output, {output.begin(), output.begin() + rows * all.value_head_dim});
      check_same_bits("log-sum-exp", got.log_sum_exp, {log_sum_exp.begin(), log_sum_exp.begin() + rows});
    }
  }
}

}  // namespace

TEST_CASE("row tiles: floats of any type", "[bits]") {
  for (const auto& [D, Dv] : {std::pair<int64_t, int64_t>{128, 128}, {40, 72}, {7, 5}}) {
    const AttentionProblem p({1, kRows, 1, 1, kKeys, D, Dv}, MaskKind::kNone, 640000);
    for (const mha_dtype dtype : {MHA_F32, MHA_F16, MHA_BF16}) {
      const Elements key(dtype, p.key), value(dtype, p.value);
      AttentionCall call = p.args();
      call.key = key.view(), call.value = value.view();
      for (const mha_arithmetic arithmetic : {MHA_ARITHMETIC_F32, MHA_ARITHMETIC_BF16}) {
        INFO("D " << D << ", Dv " << Dv << ", " << dtype_name(dtype) << ", arithmetic " << arithmetic);
        call.arithmetic = arithmetic;
        check_rows(call, p.query.data(), targets_of(arithmetic));
      }
    }
  }
}

TEST_CASE("row tiles: codes of any type", "[codes][bits]") {
  const AttentionProblem p({1, kRows, 1, 1, kKeys, 64, 96}, MaskKind::kNone, 640100);
  for (const CodeType& type : kCodeTypes) {
    Random random(640101);
    const CodeTensor key(random, type, p.shape.key()), value(random, type, p.shape.value());
    INFO("key " << key.describe() << ", value " << value.describe());
    AttentionCall call = p.args();
    call.key = key.view(), call.value = value.view();
    check_rows(call, p.query.data(), supported_targets());
  }
}

TEST_CASE("row tiles: INT8 arithmetic", "[codes][int8][bits]") {
  const AttentionProblem p({1, kRows, 1, 1, kKeys, 72, 136}, MaskKind::kNone, 640200);
  const RowCodes key(p.key, p.shape.key()), value(p.value, p.shape.value());
  AttentionCall call = p.args();
  call.arithmetic = MHA_ARITHMETIC_INT8;
  call.key = key.view(), call.value = value.view();
  check_rows(call, p.query.data(), targets_of(MHA_ARITHMETIC_INT8));
}
