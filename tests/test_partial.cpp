// SPDX-License-Identifier: Apache-2.0
// Partial results: a context split in parts of whole chunks, attended to apart and merged, gives the bits of one call.
#include "support/cache_layouts.h"
#include "support/partials.h"

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
          mha_attention_args args = p.args();
          args.mods.sink_logits = sink ? sinks.data() : nullptr;
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

TEST_CASE("partial results: of a sequence in a cache; of nothing", "[partial][cache]") {
  for_each_target([](const std::string& target, const mha_context* one) {
    const AttentionShape s = {1, 4, 2, 3, 600, 16, 16};
    const AttentionProblem p(s, MaskKind::kCausal, 60);
    const AttentionResult want = run_attention(one, p.args());
    for (const CacheLayout& layout : kCacheLayouts) {
      const CachePtr cache = make_cache(one, cache_config(layout, s, 2, s.Tk));
      append(one, cache.get(), 1, s.Tk, p.key.data(), p.value.data());
      mha_attention_args args = p.args();
      const int64_t sequence = 1;
      args.key = {}, args.value = {}, args.key_len = 0;
      args.cache = cache.get(), args.sequences = &sequence;
      const std::vector<float> partials = partial(shared_context(target, 2), args);
      check_same_bits(layout.name(), merged(one, s, partials, nullptr).output, want.output);
    }
    const AttentionResult none = merged(one, s, {}, nullptr);
    for (const float value : none.output) CHECK(bits_of(value) == 0);
    for (const float value : none.log_sum_exp) CHECK(value == -kInf);
  });
}

TEST_CASE("partial results: bad arguments are refused by name", "[partial][status]") {
  const AttentionShape s = {1, 2, 2, 3, 300, 8, 8};
  const AttentionProblem p(s, MaskKind::kNone, 61);
  const mha_context* context = shared_context(supported_targets()[0], 1);
  mha_attention_args args = p.args();
  mha_error error = {};
  int64_t count = 0;
  require_ok(mha_attention_partial_floats(&args, &count, &error), error);
  CHECK(count == 2 * 6 * 10);
  std::vector<float> partials = poisoned(count);
  CHECK(mha_attention_partial(context, &args, partials.data(), count - 1, &error) == MHA_ERR_WORKSPACE);
  CHECK(mentions(error, "count is 119 floats: 120 are needed"));
  CHECK(mha_attention_partial(context, &args, nullptr, count, &error) == MHA_ERR_NULL);
  CHECK(mentions(error, "partials is NULL"));
  CHECK(mha_attention_partial(nullptr, &args, partials.data(), count, &error) == MHA_ERR_NULL);
  CHECK(mha_attention_partial(context, nullptr, partials.data(), count, &error) == MHA_ERR_NULL);
  CHECK(mha_attention_partial_floats(&args, nullptr, &error) == MHA_ERR_NULL);
  for (const float value : partials) CHECK(is_poison(value));
  const RaggedProblem ragged({{1, 5}, {1, 9}}, 2, 2, 8, 8, 1);
  args = ragged.args();
  CHECK(mha_attention_partial_floats(&args, &count, &error) == MHA_ERR_UNSUPPORTED);

  std::vector<float> output = poisoned(s.output().count());
  mha_merge_args merge = {};
  merge.batch = 1, merge.num_heads = 2, merge.query_len = 3, merge.value_head_dim = 8, merge.num_chunks = 2;
  merge.output = {output.data(), 0, 0, 0, 0};
  CHECK(mha_attention_merge_partials(context, &merge, &error) == MHA_ERR_NULL);
  CHECK(mentions(error, "partials is NULL"));
  merge.partials = partials.data(), merge.num_chunks = -1;
  CHECK(mha_attention_merge_partials(context, &merge, &error) == MHA_ERR_ARGUMENT);
  CHECK(mentions(error, "num_chunks is -1"));
  CHECK(mha_attention_merge_partials(context, nullptr, &error) == MHA_ERR_NULL);
  CHECK(mha_attention_merge_partials(nullptr, &merge, &error) == MHA_ERR_NULL);
  for (const float value : output) CHECK(is_poison(value));
}
