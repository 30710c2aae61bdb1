// SPDX-License-Identifier: Apache-2.0
// The calls on a cache, one by one: sizes, boundaries of pages and capacity, every refusal with its message. What many
// calls in a row come to: test_cache_states.cpp.
#include <functional>
#include <numeric>

#include "core/cache/cache.h"
#include "tests/support/caches.h"
#include "tests/support/calls.h"
#include "tests/support/counting.h"

using namespace mha::test;

namespace {

void check_error(mha_status got, mha_status want, const mha_error& error, const std::vector<std::string>& texts) {
  CHECK(std::string(mha_status_string(got)) == mha_status_string(want));
  CHECK(error.status == got);
  for (const std::string& text : texts) {
    if (!mentions(error, text)) FAIL_CHECK("\"" << error.message << "\" does not mention \"" << text << "\"");
  }
}

int64_t length_of(const CachePtr& cache, int64_t sequence = 0) { return mha_cache_length(cache.get(), sequence); }

/// All tokens of a sequence that dropped none.
Tokens contents(const CachePtr& cache, int64_t sequence = 0) {
  return exported(cache.get(), sequence, 0, length_of(cache, sequence));
}

/// Token t of head h as attention finds it.
const float* row_at(const mha::TokenRows& rows, int64_t t, int64_t h) {
  const auto floats = [](const char* at) { return reinterpret_cast<const float*>(at); };
  if (rows.pages == nullptr) return floats(rows.base + h * rows.stride_h + t * rows.stride_t);
  const int64_t n = t / rows.page_size;
  const int64_t index = n < rows.pinned_pages ? n : rows.pinned_pages + (n - rows.pinned_pages) % rows.ring_pages;
  return floats(rows.pages[index] + rows.offset + h * rows.stride_h + t % rows.page_size * rows.stride_t);
}

}  // namespace

TEST_CASE("cache: what is appended is exported, at every length around the edges of pages", "[cache]") {
  for (mha_cache_kind kind : kCacheKinds) {
    for (int64_t page_size : {1, 7, 16, 64}) {
      for (int64_t count : {1, 6, 7, 8, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200}) {
        INFO(kind_name(kind) << " page size " << page_size << " tokens " << count);
        const mha_cache_config config = cache_config(kind, count, 2, page_size, 3);
        const Tokens tokens = random_tokens(config, count, 210000);
        CachePtr once = make_cache(cache_context(), config), piecewise = make_cache(cache_context(), config);
        require_append(once.get(), 0, tokens);
        check_same_tokens("at once", contents(once), tokens);
        Random random(210001);
        for (int64_t done = 0; done < count;) {
          const int64_t piece = std::min(count - done, 1 + random.below(9));
          require_append(piecewise.get(), 0, slice(config, tokens, done, piece));
          done += piece;
          CHECK(length_of(piecewise) == done);
        }
        check_same_tokens("in pieces", contents(piecewise), tokens);
        CHECK(mha_cache_used_bytes(once.get()) == mha_cache_used_bytes(piecewise.get()));
      }
    }
  }
}

TEST_CASE("cache: the rows that attention reads lie where they are said to", "[cache]") {
  for (mha_cache_kind kind : kCacheKinds) {
    const mha_cache_config config = cache_config(kind, 100, 2, 7, 20);
    CachePtr cache = make_cache(cache_context(), config);
    const Tokens tokens = random_tokens(config, kind == MHA_CACHE_RING ? 1000 : 90, 211000);
    require_append(cache.get(), 1, tokens);
    const mha::TokenRows keys = mha::cache_rows(*cache.get(), mha::kKeys, 1);
    const mha::TokenRows values = mha::cache_rows(*cache.get(), mha::kValues, 1);
    const int64_t length = mha::cache_length(*cache.get(), 1), first = mha::cache_first_kept(*cache.get(), 1);
    CHECK((first > 0) == (kind == MHA_CACHE_RING));
    CHECK(reinterpret_cast<uintptr_t>(row_at(keys, 0, 0)) % 64 == 0);
    CHECK(reinterpret_cast<uintptr_t>(row_at(values, 0, 0)) % 64 == 0);
    for (int64_t t = 0; t < length; ++t) {
      if (t >= config.sink_tokens && t < first) continue;
      for (int64_t h = 0; h < 2; ++h) {
        CHECK(std::equal(row_at(keys, t, h), row_at(keys, t, h) + 5, tokens.key.begin() + (t * 2 + h) * 5));
        CHECK(std::equal(row_at(values, t, h), row_at(values, t, h) + 3, tokens.value.begin() + (t * 2 + h) * 3));
      }
    }
    // Nothing stored, nothing read: the rows of an empty sequence exist, with no token.
    CHECK(mha::cache_length(*cache.get(), 0) == 0);
    CHECK(mha::cache_rows(*cache.get(), mha::kKeys, 0).stride_t == 5 * 4);
  }
}

TEST_CASE("cache: a ring keeps its sink tokens and at least its last `capacity` tokens", "[cache]") {
  for (int64_t capacity : {1, 5, 16, 17, 64, 65, 100, 128, 300}) {
    for (int64_t sink : {0, 1, 16, 70}) {
      const mha_cache_config config = cache_config(MHA_CACHE_RING, capacity, 1, 0, sink);
      CachePtr cache = make_cache(cache_context(), config);
      const Tokens tokens = random_tokens(config, 3 * capacity + 200, 212000);
      for (int64_t length = 0, step = 1; length + step <= 3 * capacity + 200; length += step, step = step % 11 + 1) {
        require_append(cache.get(), 0, slice(config, tokens, length, step));
        const int64_t now = length + step, first = mha_cache_first_kept(cache.get(), 0);
        INFO("capacity " << capacity << " sink " << sink << " length " << now << " first kept " << first);
        REQUIRE(length_of(cache) == now);
        if (now <= sink + capacity) CHECK(first == 0);
        CHECK((first == 0 || (first > sink && first <= now - capacity)));
        CHECK(now - first <= std::max(sink, int64_t{16}) + capacity + 3 * 64);  // and not much more
        CHECK(same_tokens(exported(cache.get(), 0, first, now - first), slice(config, tokens, first, now - first)));
        const int64_t kept = std::min(sink, now);
        CHECK(same_tokens(exported(cache.get(), 0, 0, kept), slice(config, tokens, 0, kept)));
      }
    }
  }
}

TEST_CASE("cache: capacity is exact, and what does not fit changes nothing", "[cache]") {
  for (mha_cache_kind kind : {MHA_CACHE_CONTIGUOUS, MHA_CACHE_PAGED}) {
    for (int64_t page_size : {1, 7, 16, 64}) {
      const mha_cache_config config = cache_config(kind, 2 * page_size, 2, page_size);
      CachePtr cache = make_cache(cache_context(), config);
      const Tokens tokens = random_tokens(config, 2 * page_size + 1, 213000);
      mha_error error = {};
      CHECK(append(cache_context(), cache.get(), 0, tokens, &error) == MHA_ERR_FULL);
      CHECK(mha_cache_used_bytes(cache.get()) == 0);
      require_append(cache.get(), 0, slice(config, tokens, 0, 2 * page_size));
      const size_t used = mha_cache_used_bytes(cache.get());
      check_error(append(cache_context(), cache.get(), 0, slice(config, tokens, 0, 1), &error), MHA_ERR_FULL, error,
                  {"sequence 0", std::to_string(2 * page_size)});
      check_same_tokens("full", contents(cache), slice(config, tokens, 0, 2 * page_size));
      CHECK(mha_cache_used_bytes(cache.get()) == used);
      if (kind == MHA_CACHE_CONTIGUOUS) continue;
      // All pages are with sequence 0: none for sequence 1, until it gives one back.
      check_error(append(cache_context(), cache.get(), 1, slice(config, tokens, 0, 1), &error), MHA_ERR_FULL, error,
                  {"1 pages", "0 of 2 are free"});
      CHECK(length_of(cache, 1) == 0);
      REQUIRE(mha_cache_truncate(cache.get(), 0, page_size, nullptr) == MHA_OK);
      require_append(cache.get(), 1, slice(config, tokens, page_size, page_size));
      check_same_tokens("sequence 1", contents(cache, 1), slice(config, tokens, page_size, page_size));
    }
  }
}

TEST_CASE("cache: ragged and even batches append each sequence its own tokens", "[cache]") {
  const mha_cache_config config = cache_config(MHA_CACHE_PAGED, 4000, 5, 16);
  // Enough bytes for two threads, and items that cut sequences apart.
  mha_cache_config wide = config;
  wide.num_kv_heads = 8;
  wide.head_dim = 64;
  wide.value_head_dim = 48;
  for (const mha_cache_config& c : {config, wide}) {
    for (int64_t threads : {1, 2, 5}) {
      const mha_context* context = shared_context(supported_targets()[0], threads);
      CachePtr cache = make_cache(context, c);
      const int64_t sequences[] = {3, 0, 4, 1};
      const int64_t offsets[] = {0, 130, 130, 700, 1201};
      const Tokens ragged = random_tokens(c, 1201, 214000), even = random_tokens(c, 4 * 200, 214001);
      mha_append_args args = {};
      args.batch = 4;
      args.sequences = sequences;
      args.length = 1201;
      args.offsets = offsets;
      args.key = view(ragged.key.data());
      args.value = view(ragged.value.data());
      REQUIRE(mha_cache_append(context, cache.get(), &args, nullptr) == MHA_OK);
      args.offsets = nullptr;
      args.length = 200;
      args.key = view(even.key.data());
      args.value = view(even.value.data());
      REQUIRE(mha_cache_append(context, cache.get(), &args, nullptr) == MHA_OK);
      for (int64_t b = 0; b < 4; ++b) {
        Tokens want = slice(c, ragged, offsets[b], offsets[b + 1] - offsets[b]);
        want += slice(c, even, b * 200, 200);
        check_same_tokens("sequence", contents(cache, sequences[b]), want);
      }
      CHECK(length_of(cache, 2) == 0);
    }
  }
}

TEST_CASE("cache: appending nothing is fine", "[cache]") {
  CachePtr cache = make_cache(cache_context(), cache_config(MHA_CACHE_PAGED, 32, 2));
  mha_append_args args = {};
  CHECK(mha_cache_append(cache_context(), cache.get(), &args, nullptr) == MHA_OK);
  args.batch = 2;
  CHECK(mha_cache_append(cache_context(), cache.get(), &args, nullptr) == MHA_OK);
  const int64_t offsets[] = {0, 0, 0};
  args.offsets = offsets;
  CHECK(mha_cache_append(cache_context(), cache.get(), &args, nullptr) == MHA_OK);
  CHECK(mha_cache_used_bytes(cache.get()) == 0);
}

TEST_CASE("cache: a sequence that gets nothing needs no page, though its last one is shared", "[cache]") {
  const mha_cache_config config = cache_config(MHA_CACHE_PAGED, 8, 3, 4);  // two pages
  const CachePtr cache = make_cache(cache_context(), config);
  require_append(cache.get(), 0, random_tokens(config, 3, 201000));
  require_append(cache.get(), 2, random_tokens(config, 3, 201001));
  REQUIRE(mha_cache_fork(cache.get(), 0, 1, -1, nullptr) == MHA_OK);
  const Tokens one = random_tokens(config, 1, 201002);
  const int64_t sequences[] = {0, 2}, offsets[] = {0, 0, 1};
  mha_append_args args = {};
  args.batch = 2, args.length = 1, args.sequences = sequences, args.offsets = offsets;
  args.key = view(one.key.data()), args.value = view(one.value.data());
  mha_error error = {};
  require_ok(mha_cache_append(cache_context(), cache.get(), &args, &error), error);
  CHECK(mha_cache_length(cache.get(), 0) == 3);
  check_same_tokens("the other", exported(cache.get(), 2, 3, 1), one);
}

TEST_CASE("cache: a fork is a copy, and shares memory until one of the two writes", "[cache]") {
  for (mha_cache_kind kind : kCacheKinds) {
    for (int64_t length : {-1, 0, 1, 15, 16, 17, 39}) {
      INFO(kind_name(kind) << " length " << length);
      mha_cache_config config = cache_config(kind, 160, 3, 16);
      config.value_head_dim = 9;  // more than of a key
      CachePtr cache = make_cache(cache_context(), config);
      const Tokens tokens = random_tokens(config, 40, 215000), a = random_tokens(config, 5, 215001),
                   b = random_tokens(config, 7, 215002);
      require_append(cache.get(), 0, tokens);
      const size_t used = mha_cache_used_bytes(cache.get());
      REQUIRE(mha_cache_fork(cache.get(), 0, 2, length, nullptr) == MHA_OK);
      const int64_t forked = length == -1 ? 40 : length;
      check_same_tokens("fork", contents(cache, 2), slice(config, tokens, 0, forked));
      CHECK(mha::shared_tokens(*cache.get(), 0, 2) == (kind == MHA_CACHE_PAGED ? forked : 0));
      CHECK(mha::shared_tokens(*cache.get(), 0, 1) == 0);
      if (kind == MHA_CACHE_PAGED) CHECK(mha_cache_used_bytes(cache.get()) == used);
      require_append(cache.get(), 2, a);
      require_append(cache.get(), 0, b);
      Tokens want_source = tokens, want_fork = slice(config, tokens, 0, forked);
      check_same_tokens("source", contents(cache, 0), want_source += b);
      check_same_tokens("fork", contents(cache, 2), want_fork += a);
      if (kind == MHA_CACHE_PAGED) CHECK(mha::shared_tokens(*cache.get(), 0, 2) == forked / 16 * 16);
      // Each goes its own way.
      REQUIRE(mha_cache_remove(cache.get(), 0, nullptr) == MHA_OK);
      check_same_tokens("fork alone", contents(cache, 2), want_fork);
      REQUIRE(mha_cache_remove(cache.get(), 2, nullptr) == MHA_OK);
      CHECK(mha_cache_used_bytes(cache.get()) == 0);
    }
  }
}

TEST_CASE("cache: the last holder of a shared page writes in place, also within one call", "[cache]") {
  const mha_cache_config config = cache_config(MHA_CACHE_PAGED, 48, 3, 16);  // three pages
  CachePtr cache = make_cache(cache_context(), config);
  const Tokens tokens = random_tokens(config, 10, 216000), more = random_tokens(config, 3, 216001);
  require_append(cache.get(), 0, tokens);
  REQUIRE(mha_cache_fork(cache.get(), 0, 1, -1, nullptr) == MHA_OK);
  REQUIRE(mha_cache_fork(cache.get(), 0, 2, 4, nullptr) == MHA_OK);
  mha_append_args args = {};
  args.batch = 3;
  args.length = 1;
  args.key = view(more.key.data());
  args.value = view(more.value.data());
  REQUIRE(mha_cache_append(cache_context(), cache.get(), &args, nullptr) == MHA_OK);  // two copies, one in place
  for (int64_t s = 0; s < 3; ++s) {
    Tokens want = slice(config, tokens, 0, s == 2 ? 4 : 10);
    check_same_tokens("sequence", contents(cache, s), want += slice(config, more, s, 1));
  }
  CHECK(length_of(cache, 0) == 11);
}

TEST_CASE("cache: tokens written in any order are the same", "[cache]") {
  for (mha_cache_kind kind : kCacheKinds) {
    const mha_cache_config config = cache_config(kind, 256, 2, 16, 5);
    CachePtr cache = make_cache(cache_context(), config);
    const int64_t before = kind == MHA_CACHE_RING ? 777 : 70, more = kind == MHA_CACHE_RING ? 600 : 100;
    const Tokens tokens = random_tokens(config, before + more, 217000);
    require_append(cache.get(), 0, slice(config, tokens, 0, before));
    const mha::CacheBatch batch = {1, nullptr, more, nullptr};
    REQUIRE(mha::cache_reserve(cache.get(), batch, nullptr) == MHA_OK);
    CHECK(length_of(cache) == before);
    for (int64_t t = more - 1; t >= 0; --t) {
      const auto bytes = [](const float* p) { return reinterpret_cast<const char*>(p); };
      const mha::PartRows keys = {bytes(tokens.key.data() + (before + t) * 10), 40, 20, mha::Element::kF32};
      const mha::PartRows values = {bytes(tokens.value.data() + (before + t) * 6), 24, 12, mha::Element::kF32};
      const mha::PartRows rows[] = {keys, values};
      mha::cache_write(*cache.get(), 0, before + t, 1, rows);
    }
    mha::cache_commit(cache.get(), batch);
    CHECK(length_of(cache) == before + more);
    const int64_t kept = mha_cache_first_kept(cache.get(), 0);
    check_same_tokens("written backwards", exported(cache.get(), 0, kept, before + more - kept),
                      slice(config, tokens, kept, before + more - kept));
  }
}

TEST_CASE("cache: sizes are known before, memory may be the caller's, of any alignment", "[cache]") {
  for (mha_cache_kind kind : kCacheKinds) {
    mha_cache_config config = cache_config(kind, 100, 3, 7, 20);
    size_t bytes = 0;
    REQUIRE(mha_cache_memory_bytes(&config, &bytes, nullptr) == MHA_OK);
    // As many tokens as it may hold; not more than a page each beyond, pages being on lines of 64 bytes.
    const int64_t tokens = kind == MHA_CACHE_PAGED ? 105 : 300;
    CHECK(bytes >= static_cast<size_t>(tokens * 2 * 8 * 4));
    CountingAllocator allocator;
    {
      const ContextPtr context = make_context(allocator.options(supported_targets()[0], 1));
      for (size_t shift : {0, 1, 4, 63}) {
        std::vector<unsigned char> memory(bytes + 64, 0xcd);
        config.memory = memory.data() + shift;
        config.memory_bytes = bytes;
        const int64_t made = allocator.calls;
        {
          CachePtr cache = make_cache(context.get(), config);
          CHECK(allocator.calls == made + 1);
          for (int64_t s = 0; s < (kind == MHA_CACHE_PAGED ? 1 : 3); ++s) {
            const Tokens all = random_tokens(config, 100, 218000);
            require_append(cache.get(), s, all);
            check_same_tokens("own memory", contents(cache, s), all);
            CHECK(reinterpret_cast<uintptr_t>(row_at(mha::cache_rows(*cache.get(), mha::kKeys, s), 0, 0)) % 64 == 0);
          }
          CHECK(config_of(cache.get()).memory == config.memory);
          CHECK(allocator.calls == made + 1);
        }
        for (size_t n = 0; n < memory.size(); ++n)
          if ((n < shift || n >= shift + bytes) && memory[n] != 0xcd) FAIL_CHECK("byte " << n << " was written");
        config.memory_bytes = bytes - 1;
        mha_cache* none = reinterpret_cast<mha_cache*>(&bytes);
        mha_error error = {};
        check_error(mha_cache_create(context.get(), &config, &none, &error), MHA_ERR_BUFFER, error,
                    {"memory_bytes", std::to_string(bytes - 1), std::to_string(bytes)});
        CHECK(none == nullptr);
      }
    }
    CHECK(allocator.live.empty());
    CHECK_FALSE(allocator.misuse);
  }
}

TEST_CASE("cache: the configuration with its defaults", "[cache]") {
  mha_cache_config config = {};
  config.num_kv_heads = 3;
  config.head_dim = 8;
  config.capacity = 100;
  config.kind = MHA_CACHE_PAGED;
  const mha_cache_config paged = config_of(make_cache(cache_context(), config).get());
  CHECK(paged.value_head_dim == 8);
  CHECK(paged.max_sequences == 1);
  CHECK(paged.page_size == 64);
  CHECK(paged.capacity == 128);
  CHECK(paged.memory == nullptr);
  config.kind = MHA_CACHE_RING;
  CHECK(config_of(make_cache(cache_context(), config).get()).capacity == 100);
  mha_cache_config untouched = {};
  mha_cache_get_config(nullptr, &untouched);
  CHECK(untouched.capacity == 0);
}

TEST_CASE("cache: creating allocates, or fails and leaks nothing; nothing after it allocates", "[cache][allocation]") {
  for (mha_cache_kind kind : kCacheKinds) {
    CountingAllocator allocator;
    const ContextPtr context = make_context(allocator.options(supported_targets()[0], 2));
    const size_t live = allocator.live.size();
    const mha_cache_config config = cache_config(kind, 50, 2, 16);
    const int64_t first = allocator.calls;
    for (int64_t n = 0; n < 2; ++n) {
      allocator.fail_at = allocator.calls + n;
      mha_cache* cache = reinterpret_cast<mha_cache*>(&allocator);
      mha_error error = {};
      check_error(mha_cache_create(context.get(), &config, &cache, &error), MHA_ERR_OUT_OF_MEMORY, error, {"memory"});
      CHECK(cache == nullptr);
      CHECK(allocator.live.size() == live);
    }
    allocator.fail_at = -1;
    CHECK(allocator.calls == first + 3);
    {
      CachePtr cache = make_cache(context.get(), config);
      CHECK(allocator.live.size() == live + 2);
      const int64_t made = allocator.calls;
      const Tokens tokens = random_tokens(config, 20, 219000);
      REQUIRE(append(context.get(), cache.get(), 0, tokens) == MHA_OK);
      const std::vector<float> blob = save_sequence(cache.get(), 0);
      REQUIRE(mha_cache_truncate(cache.get(), 0, 10, nullptr) == MHA_OK);
      REQUIRE(mha_cache_load(cache.get(), 1, blob.data(), blob.size() * 4, nullptr) == MHA_OK);
      check_same_tokens("loaded", contents(cache, 1), tokens);
      mha_cache_reset(cache.get());
      CHECK(allocator.calls == made);
    }
    CHECK(allocator.live.size() == live);
    CHECK_FALSE(allocator.misuse);
  }
}
