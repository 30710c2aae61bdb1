// SPDX-License-Identifier: Apache-2.0
// Structured masks and score modifications: values against the double reference over random combinations, what each
// mask means on small cases, what is hidden cannot matter, work that is skipped. (Equal bits: test_properties.cpp.)
#include "support/random_cases.h"

using namespace mha::test;

namespace {

AttentionShape small_shape(Random& random) {
  AttentionShape s = {};
  s.Hkv = between(random, 1, 2);
  s.H = s.Hkv * between(random, 1, 3);
  s.B = between(random, 1, 2);
  s.Tq = one_in(random, 3) ? between(random, 1, 3) : random_length(random, 300);
  s.Tk = random_length(random, 800);
  s.D = between(random, 1, 70);
  s.Dv = between(random, 1, 70);
  return s;
}

}  // namespace

TEST_CASE("masks and score modifications: values of random combinations", "[masks][mods]") {
  int64_t some_seen = 0;
  for (uint64_t seed = 1; seed <= 400; ++seed) {
    Random random(seed);
    const AttentionShape s = small_shape(random);
    AttentionProblem problem(s, MaskKind::kNone, seed);
    for (float& value : problem.query) value *= 3;
    const RandomMasks masks(random, s.B, s.H, s.Tq, s.Tk);
    mha_attention_args args = problem.args();
    args.masks = masks.get();
    args.mods = masks.mods();
    args.weights_mode = one_of(random, {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED});
    const RandomContext context = random_context(random);
    INFO("seed " << seed << ": " << context.describe() << ": " << describe(s) << ":" << masks.describe());
    const AttentionReference want = reference_attention(args);
    const AttentionResult got = run_attention(context.get(), args);
    check_close("masked output", got.output, want.output, {2e-6, 1e-6});
    check_close("masked weights", got.weights, want.weights, {2e-6, 1e-6});
    check_close("masked log-sum-exp", got.log_sum_exp, want.log_sum_exp, {4e-6, 3e-6});
    some_seen += !got.output.empty() && !all_zero(got.output);
  }
  CHECK(some_seen > 250);
}
