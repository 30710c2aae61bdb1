// SPDX-License-Identifier: Apache-2.0
// Attention over a cache: every kind and page size gives the bits of plain tensors, under masks and score modifications
// too; sequences that share a prefix give those of sequences that do not; a ring those of a cache that keeps
// everything.
#include <algorithm>
#include <functional>

#include "tests/support/cache_layouts.h"

using namespace mha::test;

namespace {

const std::vector<Lengths>& batches() {
  static const std::vector<Lengths> kBatches = {
      {{1, 300}, {1, 1}, {1, 1000}, {1, 257}},
      {{64, 64}, {200, 512}, {1, 700}, {17, 300}, {0, 50}, {3, 0}},
      {{1, 530}},
      {{70, 600}},
  };
  return kBatches;
}

/// A cache that holds the keys and values of the problem's items, appended at once.
CachePtr filled(const RaggedProblem& p, const CacheLayout& layout) {
  const mha_context* context = shared_context(supported_targets()[0], 1);
  CachePtr cache = make_cache(context, cache_config(layout, p.shape, p.shape.B, p.longest_key_len));
  mha_append_args args = {};
  args.batch = p.shape.B, args.length = p.shape.Tk, args.offsets = p.key_offsets.data();
  args.key = view(p.key.data()), args.value = view(p.value.data());
  mha_error error = {};
  require_ok(mha_cache_append(context, cache.get(), &args, &error), error);
  return cache;
}

}  // namespace

TEST_CASE("cached attention: every kind and page size gives the bits of plain tensors", "[cache]") {
  for_each_target([](const std::string& target, const mha_context*) {
    for (size_t n = 0; n < batches().size(); ++n) {
      const bool grouped = n % 2 == 1;
      RaggedProblem p(batches()[n], 4, grouped ? 2 : 4, grouped ? 24 : 64, grouped ? 40 : 64, n + 1);
      if (n == 2) p.value[5] = kNan, p.value[77] = kInf;
      for (const mha_weights_mode mode : {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_KEY_SUMS}) {
        AttentionCall args = p.args();
        args.causal = 1;
        args.results.weights_mode = mode;
        const AttentionResult want = run_ragged(shared_context(target, 1), args, p.longest_key_len);
        for (const CacheLayout& layout : kCacheLayouts) {
          CachePtr cache = filled(p, layout);
          AttentionCall cached = args;
          cached.cache = cache.get();
          cached.key = {}, cached.value = {}, cached.items.key_offsets = nullptr, cached.key_len = 0;
          for (const int64_t threads : {1, 3}) {
            check_same_results(layout.name() + " batch " + std::to_string(n) + " threads " + std::to_string(threads),
                               run_ragged(shared_context(target, threads), cached, p.longest_key_len), want);
          }
        }
      }
    }
  });
}

TEST_CASE("cached attention: masks and score modifications count within the sequence", "[cache][masks]") {
  RaggedProblem p({{3, 300}, {1, 700}, {40, 520}}, 4, 2, 24, 16, 90);
  const int64_t prefixes[] = {100, 0, 300}, pairs[] = {0, 0, 0, 2, 1, 1, 4, 3};
  std::vector<int32_t> query_segments(44), key_segments(1520);
  for (size_t i = 0; i < query_segments.size(); ++i) query_segments[i] = static_cast<int32_t>(i % 2);
  for (size_t j = 0; j < key_segments.size(); ++j) key_segments[j] = static_cast<int32_t>(j / 90 % 2);
  std::vector<uint8_t> open(3 * 700, 1);  // the last keys of two items are hidden
  std::fill_n(open.begin() + 290, 10, 0), std::fill_n(open.begin() + 2 * 700 + 500, 20, 0);
  const std::vector<float> slopes = random_floats(4, 91), biases = random_floats(4 * 61, 92),
                           sinks = random_floats(4, 93);
  const std::vector<std::function<void(AttentionCall&)>> options = {
      [&](auto& a) { a.masks.window_left = 120, a.masks.sink_tokens = 5; },
      [&](auto& a) {
        a.masks.bool_mask.data = open.data(), a.masks.bool_mask.stride_b = 700, a.masks.prefix_lengths = prefixes;
      },
      [&](auto& a) { a.masks.query_segments = query_segments.data(), a.masks.key_segments = key_segments.data(); },
      [&](auto& a) {
        a.masks.block_mask = {8, 200, pairs, 4};
      },
      [&](auto& a) { a.score_mods.softcap = 3, a.score_mods.alibi_slopes = slopes.data(); },
      [&](auto& a) {
        a.score_mods.relative_bias = biases.data(), a.score_mods.relative_left = 40, a.score_mods.relative_right = 20;
        a.score_mods.sink_logits = sinks.data();
      },
  };
  for_each_target([&](const std::string& target, const mha_context*) {
    for (uint32_t set : {1u, 2u, 4u, 8u, 16u, 32u, 5u, 50u, 63u}) {
      AttentionCall args = p.args();
      args.causal = 1;
      for (size_t n = 0; n < options.size(); ++n)
        if (set >> n & 1) options[n](args);
      const AttentionResult want = run_ragged(shared_context(target, 1), args, p.longest_key_len);
      for (const CacheLayout& layout : {kCacheLayouts[0], kCacheLayouts[1], kCacheLayouts[4]}) {
        CachePtr cache = filled(p, layout);
        AttentionCall cached = args;
        cached.cache = cache.get();
        cached.key = {}, cached.value = {}, cached.items.key_offsets = nullptr, cached.key_len = 0;
        for (const int64_t threads : {1, 3}) {
          check_same_results(layout.name() + " options " + std::to_string(set),
                             run_ragged(shared_context(target, threads), cached, p.longest_key_len), want);
        }
      }
    }
  });
}

TEST_CASE("cached attention: a ring that has dropped tokens, under a window with first tokens kept", "[cache]") {
  constexpr int64_t kWindow = 100, kLength = 900, kMost = 30;
  const RaggedProblem p({{kMost, kLength}}, 4, 2, 32, 32, 95);
  for_each_target([&](const std::string&, const mha_context* context) {
    for (const int64_t first_tokens : {0, 5, 70}) {
      mha_cache_config config = cache_config({MHA_CACHE_RING, 0}, p.shape, 1, kWindow - 1 + kMost);
      config.sink_tokens = first_tokens;
      CachePtr ring = make_cache(context, config);
      CachePtr all = make_cache(context, cache_config({MHA_CACHE_CONTIGUOUS, 0}, p.shape, 1, kLength));
      int64_t dropped = 0;
      for (int64_t begin = 0, n = 0; begin < kLength; ++n) {
        const int64_t count = std::min<int64_t>(n % 3 == 0 ? 1 : n % 3 == 1 ? kMost : 17, kLength - begin);
        for (mha_cache* cache : {ring.get(), all.get()}) {
          append(context, cache, 0, count, p.key.data() + begin * 64, p.value.data() + begin * 64);
        }
        begin += count;
        AttentionCall args = p.args();
        args.items.query_offsets = args.items.key_offsets = nullptr, args.query_len = count;
        args.key = args.value = {}, args.key_len = 0;
        args.causal = 1;
        args.masks.window_left = kWindow, args.masks.sink_tokens = first_tokens;
        args.cache = all.get();
        const AttentionResult want = run_ragged(context, args, kLength);
        args.cache = ring.get();
        INFO("length " << begin << " of which first " << first_tokens);
        check_same_results("ring", run_ragged(context, args, kLength), want);
        dropped = mha_cache_first_kept(ring.get(), 0);
      }
      CHECK(dropped > kLength - 2 * (kWindow + kMost));

      // What the ring no longer has cannot be seen.
      std::vector<float> output = poisoned(4 * 32);
      AttentionCall args = p.args();
      args.items.query_offsets = args.items.key_offsets = nullptr, args.query_len = 1;
      args.key = args.value = {}, args.key_len = 0;
      args.cache = ring.get();
      args.output = mut_view(output.data());
      mha_error error = {};
      const auto refused = [&](int64_t window, int64_t first, const std::string& text) {
        args.masks.window_left = window, args.masks.sink_tokens = first;
        CHECK(attention(context, args, &error) == MHA_ERR_ARGUMENT);
        INFO(error.message);
        CHECK(mentions(error, text));
        for (const float value : output) CHECK(is_poison(value));
      };
      refused(0, first_tokens, "masks.window_left is 0: query 0 of item 0 sees keys from 0 on");
      refused(kLength - dropped + 1, first_tokens, "but the ring keeps them from " + std::to_string(dropped) + " on");
      refused(10, first_tokens + 1,
              "masks.sink_tokens is " + std::to_string(first_tokens + 1) + ", but the ring keeps");
      args.masks.window_left = kLength - dropped, args.masks.sink_tokens = first_tokens;
      require_ok(attention(context, args, &error), error);
    }
  });
}

TEST_CASE("cached attention: a ring truncated to the first token that it keeps", "[cache]") {
  const RaggedProblem p({{1, 300}}, 4, 2, 32, 32, 97);
  for_each_target([&](const std::string&, const mha_context* context) {
    for (const int64_t first_tokens : {0, 4}) {
      mha_cache_config config = cache_config({MHA_CACHE_RING, 0}, p.shape, 1, 64);
      config.sink_tokens = first_tokens;
      CachePtr ring = make_cache(context, config);
      append(context, ring.get(), 0, 300, p.key.data(), p.value.data());
      const int64_t kept = mha_cache_first_kept(ring.get(), 0);
      REQUIRE(kept > 100);
      REQUIRE(mha_cache_truncate(ring.get(), 0, kept, nullptr) == MHA_OK);
      CachePtr all = make_cache(context, cache_config({MHA_CACHE_CONTIGUOUS, 0}, p.shape, 1, 300));
      append(context, all.get(), 0, kept, p.key.data(), p.value.data());
      for (const mha_weights_mode mode :
           {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED, MHA_WEIGHTS_KEY_SUMS}) {
        INFO("first " << first_tokens << " weights " << mode);
        AttentionCall args = p.args();
        args.items.query_offsets = args.items.key_offsets = nullptr, args.query_len = 1;
        args.key = args.value = {}, args.key_len = 0;
        args.masks.window_left = 1, args.masks.sink_tokens = first_tokens;
        args.positions.align = MHA_ALIGN_OFFSET, args.positions.offset = kept;
        args.results.weights_mode = mode;
        args.cache = all.get();
        const AttentionResult want = run_ragged(context, args, kept);
        args.cache = ring.get();
        check_same_results("ring", run_ragged(context, args, kept), want);
      }
    }
  });
}

TEST_CASE("cached attention: sequences that share a prefix", "[cache]") {
  for_each_target([](const std::string& target, const mha_context*) {
    for (const int64_t page_size : {16, 48, 256}) {
      for (const int64_t prefix : {100, 256, 700}) {
        // Five sequences: one and two are forks of 0, three is on its own, four is a fork of 3.
        const mha_context* context = shared_context(target, 1);
        const int64_t lengths[] = {prefix + 40, prefix + 1, prefix + 300, 270, 290};
        Lengths sizes;
        for (int64_t b = 0; b < 5; ++b) sizes.push_back({b == 1 ? 7 : 1, lengths[b]});
        RaggedProblem p(sizes, 4, 2, 32, 32, 40 + static_cast<uint64_t>(prefix));
        const auto share = [&](int64_t from, int64_t to, int64_t count) {
          const auto copy = [&](std::vector<float>& t, int64_t width) {
            std::copy_n(t.begin() + p.key_offsets[from] * width, count * width, t.begin() + p.key_offsets[to] * width);
          };
          copy(p.key, 2 * 32), copy(p.value, 2 * 32);
        };
        share(0, 1, prefix), share(0, 2, prefix), share(3, 4, 260);
        auto cache = make_cache(context, cache_config({MHA_CACHE_PAGED, page_size}, p.shape, 5, p.longest_key_len));
        const auto grow = [&](int64_t b, int64_t from) {
          const int64_t first = (p.key_offsets[b] + from) * 64;
          append(context, cache.get(), b, p.key_len(b) - from, p.key.data() + first, p.value.data() + first);
        };
        mha_error error = {};
        grow(0, 0), grow(3, 0);
        require_ok(mha_cache_fork(cache.get(), 0, 1, prefix, &error), error);
        require_ok(mha_cache_fork(cache.get(), 0, 2, prefix, &error), error);
        require_ok(mha_cache_fork(cache.get(), 3, 4, 260, &error), error);
        grow(1, prefix), grow(2, prefix), grow(4, 260);

        AttentionCall args = p.args();
        args.causal = 1;
        for (const mha_weights_mode mode : {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD}) {
          args.results.weights_mode = mode;
          const AttentionResult want = run_ragged(context, args, p.longest_key_len);
          AttentionCall cached = args;
          cached.cache = cache.get();
          cached.key = {}, cached.value = {}, cached.items.key_offsets = nullptr, cached.key_len = 0;
          for (const int64_t threads : {1, 4}) {
            INFO("page size " << page_size << " prefix " << prefix << " threads " << threads);
            check_same_results("shared", run_ragged(shared_context(target, threads), cached, p.longest_key_len), want);
          }
        }
      }
    }
  });
}

TEST_CASE("cached attention: what does not fit the cache is refused", "[cache][status]") {
  const RaggedProblem p({{1, 5}, {1, 9}}, 4, 2, 8, 8, 3);
  CachePtr cache = filled(p, {MHA_CACHE_PAGED, 16});
  std::vector<float> output = poisoned(2 * 4 * 8);
  const auto refused = [&](mha_status status, const std::string& text, auto change) {
    AttentionCall args = p.args();
    args.items.key_offsets = nullptr, args.items.query_offsets = nullptr, args.query_len = 1;
    args.key = args.value = {}, args.key_len = 0;
    args.cache = cache.get();
    args.output = mut_view(output.data());
    change(args);
    mha_error error = {};
    CHECK(attention(shared_context(supported_targets()[0], 1), args, &error) == status);
    INFO(error.message);
    CHECK(mentions(error, text));
    for (const float value : output) CHECK(is_poison(value));
  };
  refused(MHA_ERR_SHAPE, "num_kv_heads is 4, but the cache's is 2", [](AttentionCall& a) { a.num_kv_heads = 4; });
  refused(MHA_ERR_SHAPE, "head_dim is 9, but the cache's is 8", [](AttentionCall& a) { a.head_dim = 9; });
  refused(MHA_ERR_SHAPE, "value_head_dim is 7, but", [](AttentionCall& a) { a.value_head_dim = 7; });
  refused(MHA_ERR_ARGUMENT, "batch is 3, but the cache has 2", [](AttentionCall& a) { a.batch = 3; });
  // What a cache stands for is not given beside it; sequences are those of a cache.
  refused(MHA_ERR_ARGUMENT, "key.data is given", [&](AttentionCall& a) { a.key = view(p.key.data()); });
  refused(MHA_ERR_ARGUMENT, "value.data is given", [&](AttentionCall& a) { a.value = view(p.value.data()); });
  refused(MHA_ERR_ARGUMENT, "key_len is 5", [](AttentionCall& a) { a.key_len = 5; });
  refused(MHA_ERR_ARGUMENT, "items.key_offsets is given",
          [&](AttentionCall& a) { a.items.key_offsets = p.key_offsets.data(); });
  static const int64_t kLengths[] = {5, 9};
  refused(MHA_ERR_ARGUMENT, "items.key_lengths is given", [](AttentionCall& a) { a.items.key_lengths = kLengths; });
  refused(MHA_ERR_ARGUMENT, "items.sequences is given", [&](AttentionCall& a) {
    a.cache = nullptr, a.key = view(p.key.data()), a.value = view(p.value.data()), a.key_len = 5;
    a.items.sequences = kLengths;
  });
  static const int64_t kBeyond[] = {0, 2}, kNegative[] = {-1, 0};
  refused(MHA_ERR_ARGUMENT, "sequences[1] is 2: must be 0 to 1", [](AttentionCall& a) { a.items.sequences = kBeyond; });
  refused(MHA_ERR_ARGUMENT, "sequences[0] is -1", [](AttentionCall& a) { a.items.sequences = kNegative; });
}
