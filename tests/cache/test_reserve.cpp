// SPDX-License-Identifier: Apache-2.0
// Room in caches: what mha_cache_reserve takes in several caches or in none, and who gives it back; mha_cache_room
// against what append then accepts.
#include <atomic>
#include <thread>

#include "core/cache/cache.h"
#include "tests/support/cache_layouts.h"
#include "tests/support/reserve.h"

using namespace mha::test;

TEST_CASE("reserve: in all caches or in none", "[cache][reserve]") {
  for (const int64_t fails_at : {0, 6, 7}) {
    std::vector<CachePtr> layers;
    std::vector<mha_cache*> list;
    for (int64_t n = 0; n < 8; ++n) {
      mha_cache_config c = cache_config(n == 3   ? MHA_CACHE_CONTIGUOUS
                                        : n == 4 ? MHA_CACHE_RING
                                                 : MHA_CACHE_PAGED,
                                        96, 3, 16);
      c.head_dim = 5 + n;
      layers.push_back(make_cache(cache_context(), c));
      list.push_back(layers.back().get());
      require_append(list.back(), 0, random_tokens(c, 20, 300 + static_cast<uint64_t>(n)));
      require_append(list.back(), 2, random_tokens(c, 5, 310));
      REQUIRE(mha_cache_fork(list.back(), 0, 1, 18, nullptr) == MHA_OK);  // 1 has no page of its own where paged
    }
    mha_cache* const small = list[static_cast<size_t>(fails_at)];
    // Pages: two of 0 and 1, one of 2; wanted: a copied one and two more of 1, none of 2.
    require_append(small, 2, random_tokens(config_of(small), 16, 320));
    std::vector<Snapshot> before(list.begin(), list.end());
    mha_error error = {};
    CHECK(reserve(list, {1, 2}, {40, 11}, &error) == MHA_ERR_FULL);
    INFO(error.message);
    CHECK(mentions(error, "caches[" + std::to_string(fails_at) + "]"));
    CHECK(mentions(error, "3 pages of 16 tokens are needed: 2 of 6 are free"));
    for (size_t n = 0; n < list.size(); ++n) CHECK(Snapshot(list[n]) == before[n]);

    REQUIRE(mha_cache_truncate(small, 2, 16, nullptr) == MHA_OK);
    must_reserve(list, {1, 2}, {40, 0});
    for (mha_cache* cache : list) {
      const mha_cache_config c = config_of(cache);
      if (c.kind == MHA_CACHE_PAGED) CHECK(mha_cache_used_bytes(cache) == 6 * page_bytes(c));
      CHECK(mha_cache_room(cache, 1) >= 40);
      require_append(cache, 1, random_tokens(c, 40, 330));
    }
  }
}

TEST_CASE("reserve: a sequence of a contiguous cache that cannot grow so much fails the list", "[cache][reserve]") {
  CachePtr paged = make_cache(cache_context(), cache_config(MHA_CACHE_PAGED, 64, 2, 16));
  CachePtr contiguous = make_cache(cache_context(), cache_config(MHA_CACHE_CONTIGUOUS, 30, 2));
  CachePtr ring = make_cache(cache_context(), cache_config(MHA_CACHE_RING, 8, 2));
  const mha_cache_config c = config_of(paged.get());
  require_append(contiguous.get(), 1, random_tokens(c, 20, 400));
  const std::vector<mha_cache*> list = {paged.get(), contiguous.get(), ring.get()};
  mha_error error = {};
  CHECK(reserve(list, {0, 1}, {5, 11}, &error) == MHA_ERR_FULL);
  CHECK(mentions(error, "sequence 1 has 20 tokens of 30"));
  CHECK(mha_cache_used_bytes(paged.get()) == 0);
  must_reserve(list, {0, 1}, {5, 10});
  CHECK(mha_cache_used_bytes(paged.get()) == 2 * page_bytes(c));
  // Each has its place already: nothing is held.
  CHECK(mha_cache_used_bytes(ring.get()) == 0);
  CHECK(mha_cache_room(contiguous.get(), 0) == 30);
  CHECK(mha_cache_room(contiguous.get(), 1) == 10);
  CHECK(mha_cache_room(ring.get(), 1) == int64_t{1} << 62);
  require_append(contiguous.get(), 1, random_tokens(c, 10, 401));
  require_append(ring.get(), 1, random_tokens(c, 100, 402));
  CHECK(mha_cache_room(ring.get(), 1) == (int64_t{1} << 62) - 100);
  CHECK(reserve({ring.get()}, {1}, {(int64_t{1} << 62) - 99}, &error) == MHA_ERR_OVERFLOW);
  must_reserve({ring.get()}, {1}, {(int64_t{1} << 62) - 100});
}

TEST_CASE("reserve: appending so many never fails, whoever takes the rest", "[cache][reserve]") {
  for (const int64_t page_size : {1, 7, 16}) {
    for (const int64_t held : {0, 1, 6, 7, 16, 20}) {
      for (const int64_t more : {1, 8, 16, 33}) {
        INFO("page size " << page_size << " held " << held << " reserved " << more);
        const mha_cache_config config = cache_config(MHA_CACHE_PAGED, 110, 3, page_size);
        CachePtr cache = make_cache(cache_context(), config);
        const Tokens tokens = random_tokens(config, held + more + 1, 500);
        require_append(cache.get(), 1, slice(config, tokens, 0, held));
        const size_t used = mha_cache_used_bytes(cache.get());
        must_reserve({cache.get()}, {1}, {more});
        const int64_t pages = (held + more + page_size - 1) / page_size;
        CHECK(mha_cache_used_bytes(cache.get()) == static_cast<size_t>(pages) * page_bytes(config));
        CHECK(length_of(cache, 1) == held);
        must_reserve({cache.get()}, {1}, {1});  // never less
        CHECK(mha_cache_used_bytes(cache.get()) == static_cast<size_t>(pages) * page_bytes(config));
        eat(cache.get(), 0);
        const size_t full = mha_cache_used_bytes(cache.get());
        CHECK(mha_cache_room(cache.get(), 1) == pages * page_size - held);
        for (int64_t t = 0; t < more; ++t) require_append(cache.get(), 1, slice(config, tokens, held + t, 1));
        CHECK(mha_cache_used_bytes(cache.get()) == full);
        check_same_tokens("appended", contents(cache, 1), slice(config, tokens, 0, held + more));
        // Used up: what is more than the last page has no place.
        const int64_t left = mha_cache_room(cache.get(), 1);
        CHECK(left == pages * page_size - held - more);
        CHECK(append(cache_context(), cache.get(), 1, random_tokens(config, left + 1, 501)) == MHA_ERR_FULL);
        REQUIRE(mha_cache_truncate(cache.get(), 1, held, nullptr) == MHA_OK);
        REQUIRE(mha_cache_remove(cache.get(), 0, nullptr) == MHA_OK);
        CHECK(mha_cache_used_bytes(cache.get()) == used);
      }
    }
  }
}

TEST_CASE("reserve: truncate, remove and reset give it back", "[cache][reserve]") {
  const mha_cache_config config = cache_config(MHA_CACHE_PAGED, 160, 3, 16);
  const size_t page = page_bytes(config);
  for (const int way : {0, 1, 2}) {
    for (const int64_t appended : {0, 10, 40}) {  // of what was reserved
      INFO("way " << way << " appended " << appended);
      CachePtr cache = make_cache(cache_context(), config);
      require_append(cache.get(), 0, random_tokens(config, 20, 600));
      must_reserve({cache.get()}, {0, 1}, {60, 33});
      CHECK(mha_cache_used_bytes(cache.get()) == 8 * page);
      require_append(cache.get(), 0, random_tokens(config, appended, 601));
      CHECK(mha_cache_used_bytes(cache.get()) == 8 * page);
      if (way == 0) {
        REQUIRE(mha_cache_truncate(cache.get(), 0, 20, nullptr) == MHA_OK);
        CHECK(mha_cache_used_bytes(cache.get()) == 5 * page);
        REQUIRE(mha_cache_truncate(cache.get(), 1, 0, nullptr) == MHA_OK);  // empty, but for what is reserved
        CHECK(mha_cache_used_bytes(cache.get()) == 2 * page);
      } else if (way == 1) {
        REQUIRE(mha_cache_remove(cache.get(), 0, nullptr) == MHA_OK);
        CHECK(mha_cache_used_bytes(cache.get()) == 3 * page);
        REQUIRE(mha_cache_remove(cache.get(), 1, nullptr) == MHA_OK);
        CHECK(mha_cache_used_bytes(cache.get()) == 0);
      } else {
        mha_cache_reset(cache.get());
        CHECK(mha_cache_used_bytes(cache.get()) == 0);
      }
      const int64_t held = length_of(cache, 0);
      CHECK(mha_cache_room(cache.get(), 2) == 160 - (held + 15) / 16 * 16);
      eat(cache.get(), 2);
      // Nothing is left of the promise.
      CHECK(append(cache_context(), cache.get(), 1, random_tokens(config, 1, 602)) == MHA_ERR_FULL);
    }
  }
}

TEST_CASE("reserve: a page that is shared is copied at once", "[cache][reserve]") {
  const mha_cache_config config = cache_config(MHA_CACHE_PAGED, 96, 3, 16);
  const size_t page = page_bytes(config);
  const Tokens tokens = random_tokens(config, 20, 700), more = random_tokens(config, 12, 701);
  for (const int64_t who : {0, 1}) {
    CachePtr cache = make_cache(cache_context(), config);
    require_append(cache.get(), 0, tokens);
    REQUIRE(mha_cache_fork(cache.get(), 0, 1, 19, nullptr) == MHA_OK);
    CHECK(mha_cache_used_bytes(cache.get()) == 2 * page);
    CHECK(mha::shared_tokens(*cache.get(), 0, 1) == 19);
    must_reserve({cache.get()}, {who}, {12});
    CHECK(mha_cache_used_bytes(cache.get()) == 3 * page);
    CHECK(mha::shared_tokens(*cache.get(), 0, 1) == 16);
    check_same_tokens("source", contents(cache, 0), tokens);
    check_same_tokens("fork", contents(cache, 1), slice(config, tokens, 0, 19));
    eat(cache.get(), 2);
    // Both write in place now.
    Tokens source = tokens, fork = slice(config, tokens, 0, 19);
    require_append(cache.get(), 0, more), require_append(cache.get(), 1, more);
    check_same_tokens("source", contents(cache, 0), source += more);
    check_same_tokens("fork", contents(cache, 1), fork += more);
  }
  // Two in one call share a page with each other: one copy is enough.
  CachePtr cache = make_cache(cache_context(), cache_config(MHA_CACHE_PAGED, 48, 3, 16));
  require_append(cache.get(), 0, tokens);
  REQUIRE(mha_cache_fork(cache.get(), 0, 1, -1, nullptr) == MHA_OK);
  must_reserve({cache.get()}, {1, 0}, {12, 12});
  CHECK(mha_cache_used_bytes(cache.get()) == 3 * page);
  require_append(cache.get(), 0, more), require_append(cache.get(), 1, more);
}

TEST_CASE("reserve: forks of and into a sequence that has a reservation, and loads into one", "[cache][reserve]") {
  const mha_cache_config config = cache_config(MHA_CACHE_PAGED, 96, 3, 16);
  const size_t page = page_bytes(config);
  const Tokens tokens = random_tokens(config, 20, 800), more = random_tokens(config, 28, 801);
  {  // Of one: the fork shares what there is, not what is to come. The source has to copy its last page again.
    CachePtr cache = make_cache(cache_context(), config);
    require_append(cache.get(), 0, tokens);
    must_reserve({cache.get()}, {0}, {28});
    REQUIRE(mha_cache_fork(cache.get(), 0, 1, -1, nullptr) == MHA_OK);
    CHECK(mha_cache_used_bytes(cache.get()) == 3 * page);
    CHECK(mha_cache_room(cache.get(), 0) == 28 + 2 * 16);
    CHECK(mha_cache_room(cache.get(), 1) == 12 + 2 * 16);
    eat(cache.get(), 2);
    CHECK(mha_cache_room(cache.get(), 0) == 0);
    CHECK(append(cache_context(), cache.get(), 0, more) == MHA_ERR_FULL);
    REQUIRE(mha_cache_remove(cache.get(), 1, nullptr) == MHA_OK);
    CHECK(mha_cache_room(cache.get(), 0) == 28);
    Tokens all = tokens;
    require_append(cache.get(), 0, more);
    check_same_tokens("source", contents(cache, 0), all += more);
  }
  {  // Into one: what was reserved for it is given back.
    CachePtr cache = make_cache(cache_context(), config);
    require_append(cache.get(), 0, tokens);
    must_reserve({cache.get()}, {1}, {40});
    CHECK(mha_cache_used_bytes(cache.get()) == 5 * page);
    REQUIRE(mha_cache_fork(cache.get(), 0, 1, 17, nullptr) == MHA_OK);
    CHECK(mha_cache_used_bytes(cache.get()) == 2 * page);
    check_same_tokens("fork", contents(cache, 1), slice(config, tokens, 0, 17));
    REQUIRE(mha_cache_remove(cache.get(), 1, nullptr) == MHA_OK);
    CHECK(mha_cache_used_bytes(cache.get()) == 2 * page);
  }
  {  // A load uses it up, and cannot fail for want of room.
    CachePtr cache = make_cache(cache_context(), config);
    require_append(cache.get(), 0, tokens);
    const std::vector<float> blob = save_sequence(cache.get(), 0);
    must_reserve({cache.get()}, {1}, {33});
    eat(cache.get(), 2);
    REQUIRE(mha_cache_load(cache.get(), 1, blob.data(), blob.size() * sizeof(float), nullptr) == MHA_OK);
    check_same_tokens("loaded", contents(cache, 1), tokens);
    CHECK(mha_cache_room(cache.get(), 1) == 28);
    Tokens all = tokens;
    require_append(cache.get(), 1, more);
    check_same_tokens("and on", contents(cache, 1), all += more);
  }
}

TEST_CASE("reserve: refusals name the argument and change nothing", "[cache][reserve][status]") {
  const mha_cache_config config = cache_config(MHA_CACHE_PAGED, 96, 3, 16);
  CachePtr a = make_cache(cache_context(), config), b = make_cache(cache_context(), config);
  CachePtr two = make_cache(cache_context(), cache_config(MHA_CACHE_PAGED, 96, 2, 16));
  const auto refused = [&](mha_status want, const std::string& text, const std::vector<mha_cache*>& caches,
                           const Integers& sequences, const Integers& tokens) {
    mha_error error = {};
    CHECK(reserve(caches, sequences, tokens, &error) == want);
    INFO(error.message);
    CHECK(error.status == want);
    CHECK(mentions(error, text));
    for (const CachePtr* cache : {&a, &b, &two}) CHECK(mha_cache_used_bytes(cache->get()) == 0);
  };
  refused(MHA_ERR_ARGUMENT, "caches[2] is caches[0]", {a.get(), b.get(), a.get()}, {0}, {5});
  refused(MHA_ERR_NULL, "caches[1] is NULL", {a.get(), nullptr}, {0}, {5});
  refused(MHA_ERR_ARGUMENT, "sequences[1] is 3", {a.get(), b.get()}, {0, 3}, {5, 5});
  refused(MHA_ERR_ARGUMENT, "sequences[1] is 2", {a.get(), two.get()}, {0, 2}, {5, 5});
  refused(MHA_ERR_ARGUMENT, "sequences[0] is -1", {a.get()}, {-1}, {5});
  refused(MHA_ERR_ARGUMENT, "sequences[2] is 1, which is given before", {a.get()}, {1, 0, 1}, {5, 5, 5});
  refused(MHA_ERR_ARGUMENT, "batch is 3: there are 2 sequences", {a.get(), two.get()}, {}, {5, 5, 5});
  refused(MHA_ERR_ARGUMENT, "tokens[1] is -1", {a.get()}, {1, 0}, {5, -1});
  refused(MHA_ERR_OVERFLOW, "tokens[0] is 9223372036854775807", {a.get()}, {1}, {INT64_MAX});
  refused(MHA_ERR_FULL, "sequence 1 has 0 tokens of 96", {a.get()}, {1}, {97});
  refused(MHA_ERR_FULL, "7 pages of 16 tokens are needed: 6 of 6 are free", {a.get()}, {1, 2}, {81, 1});
  // Nothing of it is left behind: the marks of sequences that were given twice, least of all.
  must_reserve({a.get(), b.get(), two.get()}, {}, {1, 95 - 16});
  must_reserve({a.get()}, {}, {});
  must_reserve({}, {}, {});

  mha_error error = {};
  mha_cache* const list[] = {a.get()};
  const int64_t one = 1;
  mha_reserve_args args = {};
  args.caches = list, args.num_caches = 1, args.batch = 1, args.tokens = &one;
  const auto fails = [&](mha_status want, const std::string& text, auto change) {
    mha_reserve_args wrong = args;
    change(wrong);
    CHECK(mha_cache_reserve(&wrong, &error) == want);
    INFO(error.message);
    CHECK(mentions(error, text));
  };
  fails(MHA_ERR_NULL, "caches is NULL", [](auto& r) { r.caches = nullptr; });
  fails(MHA_ERR_NULL, "tokens is NULL", [](auto& r) { r.tokens = nullptr; });
  fails(MHA_ERR_ARGUMENT, "num_caches is -1", [](auto& r) { r.num_caches = -1; });
  fails(MHA_ERR_ARGUMENT, "batch is -2", [](auto& r) { r.batch = -2; });
  fails(MHA_ERR_ARGUMENT, "args.reserved[3] is not 0", [](auto& r) { r.reserved[3] = 4; });
  CHECK(mha_cache_reserve(nullptr, &error) == MHA_ERR_NULL);
}

TEST_CASE("reserve: two threads, the same caches in either order", "[cache][reserve][threads]") {
  const mha_context* context = cache_context();  // asserts, so not on other threads
  const mha_cache_config config = cache_config(MHA_CACHE_PAGED, 160, 2, 16);
  std::vector<CachePtr> caches;  // many, so that threads that lock them in different orders meet
  std::vector<mha_cache*> forwards, backwards;
  for (int n = 0; n < 24; ++n) {
    caches.push_back(make_cache(context, config));
    forwards.push_back(caches.back().get());
    backwards.insert(backwards.begin(), caches.back().get());
  }
  const Tokens tokens = random_tokens(config, 80, 900);  // half of all: nobody is ever in want
  std::atomic<int> failures{0};
  const auto work = [&](int64_t sequence, const std::vector<mha_cache*>& list) {
    for (int round = 0; round < 20000; ++round) {
      mha_cache* const cache = list[static_cast<size_t>(round) % list.size()];
      bool good = reserve(list, {sequence}, {80}) == MHA_OK;
      good = good && append(context, cache, sequence, tokens) == MHA_OK;
      good = good && mha_cache_remove(cache, sequence, nullptr) == MHA_OK;
      if (!good) ++failures;
    }
  };
  std::thread other(work, 1, backwards);
  work(0, forwards);
  other.join();
  CHECK(failures == 0);
  for (mha_cache* cache : forwards) {
    for (const int64_t sequence : {0, 1}) REQUIRE(mha_cache_remove(cache, sequence, nullptr) == MHA_OK);
    CHECK(mha_cache_used_bytes(cache) == 0);
  }
}
