// SPDX-License-Identifier: Apache-2.0
// Partial results: a context split in parts of whole chunks, attended to apart and merged, gives the bits of one call.
#include "tests/support/cache_layouts.h"
#include "tests/support/partials.h"

using namespace mha::test;

TEST_CASE("partial results: parts of whole chunks merge to the bits of one call", "[partial]") {
  for_each_target([](const std::string& target, const mha_context* one) {
    const AttentionShape shapes[] = {
        {2, 4, 2, 1, 1300, 32, 40}, {1, 4, 4, 70, 1024, 64, 64}, {2, 6, 3, 5, 769, 24, 24}, {1, 2, 1, 40, 200, 16, 16}};
    for (const AttentionShape& s : shapes) {
      for (int kind = 0; kind < kMaskKinds; ++kind) {
        if (static_cast<MaskKind>(kind) == MaskKind::kLengths || static_cast<MaskKind>(kind) == MaskKind::kAll)
          continue;
        const AttentionProblem p(s, static_cast<MaskKind>(kind), 50);
        const std::vector<float> sinks = random_floats(s.H, 51);
        for (const bool sink : {false, true}) {
          AttentionCall args = p.args();
          args.score_mods.sink_logits = sink ? sinks.data() : nullptr;
          const AttentionResult want = run_attention(one, args);
          for (const int64_t threads : {1, 3}) {
            const mha_context* context = shared_context(target, threads);
            std::vector<float> partials;
            for (int64_t begin = 0; begin < s.Tk; begin += 512) {
              const std::vector<float> part =
                  partial(context, part_of(p, args, begin, std::min<int64_t>(512, s.Tk - begin)));
              partials.insert(partials.end(), part.begin(), part.end());
            }
            const AttentionResult got = merged(context, s, partials, sink ? sinks.data() : nullptr);
            check_same_bits(describe(s, static_cast<MaskKind>(kind)) + " output", got.output, want.output);
            check_same_bits(describe(s, static_cast<MaskKind>(kind)) + " log-sum-exp", got.log_sum_exp,
                            want.log_sum_exp);
          }
        }
      }
    }
  });
}

TEST_CASE("partial results: rows merge apart to the bits of all together", "[partial]") {
  for_each_target([](const std::string&, const mha_context* context) {
    const AttentionShape s = {2, 4, 2, 3, 700, 16, 24};
    const AttentionProblem p(s, MaskKind::kCausal, 55);
    const std::vector<float> partials = partial(context, p.args());
    const AttentionResult want = merged(context, s, partials, nullptr);
    const int64_t rows = s.B * s.H * s.Tq, width = s.Dv + 2, chunks = 3;
    REQUIRE(static_cast<int64_t>(partials.size()) == chunks * rows * width);
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 5}, {5, 6}, {6, rows}}) {
      std::vector<float> some;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const float *sums = partials.data() + chunk * rows * width, *states = sums + rows * s.Dv;
        some.insert(some.end(), sums + begin * s.Dv, sums + end * s.Dv);
        some.insert(some.end(), states + begin * 2, states + end * 2);
      }
      const AttentionResult got = merged(context, {1, 1, 1, end - begin, s.Tk, s.D, s.Dv}, some, nullptr);
      for (int64_t row = begin; row < end; ++row) {
        const int64_t b = row / (s.H * s.Tq), h = row / s.Tq % s.H, i = row % s.Tq;
        const float* of_row = want.output.data() + ((b * s.Tq + i) * s.H + h) * s.Dv;
        check_same_bits("row",
                        std::vector<float>(got.output.begin() + (row - begin) * s.Dv,
                                           got.output.begin() + (row - begin + 1) * s.Dv),
                        std::vector<float>(of_row, of_row + s.Dv));
      }
    }
  });
}

TEST_CASE("partial results: of a sequence in a cache; of nothing", "[partial][cache]") {
  for_each_target([](const std::string& target, const mha_context* one) {
    const AttentionShape s = {1, 4, 2, 3, 600, 16, 16};
    const AttentionProblem p(s, MaskKind::kCausal, 60);
    const AttentionResult want = run_attention(one, p.args());
    for (const CacheLayout& layout : kCacheLayouts) {
      CachePtr cache = make_cache(one, cache_config(layout, s, 2, s.Tk));
      append(one, cache.get(), 1, s.Tk, p.key.data(), p.value.data());
      AttentionCall args = p.args();
      const int64_t sequence = 1;
      args.key = {}, args.value = {}, args.key_len = 0;
      args.cache = cache.get(), args.items.sequences = &sequence;
      const std::vector<float> partials = partial(shared_context(target, 2), args);
      check_same_bits(layout.name(), merged(one, s, partials, nullptr).output, want.output);
    }
    const AttentionResult none = merged(one, s, {}, nullptr);
    for (const float value : none.output) CHECK(bits_of(value) == 0);
    for (const float value : none.log_sum_exp) CHECK(value == -kInf);
  });
}

TEST_CASE("partial results: of a padded item, as many chunks as its own length has", "[partial]") {
  for_each_target([](const std::string& target, const mha_context* one) {
    const AttentionShape s = {1, 4, 2, 3, 1300, 16, 16};
    const AttentionProblem p(s, MaskKind::kNone, 62);
    for (const int64_t length : {0, 1, 256, 257, 700, 1300}) {
      INFO(target << " length " << length);
      AttentionCall args = p.args();
      args.items.key_lengths = &length, args.causal = 1, args.positions.align = MHA_ALIGN_END;
      const AttentionResult want = run_attention(one, args);
      const std::vector<float> partials = partial(shared_context(target, 2), args);
      const int64_t chunks = std::max<int64_t>(1, (length + 255) / 256);
      CHECK(static_cast<int64_t>(partials.size()) == chunks * 4 * 3 * 18);
      const AttentionResult got = merged(one, s, partials, nullptr);
      check_same_bits("output", got.output, want.output);
      check_same_bits("log-sum-exp", got.log_sum_exp, want.log_sum_exp);
    }
  });
}

TEST_CASE("partial results: bad arguments are refused by name", "[partial][status]") {
  const AttentionShape s = {1, 2, 2, 3, 300, 8, 8};
  const AttentionProblem p(s, MaskKind::kNone, 61);
  const mha_context* context = shared_context(supported_targets()[0], 1);
  AttentionCall args = p.args();
  mha_error error = {};
  size_t count = 0;
  require_ok(attention_partial_bytes(context, args, &count, &error), error);
  CHECK(count == 2 * 6 * 10 * sizeof(float));
  std::vector<float> partials = poisoned(120);
  CHECK(attention_partial(context, args, partials.data(), count - 1, &error) == MHA_ERR_BUFFER);
  CHECK(mentions(error, "bytes is 479"));
  CHECK(mentions(error, "480"));
  CHECK(attention_partial(context, args, nullptr, count, &error) == MHA_ERR_NULL);
  CHECK(mentions(error, "partials is NULL"));
  CHECK(attention_partial(nullptr, args, partials.data(), count, &error) == MHA_ERR_NULL);
  CHECK(mha_attention_partial(context, nullptr, partials.data(), count, &error) == MHA_ERR_NULL);
  CHECK(mha_attention_partial_bytes(context, nullptr, &count, &error) == MHA_ERR_NULL);
  CHECK(attention_partial_bytes(nullptr, args, &count, &error) == MHA_ERR_NULL);
  CHECK(attention_partial_bytes(context, args, nullptr, &error) == MHA_ERR_NULL);
  // Floats: not at any address.
  CHECK(attention_partial(context, args, reinterpret_cast<char*>(partials.data()) + 1, count, &error) ==
        MHA_ERR_ARGUMENT);
  CHECK(mentions(error, "partials"));
  // Over what the call reads.
  std::vector<float> keys(1000, 0.5f);
  AttentionCall over = p.args();
  over.key = view(keys.data());
  CHECK(attention_partial(context, over, keys.data(), count, &error) == MHA_ERR_STRIDE);
  CHECK(mentions(error, "partials"));
  CHECK(std::all_of(keys.begin(), keys.end(), [](float value) { return value == 0.5f; }));
  // What comes of the whole only.
  const auto refused = [&](const std::string& text, auto change) {
    AttentionCall call = p.args();
    change(call);
    CHECK(attention_partial(context, call, partials.data(), count, &error) == MHA_ERR_ARGUMENT);
    INFO(error.message);
    CHECK(mentions(error, text));
  };
  const float sinks[2] = {};
  float unwanted[48] = {};
  refused("score_mods.sink_logits", [&](AttentionCall& a) { a.score_mods.sink_logits = sinks; });
  refused("output", [&](AttentionCall& a) { a.output = mut_view(unwanted); });
  refused("results.log_sum_exp", [&](AttentionCall& a) { a.results.log_sum_exp = unwanted; });
  refused("results.weights", [](AttentionCall& a) { a.results.weights_mode = MHA_WEIGHTS_PER_HEAD; });
  for (const float value : partials) CHECK(is_poison(value));
  const RaggedProblem ragged({{1, 5}, {1, 9}}, 2, 2, 8, 8, 1);
  args = ragged.args();
  CHECK(attention_partial_bytes(context, args, &count, &error) == MHA_ERR_UNSUPPORTED);

  std::vector<float> output = poisoned(s.output().count());
  mha_merge_partials_args merge = {};
  merge.batch = 1, merge.num_heads = 2, merge.query_len = 3, merge.value_head_dim = 8, merge.num_chunks = 2;
  merge.output = mut_view(output.data());
  CHECK(mha_attention_merge_partials(context, &merge, &error) == MHA_ERR_NULL);
  CHECK(mentions(error, "partials is NULL"));
  merge.partials = partials.data(), merge.num_chunks = -1;
  CHECK(mha_attention_merge_partials(context, &merge, &error) == MHA_ERR_ARGUMENT);
  CHECK(mentions(error, "num_chunks is -1"));
  CHECK(mha_attention_merge_partials(context, nullptr, &error) == MHA_ERR_NULL);
  CHECK(mha_attention_merge_partials(nullptr, &merge, &error) == MHA_ERR_NULL);
  for (const float value : output) CHECK(is_poison(value));
}
