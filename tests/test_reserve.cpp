// SPDX-License-Identifier: Apache-2.0
// Room in caches: what mha_cache_reserve takes in several caches or in none, and who gives it back; mha_cache_room
// against what append then accepts; and a layer that reads a cache without growing it (MHA_CACHE_READ).
#include <atomic>
#include <set>
#include <thread>

#include "core/cache.h"
#include "support/cache_layouts.h"
#include "support/layers.h"
#include "support/random_cases.h"

using namespace mha::test;

namespace {

using Integers = std::vector<int64_t>;

mha_status reserve(const std::vector<mha_cache*>& caches, const Integers& sequences, const Integers& tokens,
                   mha_error* error = nullptr) {
  mha_reserve_args args = {};
  args.caches = caches.data(), args.num_caches = static_cast<int64_t>(caches.size());
  args.batch = static_cast<int64_t>(tokens.size());
  args.sequences = sequences.empty() ? nullptr : sequences.data(), args.tokens = tokens.data();
  return mha_cache_reserve(&args, error);
}

void must_reserve(const std::vector<mha_cache*>& caches, const Integers& sequences, const Integers& tokens) {
  mha_error error = {};
  require_ok(reserve(caches, sequences, tokens, &error), error);
}

int64_t length_of(const CachePtr& cache, int64_t sequence) { return mha_cache_length(cache.get(), sequence); }
Tokens contents(const CachePtr& cache, int64_t sequence) {
  const int64_t first = mha_cache_first_kept(cache.get(), sequence);
  return exported(cache.get(), sequence, first, length_of(cache, sequence) - first);
}

/// All that can be seen of a cache.
struct Snapshot {
  Integers lengths, rooms;
  std::vector<std::vector<float>> saved;
  size_t used;

  explicit Snapshot(const mha_cache* cache) : used(mha_cache_used_bytes(cache)) {
    for (int64_t s = 0; s < config_of(cache).max_sequences; ++s) {
      lengths.push_back(mha_cache_length(cache, s));
      rooms.push_back(mha_cache_room(cache, s));
      saved.push_back(save_sequence(cache, s));
    }
  }
  bool operator==(const Snapshot& other) const {
    for (size_t s = 0; s < saved.size(); ++s)
      if (!same_bits(saved[s], other.saved[s])) return false;
    return lengths == other.lengths && rooms == other.rooms && used == other.used;
  }
};

size_t page_bytes(const mha_cache_config& config) {
  CachePtr cache = make_cache(cache_context(), config);
  require_append(cache.get(), 0, random_tokens(config, 1, 1));
  return mha_cache_used_bytes(cache.get());
}

/// Other sequences take all that is left.
void eat(mha_cache* cache, int64_t sequence) {
  const mha_cache_config c = config_of(cache);
  const int64_t room = mha_cache_room(cache, sequence);
  require_append(cache, sequence, random_tokens(c, room, 7));
  CHECK(append(cache_context(), cache, sequence, random_tokens(c, 1, 7)) == MHA_ERR_FULL);
}

}  // namespace

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
    std::vector<Snapshot> before;
    for (const mha_cache* cache : list) before.emplace_back(cache);
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

// --- Random operations against a model --------------------------------------------------------------------------

namespace {

/// A cache as plain vectors; the pages of a paged one are numbers, those for tokens to come included.
class Model {
 public:
  struct Sequence {
    Tokens tokens;
    int64_t length = 0;
    std::vector<int> pages;
  };

  explicit Model(const mha_cache_config& given)
      : cache(make_cache(cache_context(), given)), config(config_of(cache.get())) {
    sequences.resize(static_cast<size_t>(config.max_sequences));
    page = page_bytes(given);
  }

  CachePtr cache;
  mha_cache_config config;
  std::vector<Sequence> sequences;

  bool paged() const { return config.kind == MHA_CACHE_PAGED; }
  Sequence& at(int64_t s) { return sequences[static_cast<size_t>(s)]; }
  int64_t held_pages() const {
    std::set<int> all;
    for (const Sequence& s : sequences) all.insert(s.pages.begin(), s.pages.end());
    return static_cast<int64_t>(all.size());
  }
  int64_t free_pages() const { return config.capacity / config.page_size - held_pages(); }

  int64_t room(int64_t s) {
    if (config.kind == MHA_CACHE_RING) return (int64_t{1} << 62) - at(s).length;
    if (!paged()) return config.capacity - at(s).length;
    const int64_t copied = must_copy(at(s)) ? 1 : 0, free = free_pages() - copied;
    if (free < 0) return 0;
    return (static_cast<int64_t>(at(s).pages.size()) + free) * config.page_size - at(s).length;
  }
  /// Takes the pages for so many more of each, whether they fit or not.
  std::vector<Sequence> with_room(const std::map<int64_t, int64_t>& counts, bool* fits) {
    const std::vector<Sequence> before = sequences;
    *fits = true;
    for (const auto& [s, count] : counts) {
      if (config.kind == MHA_CACHE_CONTIGUOUS) *fits &= at(s).length + count <= config.capacity;
      if (!paged() || count == 0) continue;
      Sequence& q = at(s);
      if (must_copy(q)) q.pages[static_cast<size_t>(q.length / config.page_size)] = next_page_++;
      while (static_cast<int64_t>(q.pages.size()) * config.page_size < q.length + count)
        q.pages.push_back(next_page_++);
    }
    if (paged()) *fits &= free_pages() >= 0;
    std::vector<Sequence> after = sequences;
    sequences = before;
    return after;
  }
  void cut(Sequence* s, int64_t length) {
    s->tokens = slice(config, s->tokens, 0, length), s->length = length;
    if (paged()) s->pages.resize(static_cast<size_t>((length + config.page_size - 1) / config.page_size));
  }

  void check() {
    for (int64_t s = 0; s < config.max_sequences; ++s) {
      REQUIRE(mha_cache_length(cache.get(), s) == at(s).length);
      REQUIRE(mha_cache_room(cache.get(), s) == room(s));
      const int64_t first = mha_cache_first_kept(cache.get(), s), count = at(s).length - first;
      if (!same_tokens(exported(cache.get(), s, first, count), slice(config, at(s).tokens, first, count)))
        FAIL_CHECK("sequence " << s << " differs");
    }
    if (paged()) REQUIRE(mha_cache_used_bytes(cache.get()) == static_cast<size_t>(held_pages()) * page);
  }

 private:
  bool must_copy(const Sequence& s) const {
    if (!paged() || s.length % config.page_size == 0) return false;
    const int last = s.pages[static_cast<size_t>(s.length / config.page_size)];
    int64_t holders = 0;
    for (const Sequence& other : sequences) holders += std::count(other.pages.begin(), other.pages.end(), last);
    return holders > 1;
  }

  size_t page = 0;
  int next_page_ = 0;
};

class Machine {
 public:
  Machine(int64_t capacity, int64_t page_size, uint64_t seed) : random_(seed) {
    models_.reserve(4);
    models_.emplace_back(cache_config(MHA_CACHE_PAGED, capacity, 4, page_size));
    models_.emplace_back(cache_config(MHA_CACHE_PAGED, capacity + 20, 4, page_size + 3));
    models_.emplace_back(cache_config(MHA_CACHE_CONTIGUOUS, capacity / 2 + 1, 4));
    models_.emplace_back(cache_config(MHA_CACHE_RING, capacity, 4));
  }

  void run(int operations) {
    for (int n = 0; n < operations; ++n) {
      Model& model = models_[static_cast<size_t>(random_.below(4))];
      const int64_t kind = random_.below(100);
      const char* name = kind < 20   ? append(model)
                         : kind < 30 ? append_all_the_room(model)
                         : kind < 52 ? reserve_in_some()
                         : kind < 66 ? fork(model)
                         : kind < 76 ? load(model)
                         : kind < 86 ? truncate(model)
                         : kind < 99 ? remove(model)
                                     : reset(model);
      ++done[name];
      INFO("operation " << n << ": " << name << " on " << kind_name(model.config.kind));
      for (Model& each : models_) each.check();
    }
  }

  std::map<std::string, int> done;

 private:
  int64_t any(const Model& model) { return random_.below(model.config.max_sequences); }

  mha_status grow(Model& model, const std::map<int64_t, int64_t>& counts) {
    Integers sequences, offsets{0};
    Tokens packed;
    std::map<int64_t, Tokens> more;
    for (const auto& [s, count] : counts) {
      more[s] = random_tokens(model.config, count, random_.bits() >> 8);
      sequences.push_back(s), offsets.push_back(offsets.back() + count), packed += more[s];
    }
    bool fits = true;
    const std::vector<Model::Sequence> after = model.with_room(counts, &fits);
    mha_append_args args = {};
    args.batch = static_cast<int64_t>(sequences.size()), args.sequences = sequences.data();
    args.length = offsets.back(), args.offsets = offsets.data();
    packed.key.push_back(0), packed.value.push_back(0);  // never empty
    args.key = view(packed.key.data()), args.value = view(packed.value.data());
    const mha_status status = mha_cache_append(cache_context(), model.cache.get(), &args, nullptr);
    CHECK(status == (fits ? MHA_OK : MHA_ERR_FULL));
    if (!fits) return MHA_ERR_FULL;
    model.sequences = after;
    for (const auto& [s, tokens] : more) model.at(s).tokens += tokens, model.at(s).length += counts.at(s);
    return MHA_OK;
  }
  std::map<int64_t, int64_t> any_counts(const Model& model, int64_t most) {
    std::map<int64_t, int64_t> counts;
    for (int64_t n = between(random_, 1, 3); n > 0; --n) counts[any(model)] = random_.below(most + 1);
    return counts;
  }

  const char* append(Model& model) {
    return grow(model, any_counts(model, model.config.capacity / 3 + 1)) == MHA_OK ? "append" : "append, full";
  }
  /// One more than the room is refused, the room is not.
  const char* append_all_the_room(Model& model) {
    if (model.config.kind == MHA_CACHE_RING) return append(model);
    const int64_t s = any(model), room = mha_cache_room(model.cache.get(), s);
    CHECK(grow(model, {{s, room + 1}}) == MHA_ERR_FULL);
    CHECK(grow(model, {{s, room}}) == MHA_OK);
    return room > 0 ? "all the room" : "no room";
  }
  const char* reserve_in_some() {
    std::vector<mha_cache*> caches;
    std::vector<size_t> chosen;
    for (size_t n = 0; n < models_.size(); ++n)
      if (!one_in(random_, 3)) chosen.push_back(n);
    for (size_t n = chosen.size(); n > 1; --n)
      std::swap(chosen[n - 1], chosen[static_cast<size_t>(random_.below(static_cast<int64_t>(n)))]);
    const std::map<int64_t, int64_t> counts = any_counts(models_[0], one_in(random_, 3) ? 40 : 12);
    Integers sequences, tokens;
    for (const auto& [s, count] : counts) sequences.push_back(s), tokens.push_back(count);
    bool all_fit = true;
    std::vector<std::vector<Model::Sequence>> after;
    for (const size_t n : chosen) {
      bool fits = true;
      caches.push_back(models_[n].cache.get());
      after.push_back(models_[n].with_room(counts, &fits));
      all_fit &= fits;
    }
    CHECK(reserve(caches, sequences, tokens) == (all_fit ? MHA_OK : MHA_ERR_FULL));
    if (!all_fit) return caches.size() > 1 ? "reserve in several, full" : "reserve, full";
    for (size_t n = 0; n < chosen.size(); ++n) models_[chosen[n]].sequences = after[n];
    return caches.size() > 1 ? "reserve in several" : "reserve";
  }
  const char* fork(Model& model) {
    if (model.config.kind == MHA_CACHE_RING) return "ring";
    const int64_t from = any(model), to = any(model);
    const int64_t length = one_in(random_, 2) ? model.at(from).length : random_.below(model.at(from).length + 1);
    const bool can = from != to && model.at(to).length == 0, reserved = !model.at(to).pages.empty();
    CHECK(mha_cache_fork(model.cache.get(), from, to, length, nullptr) == (can ? MHA_OK : MHA_ERR_ARGUMENT));
    if (!can) return "fork, refused";
    const bool of_reserved =
        model.paged() && static_cast<int64_t>(model.at(from).pages.size()) * model.config.page_size >
                             model.at(from).length + model.config.page_size;
    model.at(to) = model.at(from);
    model.cut(&model.at(to), length);
    return reserved ? "fork into a reservation" : of_reserved ? "fork of a reservation" : "fork";
  }
  const char* truncate(Model& model) {
    const int64_t s = any(model), first = mha_cache_first_kept(model.cache.get(), s);
    const int64_t length = one_in(random_, 3) ? model.at(s).length : between(random_, first, model.at(s).length);
    REQUIRE(mha_cache_truncate(model.cache.get(), s, length, nullptr) == MHA_OK);
    model.cut(&model.at(s), length);
    return "truncate";
  }
  const char* remove(Model& model) {
    const int64_t s = any(model);
    REQUIRE(mha_cache_remove(model.cache.get(), s, nullptr) == MHA_OK);
    model.at(s) = {};
    return "remove";
  }
  /// A sequence of the cache itself, into an empty one.
  const char* load(Model& model) {
    if (model.config.kind == MHA_CACHE_RING) return "ring";
    const int64_t from = any(model), to = any(model);
    if (model.at(to).length != 0 || model.at(from).length == 0) return "nothing to load";
    const std::vector<float> blob = save_sequence(model.cache.get(), from);
    bool fits = true;
    const std::vector<Model::Sequence> after = model.with_room({{to, model.at(from).length}}, &fits);
    CHECK(mha_cache_load(model.cache.get(), to, blob.data(), blob.size() * sizeof(float), nullptr) ==
          (fits ? MHA_OK : MHA_ERR_FULL));
    if (!fits) return "load, full";
    const bool reserved = !model.at(to).pages.empty();
    model.sequences = after;
    model.at(to).tokens = model.at(from).tokens, model.at(to).length = model.at(from).length;
    return reserved ? "load into a reservation" : "load";
  }
  const char* reset(Model& model) {
    mha_cache_reset(model.cache.get());
    for (Model::Sequence& s : model.sequences) s = {};
    return "reset";
  }

  std::vector<Model> models_;
  Random random_;
};

}  // namespace

TEST_CASE("reserve: random operations against plain vectors, with reservations", "[cache][reserve][states]") {
  std::map<std::string, int> done;
  uint64_t seed = 910000;
  for (const int64_t capacity : {40, 90}) {
    for (const int64_t page_size : {1, 5, 16}) {
      INFO("seed " << seed << " capacity " << capacity << " page size " << page_size);
      Machine machine(capacity, page_size, seed++);
      machine.run(4000);
      for (const auto& [name, count] : machine.done) done[name] += count;
    }
  }
  for (const char* name :
       {"append", "append, full", "all the room", "no room", "reserve", "reserve, full", "reserve in several",
        "reserve in several, full", "fork", "fork, refused", "fork into a reservation", "fork of a reservation",
        "truncate", "remove", "reset", "load", "load, full", "load into a reservation"}) {
    INFO(name);
    CHECK(done[name] >= 15);
  }
}

// --- Layers -----------------------------------------------------------------------------------------------------

namespace {

/// Cross-attention of a layer, with everything that is not a default, and its keys projected into a cache once.
struct CrossAttention {
  static constexpr int64_t kQueries = 7;
  const Integers lengths = {300, 40};  // keys of each item
  LayerProblem problem;
  mha_rope rope = {};
  std::vector<float> weights = random_floats(32, 921);
  mha_norm query_norm = {}, key_norm = {};

  CrossAttention() : problem(config(), 2, kQueries, 300, Biases::kAll, 920) {
    rope.style = MHA_ROPE_INTERLEAVED, rope.dims = 12;
    query_norm.epsilon = 1e-5f, query_norm.weight = weights.data();
    key_norm.epsilon = 1e-4f, key_norm.weight = weights.data() + 16;
  }
  static mha_layer_config config() {
    mha_layer_config c = {};
    c.embed_dim = 48, c.num_heads = 6, c.num_kv_heads = 2, c.head_dim = 16, c.value_head_dim = 24;
    c.kdim = 20, c.vdim = 28;
    return c;
  }

  /// Sequence lengths.size() - 1 - b has the keys and values of item b.
  CachePtr filled(const mha_context* context, const CacheLayout& layout) const {
    CachePtr cache = make_cache(context, cache_config(layout, {2, 6, 2, kQueries, 300, 16, 24}, 2, 300));
    const LinearPtr to_key = make_linear(context, 20, 32, problem.key_weight.data(), problem.key_bias.data());
    const LinearPtr to_value = make_linear(context, 28, 48, problem.value_weight.data(), problem.value_bias.data());
    for (int64_t b = 0; b < 2; ++b) {
      const int64_t count = lengths[static_cast<size_t>(b)], sequence = 1 - b;
      const auto rows = [&](const std::vector<float>& all, int64_t width) {
        return std::vector<float>(all.begin() + b * 300 * width, all.begin() + (b * 300 + count) * width);
      };
      const std::vector<float> key = run_linear(context, to_key.get(), rows(problem.key, 20), count);
      const std::vector<float> value = run_linear(context, to_value.get(), rows(problem.value, 28), count);
      mha_append_args args = {};
      args.batch = 1, args.sequences = &sequence, args.length = count;
      args.key = view(key.data()), args.value = view(value.data());
      args.key_norm = &key_norm, args.rope = &rope;
      mha_error error = {};
      require_ok(mha_cache_append(context, cache.get(), &args, &error), error);
    }
    return cache;
  }
  /// With keys given, padded to the longest.
  LayerCall plain() const {
    LayerCall args = problem.args();
    args.rope = &rope, args.query_norm = &query_norm, args.key_norm = &key_norm;
    args.items.key_lengths = lengths.data();
    args.positions.align = MHA_ALIGN_END;
    return args;
  }
  static LayerCall read(LayerCall args, mha_cache* cache, const int64_t* sequences) {
    args.key = args.value = {}, args.key_len = 0, args.key_norm = nullptr;
    args.items.key_lengths = nullptr;
    args.cache = cache, args.cache_use = MHA_CACHE_READ, args.items.sequences = sequences;
    return args;
  }
};

/// As run_layer, whose results do not know the lengths of a cache: weights [B, H, Tq, 300].
LayerResult run_reading(const mha_context* context, const mha_layer* layer, LayerCall args) {
  LayerResult result;
  result.output = poisoned(args.batch * args.query_len * 48);
  args.output = mut_view(result.output.data());
  if (args.results.weights_mode != MHA_WEIGHTS_NONE) {
    result.weights = poisoned(args.batch * 6 * args.query_len * 300);
    args.results.weights = mut_view(result.weights.data());
  }
  mha_error error = {};
  size_t bytes = 0;
  require_ok(layer_workspace_bytes(context, layer, args, &bytes, &error), error);
  std::vector<float> workspace = poisoned(static_cast<int64_t>(bytes / sizeof(float) + 1));
  args.resources.workspace = workspace.data(), args.resources.workspace_bytes = bytes;
  require_ok(layer_forward(context, layer, args, &error), error);
  return result;
}

}  // namespace

TEST_CASE("cache read: a layer over a cache gives the bits of the keys given, and changes nothing",
          "[cache][reserve]") {
  const CrossAttention c;
  const int64_t sequences[] = {1, 0};
  for_each_target([&](const std::string& target, const mha_context* one) {
    const LayerPtr layer = c.problem.make(one);
    for (const bool causal : {false, true}) {
      for (const mha_weights_mode mode : {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD}) {
        LayerCall args = c.plain();
        args.causal = causal, args.results.weights_mode = mode;
        const LayerResult want = run_layer(one, layer.get(), args);
        for (const CacheLayout& layout : kCacheLayouts) {
          CachePtr cache = c.filled(one, layout);
          const Snapshot before(cache.get());
          for (const int64_t threads : {1, 3}) {
            INFO(target << " " << layout.name() << " threads " << threads << " causal " << causal);
            const LayerCall reading = CrossAttention::read(args, cache.get(), sequences);
            const LayerResult got = run_reading(shared_context(target, threads), layer.get(), reading);
            check_same_bits("output", got.output, want.output);
            check_same_bits("weights", got.weights, want.weights);
            CHECK(Snapshot(cache.get()) == before);
          }
        }
      }
    }
  });
}

TEST_CASE("cache read: packed queries, a sequence that comes twice, a full cache", "[cache][reserve]") {
  const CrossAttention c;
  const Integers offsets = {0, 3, 3, 7}, sequences = {1, 0, 1};
  for_each_target([&](const std::string& target, const mha_context* one) {
    const LayerPtr layer = c.problem.make(one);
    CachePtr cache = c.filled(one, {MHA_CACHE_CONTIGUOUS, 0});
    CHECK(mha_cache_room(cache.get(), 1) == 0);  // appending would fail
    LayerCall args = CrossAttention::read(c.plain(), cache.get(), sequences.data());
    args.batch = 3, args.query_len = 7, args.items.query_offsets = offsets.data(), args.causal = 1;
    const LayerResult got = run_reading(shared_context(target, 2), layer.get(), args);
    for (const size_t b : {0, 2}) {
      LayerCall item = c.plain();
      item.batch = 1, item.query_len = offsets[b + 1] - offsets[b], item.causal = 1;
      item.query = view(c.problem.query.data() + offsets[b] * 48);
      const std::vector<float> want = run_layer(one, layer.get(), item).output;
      const auto begin = got.output.begin() + offsets[b] * 48;
      check_same_bits("item", std::vector<float>(begin, begin + item.query_len * 48), want);
    }
  });
}

TEST_CASE("cache read: refusals", "[cache][reserve][status]") {
  const CrossAttention c;
  const int64_t sequences[] = {1, 0};
  const mha_context* context = cache_context();
  const LayerPtr layer = c.problem.make(context);
  CachePtr cache = c.filled(context, {MHA_CACHE_PAGED, 16});
  const Snapshot before(cache.get());
  std::vector<float> output = poisoned(2 * 7 * 48);
  const auto refused = [&](const std::string& text, auto change) {
    LayerCall args = CrossAttention::read(c.plain(), cache.get(), sequences);
    args.output = mut_view(output.data());
    change(args);
    mha_error error = {};
    CHECK(layer_forward(context, layer.get(), args, &error) == MHA_ERR_ARGUMENT);
    INFO(error.message);
    CHECK(mentions(error, text));
    CHECK(std::all_of(output.begin(), output.end(), is_poison));
    CHECK(Snapshot(cache.get()) == before);
  };
  refused("key_norm is given", [&](LayerCall& a) { a.key_norm = &c.key_norm; });
  refused("key.data is given", [&](LayerCall& a) { a.key = view(c.problem.key.data()); });
  refused("value.data is given", [&](LayerCall& a) { a.value = view(c.problem.value.data()); });
  refused("key_len is given", [](LayerCall& a) { a.key_len = 300; });
  refused("items.key_lengths is given", [&](LayerCall& a) { a.items.key_lengths = c.lengths.data(); });
  refused("cache_use is 2", [](LayerCall& a) { a.cache_use = static_cast<mha_cache_use>(2); });
  refused("cache is NULL", [](LayerCall& a) { a.cache = nullptr, a.items.sequences = nullptr; });
}

TEST_CASE("reserve: a layer that appends has what was reserved for it", "[cache][reserve]") {
  mha_layer_config config = CrossAttention::config();
  config.kdim = config.vdim = 0;
  const LayerProblem problem(config, 1, 20, 20, Biases::kAll, 930);
  for_each_target([&](const std::string&, const mha_context* context) {
    const LayerPtr layer = problem.make(context);
    LayerCall args = problem.args();
    args.key = args.value = {}, args.causal = 1;
    const std::vector<float> want = run_layer(context, layer.get(), args).output;
    CachePtr cache = make_cache(context, cache_config({MHA_CACHE_PAGED, 16}, {1, 6, 2, 20, 20, 16, 24}, 2, 40));
    must_reserve({cache.get()}, {0}, {20});
    eat(cache.get(), 1);
    args.key_len = 0, args.cache = cache.get();
    check_same_bits("appended", run_layer(context, layer.get(), args).output, want);
    CHECK(length_of(cache, 0) == 20);
    // Beyond it the call fails, and the cache stays as it was.
    const Snapshot before(cache.get());
    std::vector<float> output = poisoned(20 * 48);
    args.output = mut_view(output.data());
    mha_error error = {};
    CHECK(layer_forward(context, layer.get(), args, &error) == MHA_ERR_FULL);
    CHECK(std::all_of(output.begin(), output.end(), is_poison));
    CHECK(Snapshot(cache.get()) == before);
  });
}
