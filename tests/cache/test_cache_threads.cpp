// SPDX-License-Identifier: Apache-2.0
// One writer a sequence, readers of the others meanwhile: threads that append to, cut, fork and empty sequences of
// their own from one pool of pages, beside threads that read sequences sharing those pages. Made for the thread
// sanitizer.
#include <atomic>
#include <thread>

#include "tests/support/caches.h"
#include "tests/support/calls.h"

using namespace mha::test;

namespace {

constexpr int64_t kWriters = 3, kReaders = 2, kPrefix = 21;

/// A writer's life: sequence 2 + n forks the prefix, grows by its own tokens, is cut and emptied. Without assertions,
/// which Catch2 does not allow on other threads.
bool write_own_sequence(const mha_context* context, mha_cache* cache, int64_t sequence, const Tokens& prefix,
                        int rounds) {
  const mha_cache_config c = config_of(cache);
  Random random(240000 + static_cast<uint64_t>(sequence));
  bool good = true;
  for (int round = 0; round < rounds && good; ++round) {
    Tokens want = slice(c, prefix, 0, 0);
    if (random.below(3) != 0) {
      const int64_t length = random.below(kPrefix + 1);
      good = good && mha_cache_fork(cache, 0, sequence, length, nullptr) == MHA_OK;
      want = slice(c, prefix, 0, length);
    }
    for (int64_t n = random.below(6); n > 0; --n) {
      const Tokens more = random_tokens(c, random.below(9), random.bits());
      good = good && append(context, cache, sequence, more) == MHA_OK;
      want += more;
      const int64_t length = mha_cache_length(cache, sequence), kept = length - std::min(length, random.below(4));
      good = good && mha_cache_truncate(cache, sequence, kept, nullptr) == MHA_OK;
      want = slice(c, want, 0, kept);
    }
    const int64_t length = mha_cache_length(cache, sequence);
    good = good && same_tokens(exported(cache, sequence, 0, length), want);
    good = good && mha_cache_remove(cache, sequence, nullptr) == MHA_OK;
  }
  return good;
}

/// Meanwhile: sequences 0 and 1, which share pages with each other and with the writers', and which nobody changes.
bool read_the_prefix(const mha_cache* cache, const Tokens& prefix, int rounds) {
  bool good = true;
  for (int round = 0; round < rounds && good; ++round) {
    good = same_tokens(exported(cache, round % 2, 0, kPrefix), prefix);
    good = good && mha_cache_used_bytes(cache) > 0;
  }
  return good;
}

}  // namespace

TEST_CASE("cache threads: writers and readers of different sequences", "[cache][threads]") {
  const mha_context* context = cache_context();  // asserts, so not on other threads
  for (mha_cache_kind kind : kCacheKinds) {
    for (int64_t page_size : {1, 7, 16}) {
      INFO(kind_name(kind) << " page size " << page_size);
      const mha_cache_config config = cache_config(kind, kind == MHA_CACHE_PAGED ? 600 : 100, 2 + kWriters, page_size);
      CachePtr cache = make_cache(context, config);
      const Tokens prefix = random_tokens(config, kPrefix, 241000);
      require_append(cache.get(), 0, prefix);
      REQUIRE(mha_cache_fork(cache.get(), 0, 1, -1, nullptr) == MHA_OK);
      const size_t used = mha_cache_used_bytes(cache.get());
      std::atomic<int> failures{0};
      std::vector<std::thread> threads;
      for (int64_t n = 0; n < kWriters; ++n) {
        threads.emplace_back([&, n] {
          if (!write_own_sequence(context, cache.get(), 2 + n, prefix, 300)) ++failures;
        });
      }
      for (int64_t n = 0; n < kReaders; ++n) {
        threads.emplace_back([&] {
          if (!read_the_prefix(cache.get(), prefix, 600)) ++failures;
        });
      }
      for (std::thread& thread : threads) thread.join();
      CHECK(failures == 0);
      CHECK(mha_cache_used_bytes(cache.get()) == used);  // every page came back
      check_same_tokens("prefix", exported(cache.get(), 0, 0, kPrefix), prefix);
    }
  }
}

TEST_CASE("cache threads: two that hold the last page between them both grow", "[cache][threads]") {
  const mha_context* context = cache_context();  // asserts, so not on other threads
  // Two sequences share a page of which one copy more fits: whoever comes second must find itself alone with it.
  const mha_cache_config config = cache_config(MHA_CACHE_PAGED, 32, 2, 16);
  const Tokens tokens = random_tokens(config, 12, 242000);
  for (int round = 0; round < 500; ++round) {
    CachePtr cache = make_cache(context, config);
    require_append(cache.get(), 0, slice(config, tokens, 0, 5));
    REQUIRE(mha_cache_fork(cache.get(), 0, 1, round % 5, nullptr) == MHA_OK);
    std::atomic<int> failures{0}, ready{0};
    const auto grow = [&](int64_t sequence) {
      ++ready;
      while (ready < 2) std::this_thread::yield();
      if (append(context, cache.get(), sequence, slice(config, tokens, 5 + sequence, 4)) != MHA_OK) ++failures;
    };
    std::thread other(grow, 1);
    grow(0);
    other.join();
    REQUIRE(failures == 0);
    Tokens first = slice(config, tokens, 0, 5), second = slice(config, tokens, 0, round % 5);
    check_same_tokens("first", exported(cache.get(), 0, 0, 9), first += slice(config, tokens, 5, 4));
    check_same_tokens("second", exported(cache.get(), 1, 0, round % 5 + 4), second += slice(config, tokens, 6, 4));
  }
}

namespace {

/// One query of ones for each of `sequences`, over what they hold; empty where the call fails.
std::vector<float> attend(const mha_context* context, const mha_cache* cache, const std::vector<int64_t>& sequences) {
  const mha_cache_config c = config_of(cache);
  const int64_t B = static_cast<int64_t>(sequences.size());
  const std::vector<float> query(static_cast<size_t>(B * 2 * c.num_kv_heads * c.head_dim), 1.0f);
  std::vector<float> output = poisoned(B * 2 * c.num_kv_heads * c.value_head_dim);
  AttentionCall args;
  args.batch = B, args.num_heads = 2 * c.num_kv_heads, args.num_kv_heads = c.num_kv_heads, args.query_len = 1;
  args.head_dim = c.head_dim, args.value_head_dim = c.value_head_dim;
  args.query = view(query.data());
  args.output = mut_view(output.data());
  args.cache = cache, args.items.sequences = sequences.data();
  if (attention(context, args, nullptr) != MHA_OK) output.clear();
  return output;
}

}  // namespace

TEST_CASE("cache threads: attention over sequences whose pages others fork and copy", "[cache][threads]") {
  const mha_context* context = cache_context();  // asserts, so not on other threads
  for (mha_cache_kind kind : kCacheKinds) {
    const mha_cache_config config = cache_config(kind, kind == MHA_CACHE_PAGED ? 2400 : 400, 2 + kWriters, 16);
    CachePtr cache = make_cache(context, config);
    require_append(cache.get(), 0, random_tokens(config, 300, 243000));
    REQUIRE(mha_cache_fork(cache.get(), 0, 1, -1, nullptr) == MHA_OK);
    const std::vector<float> want = attend(context, cache.get(), {0, 1});
    REQUIRE(!want.empty());
    const Tokens more = random_tokens(config, 40, 244000);
    std::atomic<int> failures{0};
    std::vector<std::thread> threads;
    for (int64_t n = 0; n < kWriters; ++n) {
      threads.emplace_back([&, sequence = 2 + n] {
        std::vector<float> first;
        for (int round = 0; round < 40; ++round) {
          bool good = mha_cache_fork(cache.get(), 0, sequence, 290, nullptr) == MHA_OK;
          good = good && append(context, cache.get(), sequence, more) == MHA_OK;
          const std::vector<float> own = attend(context, cache.get(), {sequence, 0, sequence});
          if (round == 0) first = own;
          good = good && !own.empty() && same_bits(own, first);
          if (!good || mha_cache_remove(cache.get(), sequence, nullptr) != MHA_OK) ++failures;
        }
      });
    }
    for (int64_t n = 0; n < kReaders; ++n) {
      threads.emplace_back([&] {
        for (int round = 0; round < 60; ++round) {
          if (!same_bits(attend(context, cache.get(), {0, 1}), want)) ++failures;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(failures == 0);
  }
}
