// SPDX-License-Identifier: Apache-2.0
// Structured masks and score modifications: values against the double reference over random combinations, what each
// mask means on small cases, what is hidden cannot matter, work that is skipped. (Equal bits: test_properties.cpp.)
#include <cfloat>
#include <functional>

#include "tests/support/dtypes.h"
#include "tests/support/random_cases.h"
#include "tests/support/seeds.h"

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
  for (const uint64_t seed : seeds(1, 400)) {
    Random random(seed);
    const AttentionShape s = small_shape(random);
    AttentionProblem problem(s, MaskKind::kNone, seed);
    for (float& value : problem.query) value *= 3;
    const RandomMasks masks(random, s.B, s.H, s.Tq, s.Tk);
    AttentionCall args = problem.args();
    masks.get().put_into(&args);
    args.score_mods = masks.mods();
    args.results.weights_mode = one_of(random, {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED});
    const RandomContext context = random_context(random);
    INFO("seed " << seed << ": " << context.describe() << ": " << describe(s) << ":" << masks.describe());
    const AttentionReference want = reference_attention(args);
    const AttentionResult got = run_attention(context.get(), args);
    // A score that ALiBi makes large is rounded by as much as its size says, and so are the weights.
    double largest = 0;
    for (double lse : want.log_sum_exp)
      if (std::isfinite(lse)) largest = std::max(largest, std::fabs(lse));
    const double worst = 2e-6 + largest * 0x1p-24;
    check_close("masked output", got.output, want.output, {worst, 1e-6});
    check_close("masked weights", got.weights, want.weights, {worst, 1e-7});
    check_close("masked log-sum-exp", got.log_sum_exp, want.log_sum_exp, {4e-6, 5e-7});
    some_seen += !got.output.empty() && !all_zero(got.output);
  }
  CHECK(some_seen > share_of(250));
}

namespace {

/// One head, D 8: which of the keys a query sees is where its weights are not 0.
struct Seen {
  AttentionShape shape;
  AttentionProblem problem;
  AttentionCall args;

  Seen(int64_t Tq, int64_t Tk)
      : shape{1, 1, 1, Tq, Tk, 8, 8}, problem(shape, MaskKind::kNone, 9), args(problem.args()) {
    args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
  }
  /// '#' where query i sees key j, else '.'.
  std::vector<std::string> rows(const mha_context* context) const {
    const AttentionResult got = run_attention(context, args);
    std::vector<std::string> rows(static_cast<size_t>(shape.Tq));
    for (int64_t n = 0; n < shape.Tq * shape.Tk; ++n)
      rows[static_cast<size_t>(n / shape.Tk)] += got.weights[static_cast<size_t>(n)] > 0 ? '#' : '.';
    return rows;
  }
};

using Rows = std::vector<std::string>;

}  // namespace

TEST_CASE("masks: what each shows, drawn", "[masks]") {
  for_each_target([](const std::string&, const mha_context* context) {
    {
      Seen s(4, 6);
      s.args.causal = 1;
      s.args.masks.window_left = 2;
      CHECK(s.rows(context) == Rows{".##...", "..##..", "...##.", "....##"});
      s.args.masks.sink_tokens = 1;
      CHECK(s.rows(context) == Rows{"###...", "#.##..", "#..##.", "#...##"});
      const std::vector<int64_t> prefix = {3};
      s.args.masks.sink_tokens = 0, s.args.masks.prefix_lengths = prefix.data();
      CHECK(s.rows(context) == Rows{".##...", "..##..", "...##.", "....##"});
      s.args.masks.window_left = 0;
      CHECK(s.rows(context) == Rows{"###...", "####..", "#####.", "######"});
    }
    {
      Seen s(4, 4);  // without causality the last query still stands at the last key
      s.args.masks.window_left = 2, s.args.masks.window_right = 2;
      CHECK(s.rows(context) == Rows{"##..", "###.", ".###", "..##"});
      s.args.masks.window_left = 0, s.args.masks.window_right = 1;
      CHECK(s.rows(context) == Rows{"#...", "##..", "###.", "####"});
      s.args.causal = 1, s.args.positions.align = MHA_ALIGN_OFFSET, s.args.positions.offset = -2;
      CHECK(s.rows(context) == Rows{"....", "....", "#...", "##.."});
    }
    {
      Seen s(4, 5);
      const std::vector<int32_t> queries = {7, 7, -1, 3}, keys = {7, -1, -1, 7, 0};
      s.args.masks.query_segments = queries.data(), s.args.masks.key_segments = keys.data();
      CHECK(s.rows(context) == Rows{"#..#.", "#..#.", ".##..", "....."});
    }
    {
      Seen s(4, 5);
      const std::vector<int64_t> pairs = {0, 0, 0, 2, 1, 1, 1, 9, 5, 0};
      s.args.masks.block_mask = {3, 2, pairs.data(), 5};
      CHECK(s.rows(context) == Rows{"##..#", "##..#", "##..#", "..##."});
      s.args.masks.block_mask.num_pairs = 0;
      CHECK(s.rows(context) == Rows{".....", ".....", ".....", "....."});
    }
    {
      Seen s(2, 11);
      const std::vector<uint8_t> bits = {0x05, 0x04, 0x80, 0xf9};  // bits beyond the last key do not matter
      s.args.masks.bit_mask = {bits.data(), 0, 0, 2};
      CHECK(s.rows(context) == Rows{"#.#.......#", ".......##.."});
    }
  });
}

TEST_CASE("masks: a NaN in one value reaches the queries that see its key, and no others", "[masks][edges]") {
  constexpr int64_t Tk = 50;
  for (const int64_t Tq : {3, 40}) {  // read where they are stored, and packed
    const AttentionShape shape = {1, 2, 1, Tq, Tk, 8, 8};
    const AttentionProblem problem(shape, MaskKind::kNone, 20);
    std::vector<int32_t> queries, keys;
    std::vector<uint8_t> bits, bools;
    std::vector<float> adds;
    Random random(21);
    for (int64_t i = 0; i < Tq; ++i) queries.push_back(static_cast<int32_t>(i % 3));
    for (int64_t j = 0; j < Tk; ++j) keys.push_back(static_cast<int32_t>(j / 6 % 3));
    for (int64_t n = 0; n < Tq * 7; ++n) bits.push_back(static_cast<uint8_t>(random.bits()));
    for (int64_t n = 0; n < Tq * Tk; ++n) bools.push_back(random.below(2) != 0), adds.push_back(n % 3 ? 0 : -kInf);
    const std::vector<int64_t> pairs = {0, 0, 0, 3, 1, 1, 1, 2, 2, 7}, some = {21};
    std::vector<float> adds_too(adds.size());
    for (size_t n = 0; n < adds.size(); ++n) adds_too[n] = n % 5 ? 0.25f : -kInf;
    std::vector<Masks> all(14);
    all[0].causal = 1;
    all[1].key_lengths = some.data();
    all[2].window_left = 5, all[2].causal = 1;
    all[3] = all[2], all[3].sink_tokens = 3;
    all[4].window_left = 4, all[4].window_right = 6, all[4].sink_tokens = 17;
    all[5].window_right = 2, all[5].prefix_lengths = some.data();
    all[6].query_segments = queries.data(), all[6].key_segments = keys.data();
    all[7].bit_mask = {bits.data(), 0, 0, 7};
    all[8].block_mask = {9, 7, pairs.data(), 5};
    all[9].bool_mask.data = bools.data(), all[9].bool_mask.stride_q = Tk;
    all[10].add_mask.data = adds.data(), all[10].add_mask.stride_q = Tk;
    all[11] = all[3], all[11].bit_mask = all[7].bit_mask, all[11].add_mask = all[10].add_mask;
    all[12].add_mask2.data = adds.data(), all[12].add_mask2.stride_q = Tk;
    all[13] = all[10], all[13].add_mask2.data = adds_too.data(), all[13].add_mask2.stride_q = Tk;
    for (size_t kind = 0; kind < all.size(); ++kind) {
      AttentionCall args = problem.args();
      all[kind].put_into(&args);
      args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
      const AttentionReference want = reference_attention(args);
      for_each_target([&](const std::string&, const mha_context* context) {
        const AttentionResult clean = run_attention(context, args);
        for (int64_t j = 0; j < Tk; ++j) {
          std::vector<float> value = problem.value;
          value[static_cast<size_t>(j * 8 + 3)] = kNan;
          AttentionCall dirty = args;
          dirty.value = view(value.data());
          const AttentionResult got = run_attention(context, dirty);
          for (int64_t h = 0; h < 2; ++h) {
            for (int64_t i = 0; i < Tq; ++i) {
              const bool sees = want.weights[static_cast<size_t>((h * Tq + i) * Tk + j)] > 0;
              std::vector<float> row = output_row(shape, got.output, 0, i, h);
              const std::vector<float> before = output_row(shape, clean.output, 0, i, h);
              if (std::isnan(row[3]) != sees)
                FAIL_CHECK("masks " << kind << " Tq " << Tq << ": query " << i << (sees ? " sees " : " does not see ")
                                    << j);
              row[3] = before[3];
              if (!same_bits(row, before))
                FAIL_CHECK("masks " << kind << ": query " << i << " other columns, key " << j);
            }
          }
        }
      });
    }
  }
}

TEST_CASE("masks: factors of heads give the bits of a mask that was multiplied before", "[masks][bits]") {
  constexpr int64_t Tk = 600, H = 4;
  const std::vector<float> factors = {1, 0.25f, 3.1f, 0x1p-60f};
  for (const int64_t Tq : {1, 40}) {  // in place, and packed
    const AttentionProblem problem({2, H, 2, Tq, Tk, 16, 16}, MaskKind::kCausal, 30);
    for (const mha_dtype dtype : {MHA_F32, MHA_F16, MHA_BF16}) {
      Random random(31);
      std::vector<float> given(static_cast<size_t>(Tq * Tk)), other(static_cast<size_t>(Tk));
      for (float& add : given) add = one_in(random, 4) ? -kInf : 4 * random.uniform() - 2;
      for (float& add : other) add = random.uniform();
      given[7] = -FLT_MAX;  // times 3.1 it hides its key
      const Elements stored(dtype, given);
      const std::vector<float> widened = stored.widened();
      std::vector<float> multiplied;
      for (const float factor : factors)
        for (const float add : widened) multiplied.push_back(add * factor);
      std::vector<float> value = problem.value;
      value[(7 * 2 + 1) * 16 + 3] = kNan;  // of the key that the third head's factor hides
      AttentionCall args = problem.args(), before;
      args.value = view(value.data());
      before = args;
      args.masks.add_mask = {stored.data(), dtype, 0, 0, 0, Tk, 1};
      args.masks.add_mask2.data = before.masks.add_mask2.data = other.data();
      args.masks.add_mask_factors = factors.data();
      before.masks.add_mask = {multiplied.data(), MHA_F32, 0, 0, Tq * Tk, Tk, 1};
      for (const mha_weights_mode mode : {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD}) {
        args.results.weights_mode = before.results.weights_mode = mode;
        for_each_target([&](const std::string& target, const mha_context* context) {
          INFO(target << " Tq " << Tq << " dtype " << dtype);
          const AttentionResult got = run_attention(context, args), want = run_attention(context, before);
          CHECK(same_bits(got.output, want.output));
          CHECK(same_bits(got.weights, want.weights));
        });
      }
    }
  }
}

TEST_CASE("masks: NaN and Inf in hidden keys and values never reach a result, skipped or not", "[masks][edges]") {
  // Query 600 of 700 sees keys [500, 600], 0 and 1 of the window; everything else is spoilt.
  for (int64_t Tq : {int64_t{1}, int64_t{40}}) {
    for (int64_t threads : {1, 3}) {
      for_each_target(
          [Tq](const std::string&, const mha_context* context) {
            for (int kind = 0; kind < 5; ++kind) {
              INFO("Tq " << Tq << " kind " << kind);
              const AttentionShape shape = {1, 4, 2, Tq, 1500, 32, 32};
              AttentionProblem clean(shape, MaskKind::kNone, 10), spoilt(shape, MaskKind::kNone, 10);
              std::vector<int32_t> queries(static_cast<size_t>(Tq), 4), keys(1500, 1);
              std::vector<uint8_t> bits(188, 0);
              std::vector<int64_t> pairs = {0, 6}, all = {1500};
              Masks masks;
              const auto seen = [kind](int64_t j) { return (j >= 600 && j < 700) || (kind == 0 && j < 2); };
              for (int64_t j = 0; j < 1500; ++j) {
                if (seen(j)) keys[static_cast<size_t>(j)] = 4, bits[static_cast<size_t>(j / 8)] |= 1 << j % 8;
                for (int64_t d = 0; !seen(j) && d < 64; ++d) {
                  spoilt.key[static_cast<size_t>(j * 64 + d)] = kNan;
                  spoilt.value[static_cast<size_t>(j * 64 + d)] = d % 2 ? kInf : kNan;
                }
              }
              std::vector<uint8_t> bools(1500);
              for (int64_t j = 0; j < 1500; ++j) bools[static_cast<size_t>(j)] = seen(j);
              if (kind == 0) {  // a window that every query shares
                masks.causal = 1, masks.set_offset(700 - Tq);
                masks.window_left = 101 - Tq, masks.sink_tokens = 2;
              }
              if (kind == 1) masks.query_segments = queries.data(), masks.key_segments = keys.data();
              if (kind == 2) masks.bit_mask = {bits.data(), 0, 0, 0};
              if (kind == 3) masks.block_mask = {100, 100, pairs.data(), 1};
              if (kind == 4) masks.bool_mask = {bools.data(), 0, 0, 0};
              AttentionCall args = spoilt.args(), want = clean.args();
              masks.put_into(&args);
              want.masks = {};
              want.masks.bool_mask = {bools.data(), 0, 0, 0};
              std::vector<uint8_t> window(static_cast<size_t>(Tq * 1500));
              if (kind == 0) {  // the rows' own windows, all within what is not spoilt
                for (int64_t i = 0; i < Tq; ++i)
                  for (int64_t j = 0; j < 1500; ++j)
                    window[static_cast<size_t>(i * 1500 + j)] =
                        j < 2 || (j <= i + 700 - Tq && j > i + 700 - Tq - masks.window_left);
                want.masks.bool_mask = {window.data(), 0, 0, 1500};
              }
              args.results.weights_mode = want.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
              check_same_results("hidden", run_attention(context, args), run_attention(context, want));
              args.results.weights_mode = want.results.weights_mode = MHA_WEIGHTS_AVERAGED;
              check_same_results("hidden, averaged", run_attention(context, args), run_attention(context, want));
            }
          },
          threads);
    }
  }
}

TEST_CASE("masks: bad arguments name themselves", "[masks][status]") {
  const AttentionShape shape = {2, 1, 1, 3, 5, 4, 4};
  const AttentionProblem problem(shape, MaskKind::kNone, 12);
  const std::vector<int64_t> lengths = {3, -4}, unsorted = {0, 1, 0, 0}, twice = {1, 1, 1, 1}, negative = {0, -1};
  const std::vector<int32_t> segments(10);
  const std::vector<uint8_t> bits(2);
  std::vector<float> output = poisoned(24);
  struct Mistake {
    mha_status status;
    std::string text;
    std::function<void(mha_masks&)> make;
  };
  const Mistake mistakes[] = {
      {MHA_ERR_ARGUMENT, "masks.window_left is -1", [](mha_masks& m) { m.window_left = -1; }},
      {MHA_ERR_ARGUMENT, "masks.window_right is -2", [](mha_masks& m) { m.window_right = -2; }},
      {MHA_ERR_ARGUMENT, "masks.sink_tokens is -3", [](mha_masks& m) { m.sink_tokens = -3; }},
      {MHA_ERR_OVERFLOW, "masks.window_left is 9223372036854775807", [](mha_masks& m) { m.window_left = INT64_MAX; }},
      {MHA_ERR_ARGUMENT, "masks.prefix_lengths[1] is -4", [&](mha_masks& m) { m.prefix_lengths = lengths.data(); }},
      {MHA_ERR_SHAPE, "masks.key_segments is NULL", [&](mha_masks& m) { m.query_segments = segments.data(); }},
      {MHA_ERR_SHAPE, "masks.query_segments is NULL", [&](mha_masks& m) { m.key_segments = segments.data(); }},
      {MHA_ERR_ARGUMENT, "query_block is 0",
       [&](mha_masks& m) {
         m.block_mask = {0, 1, twice.data(), 1};
       }},
      {MHA_ERR_ARGUMENT, "key_block is -7",
       [&](mha_masks& m) {
         m.block_mask = {1, -7, twice.data(), 1};
       }},
      {MHA_ERR_ARGUMENT, "num_pairs is -1",
       [&](mha_masks& m) {
         m.block_mask = {1, 1, twice.data(), -1};
       }},
      {MHA_ERR_ARGUMENT, "pairs[1] is (0, 0) after (0, 1)",
       [&](mha_masks& m) {
         m.block_mask = {1, 1, unsorted.data(), 2};
       }},
      {MHA_ERR_ARGUMENT, "pairs[1] is (1, 1) after (1, 1)",
       [&](mha_masks& m) {
         m.block_mask = {1, 1, twice.data(), 2};
       }},
      {MHA_ERR_ARGUMENT, "pairs[0] is (0, -1)",
       [&](mha_masks& m) {
         m.block_mask = {1, 1, negative.data(), 1};
       }},
      {MHA_ERR_STRIDE, "masks.bit_mask.stride_q is -2",
       [&](mha_masks& m) {
         m.bit_mask = {bits.data(), 0, 0, -2};
       }},
  };
  for (const Mistake& mistake : mistakes) {
    INFO(mistake.text);
    AttentionCall args = problem.args();
    args.output = mut_view(output.data());
    mistake.make(args.masks);
    mha_error error = {};
    CHECK(attention(shared_context(supported_targets()[0], 1), args, &error) == mistake.status);
    INFO(error.message);
    CHECK(mentions(error, mistake.text));
    CHECK(std::all_of(output.begin(), output.end(), is_poison));
  }
}

TEST_CASE("masks: extreme sizes do not overflow", "[masks][edges]") {
  constexpr int64_t kMost = int64_t{1} << 62;
  const AttentionShape shape = {1, 1, 1, 3, 5, 4, 4};
  const AttentionProblem problem(shape, MaskKind::kNone, 13);
  const std::vector<int64_t> prefix = {kMost}, pairs = {0, 0, 0, kMost};
  for_each_target([&](const std::string&, const mha_context* context) {
    for (int64_t offset : {-kMost, int64_t{-1}, int64_t{2}, kMost}) {
      for (int64_t window : {int64_t{0}, int64_t{1}, kMost}) {
        for (bool others : {false, true}) {
          INFO("offset " << offset << " window " << window << " others " << others);
          AttentionCall args = problem.args();
          args.causal = 1, args.positions.align = MHA_ALIGN_OFFSET, args.positions.offset = offset;
          args.masks.window_left = args.masks.window_right = window;
          if (others) {
            args.masks.sink_tokens = kMost, args.masks.prefix_lengths = prefix.data();
            args.masks.block_mask = {kMost, kMost, pairs.data(), 2};
          }
          args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
          const AttentionReference want = reference_attention(args);
          check_close("extreme", run_attention(context, args).weights, want.weights, {1e-6, 1e-6});
        }
      }
    }
  });
}

TEST_CASE("masks: the layer hands masks and score modifications on", "[masks][mods][layer]") {
  for (uint64_t seed = 1000; seed < 1040; ++seed) {
    Random random(seed);
    mha_layer_config config = {};
    config.embed_dim = 12, config.num_heads = 4, config.num_kv_heads = 2, config.head_dim = 5;
    const int64_t Tq = random_length(random, 60), Tk = random_length(random, 300);
    const LayerProblem problem(config, 2, Tq, Tk, Biases::kAll, seed);
    const RandomMasks masks(random, 2, 4, Tq, Tk);
    LayerCall args = problem.args();
    masks.get().put_into(&args);
    args.score_mods = masks.mods();
    const RandomContext context = random_context(random);
    INFO("seed " << seed << ": " << context.describe() << " Tq " << Tq << " Tk " << Tk << ":" << masks.describe());
    const LayerPtr layer = problem.make(context.get());
    const LayerResult got = run_layer(context.get(), layer.get(), args);
    std::vector<double> want(got.output.size());
    mha::reference::forward<double>(problem.config, problem.separate_weights(), args.raw(), want.data(), nullptr);
    check_close("layer", got.output, want, {3e-6, 1e-6});
  }
}
