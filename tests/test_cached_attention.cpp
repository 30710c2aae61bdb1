// SPDX-License-Identifier: Apache-2.0
// Attention over a cache: every kind and page size gives the bits of plain tensors; sequences that share a prefix give
// those of sequences that do not.
#include "support/cache_layouts.h"

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
  args.key.data = p.key.data(), args.value.data = p.value.data();
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
        mha_attention_args args = p.args();
        args.masks.causal = MHA_CAUSAL_BOTTOM_RIGHT;
        args.weights_mode = mode;
        const AttentionResult want = run_ragged(shared_context(target, 1), args, p.longest_key_len);
        for (const CacheLayout& layout : kCacheLayouts) {
          const CachePtr cache = filled(p, layout);
          mha_attention_args cached = args;
          cached.cache = cache.get();
          cached.key = {}, cached.value = {}, cached.key_offsets = nullptr, cached.key_len = 0;
          for (const int64_t threads : {1, 3}) {
            check_same_results(layout.name() + " batch " + std::to_string(n) + " threads " + std::to_string(threads),
                               run_ragged(shared_context(target, threads), cached, p.longest_key_len), want);
          }
        }
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
        const auto cache =
            make_cache(context, cache_config({MHA_CACHE_PAGED, page_size}, p.shape, 5, p.longest_key_len));
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

        mha_attention_args args = p.args();
        args.masks.causal = MHA_CAUSAL_BOTTOM_RIGHT;
        for (const mha_weights_mode mode : {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD}) {
          args.weights_mode = mode;
          const AttentionResult want = run_ragged(context, args, p.longest_key_len);
          mha_attention_args cached = args;
          cached.cache = cache.get();
          cached.key = {}, cached.value = {}, cached.key_offsets = nullptr, cached.key_len = 0;
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
  const CachePtr cache = filled(p, {MHA_CACHE_PAGED, 16});
  std::vector<float> output = poisoned(2 * 4 * 8);
  const auto refused = [&](mha_status status, const std::string& text, auto change) {
    mha_attention_args args = p.args();
    args.key_offsets = nullptr, args.query_offsets = nullptr, args.query_len = 1;
    args.cache = cache.get();
    args.output = {output.data(), 0, 0, 0, 0};
    change(args);
    mha_error error = {};
    CHECK(mha_attention(shared_context(supported_targets()[0], 1), &args, &error) == status);
    INFO(error.message);
    CHECK(mentions(error, text));
    for (const float value : output) CHECK(is_poison(value));
  };
  refused(MHA_ERR_SHAPE, "num_kv_heads is 4, but the cache's is 2", [](mha_attention_args& a) { a.num_kv_heads = 4; });
  refused(MHA_ERR_SHAPE, "head_dim is 9, but the cache's is 8", [](mha_attention_args& a) { a.head_dim = 9; });
  refused(MHA_ERR_SHAPE, "value_head_dim is 7, but", [](mha_attention_args& a) { a.value_head_dim = 7; });
  refused(MHA_ERR_ARGUMENT, "batch is 3, but the cache has 2", [](mha_attention_args& a) { a.batch = 3; });
  static const int64_t kBeyond[] = {0, 2}, kNegative[] = {-1, 0};
  refused(MHA_ERR_ARGUMENT, "sequences[1] is 2: must be 0 to 1", [](mha_attention_args& a) { a.sequences = kBeyond; });
  refused(MHA_ERR_ARGUMENT, "sequences[0] is -1", [](mha_attention_args& a) { a.sequences = kNegative; });
}
