// SPDX-License-Identifier: Apache-2.0
// Attention over few keys that all rows see has a kernel of its own. A bool mask that shows every key is not for that
// kernel, and must not change a bit.
#include "tests/support/guard.h"
#include "tests/support/random_typed.h"
#include "tests/support/shapes.h"

using namespace mha::test;

namespace {

std::string explained(const mha_context* context, const AttentionCall& args) {
  char text[4096];
  size_t needed = 0;
  mha_error error = {};
  require_ok(attention_explain(context, args, text, sizeof text, &needed, &error), error);
  return text;
}

bool is_few_keys(const mha_context* context, const AttentionCall& args) {
  return explained(context, args).find("attention kernel: few keys") != std::string::npos;
}

/// The call by its own kernel, on one thread and three, and by another.
void check_same_as_masked(const std::string& what, const AttentionCall& args) {
  const std::vector<uint8_t> all(static_cast<size_t>(args.key_len), 1);
  AttentionCall masked = args;
  masked.masks.bool_mask.data = all.data();
  for_each_target([&](const std::string& target, const mha_context* context) {
    INFO(what << " " << target << " weights " << args.results.weights_mode);
    REQUIRE(is_few_keys(context, args));
    REQUIRE(!is_few_keys(context, masked));
    const AttentionResult want = run_attention(context, masked);
    check_same_results(what, run_attention(context, args), want);
    check_same_results(what + ", threads", run_attention(shared_context(target, 3), args), want);
    check_same_bits(what + ", alone", run_attention(context, args, false).output, want.output);
  });
}

constexpr mha_weights_mode kModes[] = {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED};

}  // namespace

TEST_CASE("few keys: every count of keys and width gives the bits of the other kernels", "[few_keys]") {
  uint64_t seed = 180000;
  for (const int64_t Tk : {1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16}) {
    for (const int64_t D : {1, 2, 3, 4, 5, 6, 7, 16, 20, 31, 64, 97}) {
      const int64_t Dv = seed % 3 == 0 ? D : 1 + static_cast<int64_t>(seed * 7 % 40);
      const AttentionProblem problem({3, 7, 7, 1, Tk, D, Dv}, MaskKind::kNone, ++seed);
      AttentionCall args = problem.args();
      args.results.weights_mode = kModes[seed % 3];
      check_same_as_masked("few keys " + describe(problem.shape), args);
    }
  }
}

TEST_CASE("few keys: batches, groups of heads, several queries, causality that hides nothing", "[few_keys]") {
  const AttentionShape shapes[] = {{64, 8, 8, 1, 1, 20, 20}, {1, 1, 1, 1, 1, 1, 1},  {2, 8, 2, 1, 6, 16, 16},
                                   {3, 4, 4, 10, 10, 5, 5},  {2, 6, 3, 5, 3, 33, 9}, {70, 3, 1, 2, 2, 12, 40}};
  uint64_t seed = 181000;
  for (const AttentionShape& shape : shapes) {
    const AttentionProblem problem(shape, MaskKind::kNone, ++seed);
    for (const mha_weights_mode mode : kModes) {
      AttentionCall args = problem.args();
      args.results.weights_mode = mode;
      check_same_as_masked(describe(shape), args);
      args.causal = 1;
      if (shape.Tq > 1) args.positions.align = MHA_ALIGN_OFFSET, args.positions.offset = shape.Tk - 1;
      check_same_as_masked(describe(shape) + " causal", args);
    }
  }
}

TEST_CASE("few keys: a row that does not see all keys, or does more with them, is not for that kernel", "[few_keys]") {
  const AttentionProblem problem({2, 2, 2, 3, 5, 8, 8}, MaskKind::kNone, 182000);
  const int64_t lengths[2] = {5, 5};
  const float sinks[2] = {0, 0};
  for_each_target([&](const std::string&, const mha_context* context) {
    CHECK(is_few_keys(context, problem.args()));
    const auto check_other = [&](auto change) {
      AttentionCall args = problem.args();
      change(args);
      CHECK(!is_few_keys(context, args));
    };
    using A = AttentionCall;
    check_other([](A& a) { a.causal = 1; });
    check_other([](A& a) { a.causal = 1, a.positions.align = MHA_ALIGN_OFFSET, a.positions.offset = 3; });
    check_other([](A& a) { a.masks.window_left = 2; });
    check_other([&](A& a) { a.items.key_lengths = lengths; });
    check_other([](A& a) { a.score_mods.softcap = 30; });
    check_other([&](A& a) { a.score_mods.sink_logits = sinks; });
    check_other([](A& a) { a.key_len = 17; });
    check_other([](A& a) { a.key_len = 0; });
  });
}

TEST_CASE("few keys: NaN, infinities and extreme scores", "[few_keys]") {
  const float odd[] = {kNan, kInf, -kInf, 3e38f, -3e38f, 1e-40f, 0.0f, -0.0f, 1e20f};
  for (uint64_t seed = 183000; seed < 183040; ++seed) {
    Random random(seed);
    AttentionProblem problem({5, 4, 4, 1, 1 + random.below(16), 6, 6}, MaskKind::kNone, seed);
    for (std::vector<float>* tensor : {&problem.query, &problem.key, &problem.value}) {
      for (int n = 0; n < 6; ++n) {
        (*tensor)[static_cast<size_t>(random.below(static_cast<int64_t>(tensor->size())))] = odd[random.below(9)];
      }
    }
    AttentionCall args = problem.args();
    args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
    check_same_as_masked("odd values", args);
  }
}

TEST_CASE("few keys: views apart, heads before tokens, nothing touched beyond", "[few_keys]") {
  for (const int64_t D : {3, 5, 18}) {
    const AttentionShape shape = {2, 3, 3, 1, 4, D, D};
    const AttentionProblem problem(shape, MaskKind::kNone, 184000 + static_cast<uint64_t>(D));
    for (const Guard guard : {Guard::kBefore, Guard::kAfter}) {
      const GuardedFloats query(problem.query, guard), key(problem.key, guard), value(problem.value, guard);
      for_each_target([&](const std::string&, const mha_context* context) {
        const AttentionResult want = run_attention(context, problem.args(), false);
        AttentionCall args = problem.args();
        const GuardedFloats output(poisoned(shape.output().count()), guard);
        args.query = view(query.floats()), args.key = view(key.floats()), args.value = view(value.floats());
        args.output = mut_view(output.floats());
        call_attention(context, args);
        check_same_bits("guarded", output.values(), want.output);
        CHECK(output.slack_intact());

        Placed q(shape.query(), dense_bhtd(shape.query()), 1), k(shape.key(), padded_bthd(shape.key(), 3), 2);
        Placed v(shape.value(), dense_bhtd(shape.value()), 3), o(shape.output(), padded_bthd(shape.output(), 2), 1);
        q.fill(problem.query), k.fill(problem.key), v.fill(problem.value);
        args.query = q.view(), args.key = k.view(), args.value = v.view(), args.output = o.mut_view();
        call_attention(context, args);
        check_same_bits("strides", o.dense(), want.output);
        CHECK(o.gaps_intact());
      });
    }
  }
}

TEST_CASE("few keys: a row whose scores are all -inf is zeros of its type, nothing behind it", "[few_keys][widening]") {
  const AttentionShape s = {1, 3, 3, 1, 4, 8, 8};
  AttentionProblem problem(s, MaskKind::kNone, 185000);
  std::fill(problem.query.begin(), problem.query.end(), 1.0f);
  std::fill(problem.key.begin(), problem.key.end(), -kInf);
  for (const ElementType& type : kElementTypes) {
    for_each_target([&](const std::string&, const mha_context* context) {
      REQUIRE(is_few_keys(context, problem.args()));
      const Typed output(type.dtype, s.output(), dense_bthd(s.output()));
      const TypedResult got = run_typed(context, problem.args(), output, s.Tk);
      check_rounded("output", got.output, std::vector<float>(3 * 8, 0.0f));
    });
  }
}
