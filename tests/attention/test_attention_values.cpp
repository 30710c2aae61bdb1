// SPDX-License-Identifier: Apache-2.0
// mha_attention against the double reference, on grids of sizes, head groupings and masks. Bounds: tests/README.md.
#include "tests/support/seeds.h"
#include "tests/support/shapes.h"

using namespace mha::test;

namespace {

/// Every head dim at which a tail, a tile or a specialised path could begin.
std::vector<int64_t> head_dims() {
  std::vector<int64_t> dims;
  for (int64_t d = 1; d <= 67; ++d) dims.push_back(d);
  for (int64_t d : {72, 80, 96, 112, 128, 160, 192, 256, 576}) dims.push_back(d);
  return dims;
}

// Lengths around the edges of vectors (16), tiles (6, 24, 64) and chunks (256).
const std::vector<int64_t> kQueryLens = {1, 2, 3, 5, 6, 7, 12, 13, 15, 16, 17, 24, 25, 63, 64, 65};
const std::vector<int64_t> kKeyLens = {1, 2, 3, 7, 15, 16, 17, 23, 24, 25, 31, 33, 63, 64, 65, 127, 255, 256, 257, 300};

struct Grouping {
  int64_t H, Hkv;
};
const std::vector<Grouping> kGroupings = {{1, 1}, {3, 3}, {4, 2}, {6, 1}, {5, 5}};

// Queries are scaled by this, so that the softmax is nearly flat (1), mixed (8) or nearly one-hot (40).
const std::vector<float> kMagnitudes = {1, 8, 40};

// The error of a score grows with the score, so each magnitude has its own bound.
const Bound kOutputBounds[] = {{4e-7, 4e-8}, {4e-6, 5e-7}, {2.5e-5, 1.2e-6}};
const Bound kLseBounds[] = {{8e-7, 1.5e-7}, {4e-6, 1.6e-6}, {2e-5, 1e-6}};

void check_problem(AttentionProblem& problem, MaskKind kind, int magnitude) {
  for (float& value : problem.query) value *= kMagnitudes[magnitude];
  const std::string what = describe(problem.shape, kind) + " magnitude " + std::to_string(magnitude);
  const AttentionReference want = reference_attention(problem.args());
  for_each_target([&](const std::string& target, const mha_context* context) {
    const AttentionResult got = run_attention(context, problem.args());
    check_close("output " + target + " " + what, got.output, want.output, kOutputBounds[magnitude]);
    check_close("log-sum-exp " + target + " " + what, got.log_sum_exp, want.log_sum_exp, kLseBounds[magnitude]);
  });
}

}  // namespace

TEST_CASE("attention values: every head dim with every length, mask and head grouping, pairwise", "[attention][slow]") {
  const std::vector<int64_t> dims = head_dims();
  const std::vector<std::vector<int>> rows =
      pairwise({static_cast<int>(dims.size()), static_cast<int>(kKeyLens.size()), static_cast<int>(kQueryLens.size()),
                kMaskKinds, static_cast<int>(kGroupings.size()), static_cast<int>(kMagnitudes.size()), 2},
               1);
  uint64_t seed = 100;
  Taken cases;
  for (const std::vector<int>& row : rows) {
    ++seed;
    if (!cases.next()) continue;
    const Grouping heads = kGroupings[row[4]];
    const int64_t D = dims[row[0]];
    AttentionShape shape = {row[6] + 1, heads.H, heads.Hkv, kQueryLens[row[2]], kKeyLens[row[1]], D, D};
    // The reference is the cost: the largest sizes keep two query heads on one key/value head.
    if (shape.output().count() * shape.Tk > 5000000) shape.B = 1, shape.H = 2, shape.Hkv = 1;
    const MaskKind kind = static_cast<MaskKind>(row[3]);
    AttentionProblem problem(shape, kind, seed);
    check_problem(problem, kind, row[5]);
  }
}

TEST_CASE("attention values: every pair of head dim and value head dim", "[attention][slow]") {
  const std::vector<int64_t> dims = head_dims();
  uint64_t seed = 5000;
  Taken cases;
  for (int64_t D : dims) {
    for (int64_t Dv : dims) {
      ++seed;
      if (!cases.next()) continue;
      const MaskKind kind = static_cast<MaskKind>(seed % kMaskKinds);
      AttentionProblem problem({1, 2, 1, 1 + D % 7, 5 + 7 * (Dv % 5), D, Dv}, kind, seed);
      check_problem(problem, kind, 1);
    }
  }
}

TEST_CASE("attention values: lengths at the edges of key chunks", "[attention]") {
  uint64_t seed = 7000;
  for (int64_t Tk : {255, 256, 257, 511, 512, 513, 767, 769, 1024, 1025}) {
    for (int64_t Tq : {1, 4, 66}) {
      const MaskKind kind = static_cast<MaskKind>(seed % kMaskKinds);
      AttentionProblem problem({1, 2, 2, Tq, Tk, 20, 20}, kind, ++seed);
      check_problem(problem, kind, static_cast<int>(seed % 3));
    }
  }
}

// Causal rows see one key more each: for some of these, the last row that takes a step with others sees exactly the keys
// of the first chunk.
TEST_CASE("attention values: a chunk ends with any row of a group", "[attention]") {
  for (int64_t before = 0; before < 24; ++before) {
    AttentionProblem problem({1, 1, 1, 300, 300 + before, 8, 8}, MaskKind::kCausal,
                             8100 + static_cast<uint64_t>(before));
    check_problem(problem, MaskKind::kCausal, 0);
  }
}

TEST_CASE("attention values: few heads over a long key", "[attention]") {
  AttentionProblem problem({1, 1, 1, 2, 8193, 8, 8}, MaskKind::kNone, 8000);
  check_problem(problem, MaskKind::kNone, 1);
}

TEST_CASE("attention values: masks broadcast over batch, heads and queries", "[attention][mask]") {
  const AttentionShape shape = {3, 4, 2, 9, 70, 16, 16};
  for (int pattern = 0; pattern < 8; ++pattern) {
    AttentionProblem problem(shape, MaskKind::kBool, 9000 + static_cast<uint64_t>(pattern));
    problem.set_add_mask(9100 + static_cast<uint64_t>(pattern));
    mha_bool_mask& open = problem.masks.bool_mask;
    mha_add_mask& add = problem.masks.add_mask;
    if (pattern & 1) open.stride_b = 0, add.stride_q = 0;
    if (pattern & 2) open.stride_h = 0, add.stride_b = 0;
    if (pattern & 4) open.stride_q = 0, add.stride_q = 0, add.stride_h = shape.Tk;
    INFO("pattern " << pattern);
    check_problem(problem, MaskKind::kBool, 1);
  }
}

TEST_CASE("attention values: an input is the same for every item, head or token", "[attention][strides]") {
  const AttentionShape shape = {3, 4, 4, 5, 37, 18, 18};
  AttentionProblem problem(shape, MaskKind::kNone, 9500);
  AttentionCall args = problem.args();
  args.query = view(problem.query.data(), {MHA_BROADCAST, 18, MHA_BROADCAST});
  args.key = view(problem.key.data(), {37 * 18, 18, MHA_BROADCAST});
  args.value = view(problem.value.data(), {MHA_BROADCAST, MHA_BROADCAST, 18});
  const AttentionReference want = reference_attention(args);
  for_each_target([&](const std::string& target, const mha_context* context) {
    const AttentionResult got = run_attention(context, args);
    check_close("broadcast " + target, got.output, want.output, kOutputBounds[0]);
  });
}

TEST_CASE("attention values: zero means the default of num_kv_heads, value_head_dim and scale", "[attention]") {
  AttentionProblem problem({2, 3, 3, 5, 40, 16, 16}, MaskKind::kNone, 9600);
  for_each_target([&](const std::string&, const mha_context* context) {
    AttentionCall args = problem.args();
    args.scale = 0.25f;
    const AttentionResult explicit_values = run_attention(context, args);
    args.num_kv_heads = 0;
    args.value_head_dim = 0;
    args.scale = 0;
    const AttentionResult defaults = run_attention(context, args);
    check_same_bits("output", defaults.output, explicit_values.output);
  });
}

TEST_CASE("attention values: custom scale, negative and 0 too", "[attention]") {
  for (float scale : {0.01f, 0.2f, -0.3f, 0.5f, 0.0f}) {
    AttentionProblem problem({1, 2, 1, 7, 50, 24, 24}, MaskKind::kCausal, 9700);
    problem.scale = scale, problem.scale_is_exact = 1;
    INFO("scale " << scale);
    check_problem(problem, MaskKind::kCausal, 1);
  }
}
