// SPDX-License-Identifier: Apache-2.0
// Edge semantics of mha_attention: what is masked cannot matter, empty rows, zero sizes.
#include "tests/support/shapes.h"

using namespace mha::test;

namespace {

/// Fills the keys and values that key j of `problem` has in every item and head.
void fill_key(AttentionProblem& problem, int64_t j, float value) {
  const AttentionShape& s = problem.shape;
  for (int64_t b = 0; b < s.B; ++b) {
    std::fill_n(problem.key.begin() + (b * s.Tk + j) * s.Hkv * s.D, s.Hkv * s.D, value);
    std::fill_n(problem.value.begin() + (b * s.Tk + j) * s.Hkv * s.Dv, s.Hkv * s.Dv, value);
  }
}

enum class Via { kBool, kAdd, kLengths, kCausal };

/// Hides keys [first, Tk) from every query in the given way; `open` and `add` keep the masks alive.
struct Hide {
  std::vector<uint8_t> open;
  std::vector<float> add;
  std::vector<int64_t> lengths;

  void apply(AttentionCall& args, Via via, int64_t first) {
    const int64_t Tk = args.key_len;
    if (via == Via::kBool) {
      open.assign(static_cast<size_t>(Tk), 1);
      std::fill(open.begin() + first, open.end(), uint8_t{0});
      args.masks.bool_mask = {open.data(), 0, 0, 0};
    } else if (via == Via::kAdd) {
      add.assign(static_cast<size_t>(Tk), 0.0f);
      std::fill(add.begin() + first, add.end(), -kInf);
      args.masks.add_mask = {add.data()};
    } else if (via == Via::kLengths) {
      lengths.assign(static_cast<size_t>(args.batch), first);
      args.items.key_lengths = lengths.data();
    } else {
      args.causal = 1;  // the last query sees keys < first, the ones before it less
      args.positions.align = MHA_ALIGN_OFFSET, args.positions.offset = first - args.query_len;
    }
  }
};

}  // namespace

TEST_CASE("edges: NaN and Inf in masked keys and values change no bit", "[edges][mask]") {
  for (int64_t first : {0, 1, 15, 17, 63, 255, 256, 257, 511}) {
    for (Via via : {Via::kBool, Via::kAdd, Via::kLengths, Via::kCausal}) {
      const AttentionShape shape = {2, 4, 2, 7, 520, 20, 12};
      AttentionProblem clean(shape, MaskKind::kNone, 70000), dirty(shape, MaskKind::kNone, 70000);
      const float specials[] = {kNan, kInf, -kInf};
      for (int64_t j = first; j < shape.Tk; ++j) fill_key(dirty, j, specials[j % 3]);
      INFO("first masked key " << first << " via " << static_cast<int>(via));
      for_each_target([&](const std::string&, const mha_context* context) {
        Hide hide_clean, hide_dirty;
        AttentionCall a = clean.args(), b = dirty.args();
        a.results.weights_mode = b.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
        hide_clean.apply(a, via, first);
        hide_dirty.apply(b, via, first);
        check_same_results("result", run_attention(context, b), run_attention(context, a));
      });
    }
  }
}

TEST_CASE("edges: one masked key among visible ones, anywhere, may hold NaN", "[edges][mask]") {
  const AttentionShape shape = {1, 2, 1, 5, 300, 9, 7};
  for (int64_t j : {0, 1, 15, 16, 100, 255, 256, 299}) {
    for (bool additive : {false, true}) {
      for (float special : {kNan, kInf, -kInf}) {
        AttentionProblem clean(shape, MaskKind::kNone, 70500), dirty(shape, MaskKind::kNone, 70500);
        fill_key(dirty, j, special);
        std::vector<uint8_t> open(300, 1);
        std::vector<float> add(300, 0.5f);
        open[static_cast<size_t>(j)] = 0;
        add[static_cast<size_t>(j)] = -kInf;
        INFO("key " << j << " additive " << additive << " value " << special);
        for_each_target([&](const std::string&, const mha_context* context) {
          AttentionCall a = clean.args(), b = dirty.args();
          a.results.weights_mode = b.results.weights_mode = MHA_WEIGHTS_AVERAGED;
          if (additive)
            a.masks.add_mask = b.masks.add_mask = {add.data()};
          else
            a.masks.bool_mask = b.masks.bool_mask = {open.data(), 0, 0, 0};
          check_same_results("result", run_attention(context, b), run_attention(context, a));
        });
      }
    }
  }
}

TEST_CASE("edges: additive mask entries that another mask hides may hold NaN and Inf", "[edges][mask]") {
  const AttentionShape shape = {2, 2, 2, 6, 280, 8, 8};
  AttentionProblem clean(shape, MaskKind::kAll, 71000), dirty(shape, MaskKind::kAll, 71000);
  int64_t changed = 0;
  for (int64_t b = 0; b < shape.B; ++b) {
    for (int64_t i = 0; i < shape.Tq; ++i) {
      for (int64_t j = 0; j < shape.Tk; ++j) {
        if (j < dirty.key_lengths[static_cast<size_t>(b)] && j <= i + shape.Tk - shape.Tq) continue;
        dirty.add_mask[static_cast<size_t>((b * shape.Tq + i) * shape.Tk + j)] = j % 2 ? kNan : kInf;
        ++changed;
      }
    }
  }
  REQUIRE(changed > 0);
  for_each_target([&](const std::string&, const mha_context* context) {
    check_same_results("result", run_attention(context, dirty.args()), run_attention(context, clean.args()));
  });
}

TEST_CASE("edges: NaN in gaps between rows changes no bit, gaps in results stay", "[edges][strides]") {
  const AttentionShape s = {2, 3, 1, 7, 70, 13, 5};
  const AttentionProblem problem(s, MaskKind::kCausal, 72000);
  for_each_target([&](const std::string&, const mha_context* context) {
    const AttentionResult want = run_attention(context, problem.args());
    for (int64_t pad : {1, 2, 15}) {
      Placed query(s.query(), padded_bthd(s.query(), pad)), key(s.key(), padded_bthd(s.key(), pad));
      Placed value(s.value(), padded_bthd(s.value(), pad)), output(s.output(), padded_bthd(s.output(), pad));
      AttentionCall args = problem.args();
      args.query = query.fill(problem.query).view();
      args.key = key.fill(problem.key).view();
      args.value = value.fill(problem.value).view();
      args.output = output.mut_view();
      mha_error error = {};
      require_ok(attention(context, args, &error), error);
      check_same_bits("output", output.dense(), want.output);
      CHECK(output.gaps_intact());
    }
  });
}

TEST_CASE("edges: keys masked up to a chunk boundary, open after it, and the reverse", "[edges][mask]") {
  const AttentionShape shape = {1, 2, 2, 5, 1030, 16, 16};
  for (int64_t boundary : {1, 16, 255, 256, 257, 512, 768, 1024, 1029}) {
    for (bool first_part_masked : {true, false}) {
      for (bool additive : {false, true}) {
        AttentionProblem problem(shape, MaskKind::kNone, 73000);
        std::vector<uint8_t> open(1030);
        std::vector<float> add(1030);
        for (int64_t j = 0; j < 1030; ++j) {
          const bool masked = (j < boundary) == first_part_masked;
          open[static_cast<size_t>(j)] = !masked;
          add[static_cast<size_t>(j)] = masked ? -kInf : 0.0f;
        }
        AttentionCall args = problem.args();
        if (additive)
          args.masks.add_mask = {add.data()};
        else
          args.masks.bool_mask = {open.data(), 0, 0, 0};
        const AttentionReference want = reference_attention(args);
        for (int64_t threads : {1, 4}) {
          for_each_target(
              [&](const std::string&, const mha_context* context) {
                INFO("boundary " << boundary << " first part masked " << first_part_masked << " additive " << additive);
                const AttentionResult got = run_attention(context, args);
                check_close("output", got.output, want.output, {4e-7, 4e-8});
                check_close("log-sum-exp", got.log_sum_exp, want.log_sum_exp, {4e-7, 1e-7});
              },
              threads);
        }
      }
    }
  }
}

TEST_CASE("edges: fully masked rows give zeros and -inf, their neighbours their own values", "[edges][mask]") {
  for (int64_t Tk : kEdges) {
    const AttentionShape s = {2, 3, 3, 9, Tk, 12, 20};
    AttentionProblem problem(s, MaskKind::kNone, 74000 + static_cast<uint64_t>(Tk));
    problem.set_bool_mask(1);
    std::fill(problem.bool_mask.begin(), problem.bool_mask.end(), uint8_t{1});
    const auto is_masked = [](int64_t b, int64_t h, int64_t i) {
      return (b == 1 && h == 2) || i == 0 || i == 4 || i == 8;  // a whole head, and the first, middle and last row
    };
    for (int64_t b = 0; b < s.B; ++b)
      for (int64_t h = 0; h < s.H; ++h)
        for (int64_t i = 0; i < s.Tq; ++i)
          if (is_masked(b, h, i))
            std::fill_n(problem.bool_mask.begin() + ((b * s.H + h) * s.Tq + i) * Tk, Tk, uint8_t{0});
    AttentionCall args = problem.args();
    args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
    const AttentionReference want = reference_attention(args);
    for_each_target([&](const std::string&, const mha_context* context) {
      INFO("Tk " << Tk);
      const AttentionResult got = run_attention(context, args);
      check_close("output", got.output, want.output, {4e-7, 4e-8});
      check_close("weights", got.weights, want.weights, {4e-7, 4e-8});
      for (int64_t b = 0; b < s.B; ++b)
        for (int64_t h = 0; h < s.H; ++h)
          for (int64_t i = 0; i < s.Tq; ++i) {
            const float lse = got.log_sum_exp[static_cast<size_t>((b * s.H + h) * s.Tq + i)];
            if (!is_masked(b, h, i)) {
              CHECK(std::isfinite(lse));
              continue;
            }
            CHECK(lse == -kInf);
            for (float value : output_row(s, got.output, b, i, h)) CHECK(bits_of(value) == 0);
          }
    });
  }
}

TEST_CASE("edges: causal with more queries than keys leaves the first rows empty", "[edges][mask]") {
  const AttentionShape s = {1, 2, 2, 70, 30, 8, 8};
  const AttentionProblem problem(s, MaskKind::kCausal, 74900);
  const AttentionReference want = reference_attention(problem.args());
  for_each_target([&](const std::string&, const mha_context* context) {
    const AttentionResult got = run_attention(context, problem.args());
    check_close("output", got.output, want.output, {4e-7, 4e-8});
    for (int64_t i = 0; i < 40; ++i) CHECK(all_zero(output_row(s, got.output, 0, i, 1)));
    CHECK_FALSE(all_zero(output_row(s, got.output, 0, 40, 1)));
  });
}

TEST_CASE("edges: causal offsets at the ends of their range", "[edges][mask]") {
  const AttentionShape s = {1, 1, 1, 5, 20, 8, 8};
  const AttentionProblem problem(s, MaskKind::kNone, 74950);
  const int64_t kFar = int64_t{1} << 62;
  for_each_target([&](const std::string&, const mha_context* context) {
    const AttentionResult open = run_attention(context, problem.args());
    AttentionCall args = problem.args();
    args.causal = 1, args.positions.align = MHA_ALIGN_OFFSET;
    for (int64_t offset : {kFar, int64_t{19}}) {
      args.positions.offset = offset;
      check_same_results("result", run_attention(context, args), open);
    }
    for (int64_t offset : {-kFar, int64_t{-5}}) {
      args.positions.offset = offset;
      CHECK(all_zero(run_attention(context, args).output));
    }
  });
}

TEST_CASE("edges: Tk 0 gives zeros and -inf", "[edges][sizes]") {
  AttentionProblem problem({2, 3, 3, 4, 0, 8, 6}, MaskKind::kNone, 75000);
  for_each_target([&](const std::string&, const mha_context* context) {
    for (int causal : {0, 1}) {
      AttentionCall args = problem.args();
      args.causal = causal;
      const AttentionResult got = run_attention(context, args);
      CHECK(all_zero(got.output));
      CHECK(std::all_of(got.log_sum_exp.begin(), got.log_sum_exp.end(), [](float lse) { return lse == -kInf; }));
      args.key = args.value = {};  // nothing to read, so nothing need be given
      CHECK(all_zero(run_attention(context, args).output));
    }
  });
}

TEST_CASE("edges: B or Tq of 0 succeeds and writes nothing", "[edges][sizes]") {
  const AttentionProblem problem({2, 2, 2, 3, 5, 8, 8}, MaskKind::kNone, 75500);
  for_each_target([&](const std::string&, const mha_context* context) {
    for (int which = 0; which < 2; ++which) {
      AttentionCall args = problem.args();
      if (which == 0) args.batch = 0;
      if (which == 1) args.query_len = 0;
      std::vector<float> output = poisoned(200), weights = poisoned(200), lse = poisoned(20);
      args.output = mut_view(output.data());
      args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
      args.results.weights = mut_view(weights.data());
      args.results.log_sum_exp = lse.data();
      mha_error error = {};
      require_ok(attention(context, args, &error), error);
      size_t bytes = 0;
      require_ok(attention_workspace_bytes(context, args, &bytes, &error), error);
      for (const std::vector<float>* result : {&output, &weights, &lse})
        CHECK(std::all_of(result->begin(), result->end(), is_poison));
      // With nothing to do the pointers are not needed.
      args.query = args.key = args.value = {};
      args.output = args.results.weights = {};
      args.results.log_sum_exp = nullptr;
      CHECK(attention(context, args, nullptr) == MHA_OK);
    }
  });
}
