// SPDX-License-Identifier: Apache-2.0
// mha_cache_save and mha_cache_load: a sequence goes from any kind of cache to any other that has room; damage of any
// bit and any cut is refused, and nothing is loaded by halves.
#include <algorithm>
#include <array>

#include "tests/support/caches.h"

using namespace mha::test;

namespace {

constexpr size_t kHeader =
    192;  // magic 8, version 4, byte order 4, then int64: bytes, length, leading, first kept, heads, D, Dv; storage of
          // keys and of values, 16 each; value_in_key, checksum of the rest, 8 reserved, checksum of the header
constexpr size_t kBytes = 16, kLength = 24, kLeading = 32, kFirstKept = 40, kHeads = 48, kWidth = 56, kValueWidth = 64;
constexpr size_t kKeyStorage = 72;  // from here on all is 0 except the two checksums

using Bytes = std::vector<unsigned char>;

/// A blob where a sanitizer sees any access outside: bytes of its own, aligned as an allocation is.
Bytes saved(const mha_cache* cache, int64_t sequence) {
  size_t bytes = 0;
  mha_error error = {};
  require_ok(mha_cache_save_bytes(cache, sequence, &bytes, &error), error);
  Bytes blob(bytes);
  require_ok(mha_cache_save(cache, sequence, blob.data(), blob.size(), &error), error);
  return blob;
}

/// Loads what must be refused, and checks that the cache stays empty.
void check_refused(mha_cache* cache, const Bytes& blob, size_t bytes, const std::string& text = "") {
  mha_error error = {};
  CHECK(mha_cache_load(cache, 0, blob.data(), bytes, &error) == MHA_ERR_BLOB);
  CHECK(error.status == MHA_ERR_BLOB);
  CHECK(mentions(error, text));
  CHECK(error.message[0] != 0);
  CHECK(mha_cache_length(cache, 0) == 0);
  CHECK(mha_cache_used_bytes(cache) == 0);
}

uint64_t header_sum(const Bytes& blob) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (size_t n = 0; n < kHeader - 8; ++n) hash = (hash ^ blob[n]) * 0x100000001b3u;
  return hash;
}

void set_field(Bytes* blob, size_t at, uint64_t value) { std::memcpy(blob->data() + at, &value, 8); }

}  // namespace

TEST_CASE("cache blob: from every kind to every kind", "[cache][blob]") {
  for (mha_cache_kind from : kCacheKinds) {
    for (mha_cache_kind to : kCacheKinds) {
      for (int64_t count : {0, 1, 16, 50}) {
        INFO(kind_name(from) << " to " << kind_name(to) << " tokens " << count);
        const mha_cache_config config = cache_config(from, 50, 2, 7, 3);
        CachePtr source = make_cache(cache_context(), config);
        CachePtr target = make_cache(cache_context(), cache_config(to, 60, 3, 16, 9));
        const Tokens tokens = random_tokens(config, count, 230000), more = random_tokens(config, 4, 230001);
        require_append(source.get(), 1, tokens);
        const Bytes blob = saved(source.get(), 1);
        CHECK(blob.size() == kHeader + static_cast<size_t>(count) * 2 * 8 * 4);
        REQUIRE(mha_cache_load(target.get(), 2, blob.data(), blob.size(), nullptr) == MHA_OK);
        CHECK(mha_cache_length(target.get(), 2) == count);
        check_same_tokens("loaded", exported(target.get(), 2, 0, count), tokens);
        CHECK(saved(target.get(), 2) == blob);
        // It goes on as if it had been there all the time.
        require_append(target.get(), 2, more);
        check_same_tokens("and on", exported(target.get(), 2, count, 4), more);
        // Only what is empty can be loaded into, and only what has room.
        mha_error error = {};
        CHECK(mha_cache_load(target.get(), 2, blob.data(), blob.size(), &error) == MHA_ERR_ARGUMENT);
        CHECK(mentions(error, std::to_string(count + 4)));
        CachePtr small = make_cache(cache_context(), cache_config(to, 49, 1, 7));
        const mha_status status = mha_cache_load(small.get(), 0, blob.data(), blob.size(), nullptr);
        const bool full = count == 50 && to != MHA_CACHE_RING;
        CHECK(status == (full ? MHA_ERR_FULL : MHA_OK));
        CHECK(mha_cache_length(small.get(), 0) == (full ? 0 : count));
      }
    }
  }
}

TEST_CASE("cache blob: a ring that has dropped tokens", "[cache][blob]") {
  const mha_cache_config config = cache_config(MHA_CACHE_RING, 40, 1, 0, 20);
  CachePtr source = make_cache(cache_context(), config);
  const Tokens tokens = random_tokens(config, 400, 231000);
  require_append(source.get(), 0, tokens);
  const int64_t first = mha_cache_first_kept(source.get(), 0);
  REQUIRE(first > 300);
  const Bytes blob = saved(source.get(), 0);
  CHECK(blob.size() == kHeader + static_cast<size_t>(20 + 400 - first) * 2 * 8 * 4);
  for (int64_t capacity : {1, 40, 47, 300, 1000}) {
    for (int64_t sink : {0, 7, 20, 21}) {
      INFO("capacity " << capacity << " sink " << sink);
      CachePtr ring = make_cache(cache_context(), cache_config(MHA_CACHE_RING, capacity, 1, 0, sink));
      mha_error error = {};
      const mha_status status = mha_cache_load(ring.get(), 0, blob.data(), blob.size(), &error);
      if (sink > 20) {
        CHECK(status == MHA_ERR_UNSUPPORTED);
        CHECK(mentions(error, "[20, " + std::to_string(first) + ")"));
        CHECK(mha_cache_used_bytes(ring.get()) == 0);
        continue;
      }
      REQUIRE(status == MHA_OK);
      CHECK(mha_cache_length(ring.get(), 0) == 400);
      const int64_t now = mha_cache_first_kept(ring.get(), 0);
      CHECK(now >= first);
      CHECK(now <= std::max(first, 400 - capacity));
      check_same_tokens("end", exported(ring.get(), 0, now, 400 - now), slice(config, tokens, now, 400 - now));
      check_same_tokens("sink", exported(ring.get(), 0, 0, sink), slice(config, tokens, 0, sink));
      // Rolled back to the first that is kept, and emptied: every page comes back.
      CHECK(mha_cache_truncate(ring.get(), 0, now, nullptr) == MHA_OK);
      CHECK(mha_cache_truncate(ring.get(), 0, now - 1, nullptr) == MHA_ERR_ARGUMENT);
      REQUIRE(mha_cache_remove(ring.get(), 0, nullptr) == MHA_OK);
      CHECK(mha_cache_used_bytes(ring.get()) == 0);
    }
  }
  for (mha_cache_kind kind : {MHA_CACHE_CONTIGUOUS, MHA_CACHE_PAGED}) {
    CachePtr other = make_cache(cache_context(), cache_config(kind, 1000));
    CHECK(mha_cache_load(other.get(), 0, blob.data(), blob.size(), nullptr) == MHA_ERR_UNSUPPORTED);
    CHECK(mha_cache_length(other.get(), 0) == 0);
  }
}

TEST_CASE("cache blob: a longer ring gives back the pages it grew by, also where older ones would have been",
          "[cache][blob]") {
  // Tokens 896 on, of pages of 64, in a ring that has room for 11 of them: growing takes turns that were never held.
  const CachePtr source = make_cache(cache_context(), cache_config(MHA_CACHE_RING, 64));
  const mha_cache_config config = cache_config(MHA_CACHE_RING, 640, 2, 0, 3);
  require_append(source.get(), 0, random_tokens(config, 1000, 236000));
  REQUIRE(mha_cache_first_kept(source.get(), 0) == 896);
  const Bytes blob = saved(source.get(), 0);
  const CachePtr ring = make_cache(cache_context(), cache_config(MHA_CACHE_RING, 640, 2));
  REQUIRE(mha_cache_load(ring.get(), 0, blob.data(), blob.size(), nullptr) == MHA_OK);
  const Tokens loaded = exported(ring.get(), 0, 896, 104);
  const size_t used = mha_cache_used_bytes(ring.get());
  for (const int64_t count : {1, 24, 25, 88, 300, 511}) {
    INFO(count << " more");
    require_append(ring.get(), 0, random_tokens(config, count, 236100));
    REQUIRE(mha_cache_first_kept(ring.get(), 0) == 896);
    REQUIRE(mha_cache_truncate(ring.get(), 0, 1000, nullptr) == MHA_OK);
    CHECK(mha_cache_used_bytes(ring.get()) == used);
    check_same_tokens("what was loaded", exported(ring.get(), 0, 896, 104), loaded);
  }
  REQUIRE(mha_cache_remove(ring.get(), 0, nullptr) == MHA_OK);
  CHECK(mha_cache_used_bytes(ring.get()) == 0);
}

TEST_CASE("cache blob: every damaged bit is refused", "[cache][blob]") {
  for (mha_cache_kind kind : kCacheKinds) {
    const mha_cache_config config = cache_config(kind, 16, 1, 7, 2);
    CachePtr source = make_cache(cache_context(), config), target = make_cache(cache_context(), config);
    require_append(source.get(), 0, random_tokens(config, kind == MHA_CACHE_RING ? 100 : 9, 232000));
    const Bytes good = saved(source.get(), 0);
    Bytes blob = good;
    for (size_t at = 0; at < blob.size(); ++at) {
      for (int bit = 0; bit < 8; ++bit) {
        INFO("byte " << at << " bit " << bit);
        blob[at] ^= static_cast<unsigned char>(1 << bit);
        check_refused(target.get(), blob, blob.size());
        blob[at] ^= static_cast<unsigned char>(1 << bit);
      }
    }
    // Two bits, which must not make up for each other.
    Random random(232001);
    for (int round = 0; round < 3000; ++round) {
      const auto any = [&] {
        return kHeader + static_cast<size_t>(random.below(static_cast<int64_t>(blob.size() - kHeader)));
      };
      const size_t a = any(), b = round % 2 != 0 && a + 64 < blob.size() ? a + 64 : any();
      if (a == b) continue;
      const unsigned char bit = static_cast<unsigned char>(1 << (round % 4 < 2 ? 7 : random.below(8)));
      blob[a] ^= bit;
      blob[b] ^= bit;
      check_refused(target.get(), blob, blob.size(), "tokens are damaged");
      blob = good;
    }
    CHECK(mha_cache_load(target.get(), 0, blob.data(), blob.size(), nullptr) == MHA_OK);
  }
}

TEST_CASE("cache blob: cut at every length", "[cache][blob]") {
  const mha_cache_config config = cache_config(MHA_CACHE_PAGED, 32);
  CachePtr source = make_cache(cache_context(), config), target = make_cache(cache_context(), config);
  require_append(source.get(), 0, random_tokens(config, 5, 233000));
  const Bytes blob = saved(source.get(), 0);
  for (size_t bytes = 0; bytes < blob.size(); ++bytes) {
    const Bytes cut(blob.begin(), blob.begin() + static_cast<std::ptrdiff_t>(bytes));
    if (bytes > 0) check_refused(target.get(), cut, bytes);  // an empty vector's data may be NULL
  }
  check_refused(target.get(), blob, 0);
  Bytes longer = blob;
  longer.resize(blob.size() + 100);
  CHECK(mha_cache_load(target.get(), 0, longer.data(), longer.size(), nullptr) == MHA_OK);
}

TEST_CASE("cache blob: other sizes, another version, a hostile header with a right checksum", "[cache][blob]") {
  const mha_cache_config config = cache_config(MHA_CACHE_RING, 64, 1, 0, 4);
  CachePtr source = make_cache(cache_context(), config), target = make_cache(cache_context(), config);
  require_append(source.get(), 0, random_tokens(config, 30, 234000));
  const Bytes good = saved(source.get(), 0);
  uint64_t sum = 0;
  std::memcpy(&sum, good.data() + kHeader - 8, 8);
  REQUIRE(sum == header_sum(good));  // this is how headers are signed
  Bytes blob = good;
  blob[8] = 9;
  check_refused(target.get(), blob, blob.size(), "version 9");
  blob = good;
  std::reverse(blob.begin() + 12, blob.begin() + 16);
  check_refused(target.get(), blob, blob.size(), "byte order");
  for (size_t field = 0; field < 3; ++field) {
    mha_cache_config other = config;
    (field == 0 ? other.num_kv_heads : field == 1 ? other.head_dim : other.value_head_dim) += 1;
    CachePtr wide = make_cache(cache_context(), other);
    check_refused(wide.get(), good, good.size(), "2 key/value heads of 5 and 3");
  }
  for (size_t field : {kHeads, kWidth, kValueWidth, kLength, kLeading, kFirstKept, kBytes}) {
    for (uint64_t value : {uint64_t{0}, uint64_t{1}, uint64_t{29}, uint64_t{31}, uint64_t{1} << 31, uint64_t{1} << 61,
                           uint64_t{1} << 62, uint64_t{1} << 63, ~uint64_t{0}, uint64_t{0x7ffffffffffffff0}}) {
      blob = good;
      if (std::memcmp(blob.data() + field, &value, 8) == 0) continue;
      set_field(&blob, field, value);
      set_field(&blob, kHeader - 8, header_sum(blob));
      INFO("field at " << field << " value " << value);
      check_refused(target.get(), blob, blob.size());
    }
  }
  // Storage, value_in_key and reserved words, which a later version may use.
  for (size_t at = kKeyStorage; at < kHeader - 8; at += 4) {
    blob = good;
    blob[at] ^= 1;
    set_field(&blob, kHeader - 8, header_sum(blob));
    INFO("word at " << at);
    check_refused(target.get(), blob, blob.size());
  }
  // Fields that agree with each other, about tokens that are not there.
  blob = good;
  set_field(&blob, kLength, uint64_t{1} << 40);
  set_field(&blob, kBytes, kHeader + (uint64_t{1} << 40) * 2 * 8 * 4);
  set_field(&blob, kHeader - 8, header_sum(blob));
  check_refused(target.get(), blob, blob.size(), "bytes is");
  // As many tokens as there are, but some of them twice.
  blob = good;
  set_field(&blob, kLength, 25);
  set_field(&blob, kLeading, 10);
  set_field(&blob, kFirstKept, 5);
  set_field(&blob, kHeader - 8, header_sum(blob));
  check_refused(target.get(), blob, blob.size(), "unsound");
  // As many tokens as there are, from a beginning behind the end, with a negative count, or with some kept twice.
  for (const auto& [length, leading, first_kept] :
       {std::array<int64_t, 3>{40, 35, 45}, {45, -5, 10}, {20, 0, -10}, {19, -1, -12}, {25, 5, 0}}) {
    blob = good;
    set_field(&blob, kLength, static_cast<uint64_t>(length));
    set_field(&blob, kLeading, static_cast<uint64_t>(leading));
    set_field(&blob, kFirstKept, static_cast<uint64_t>(first_kept));
    set_field(&blob, kHeader - 8, header_sum(blob));
    INFO("length " << length << " leading " << leading << " first kept " << first_kept);
    REQUIRE(leading + length - first_kept == 30);
    check_refused(target.get(), blob, blob.size(), "unsound");
  }
  // Two ranges without a gap: nothing was dropped, which has one form only, and other caches could take.
  for (const uint64_t at : {1, 4, 29}) {
    blob = good;
    set_field(&blob, kLeading, at);
    set_field(&blob, kFirstKept, at);
    set_field(&blob, kHeader - 8, header_sum(blob));
    check_refused(target.get(), blob, blob.size(), "unsound");
  }
  // Nearly all tokens dropped: as sound as any, and small.
  blob = good;
  set_field(&blob, kLength, (uint64_t{1} << 61) + 29);
  set_field(&blob, kLeading, 4);
  set_field(&blob, kFirstKept, (uint64_t{1} << 61) + 3);
  set_field(&blob, kHeader - 8, header_sum(blob));
  REQUIRE(mha_cache_load(target.get(), 0, blob.data(), blob.size(), nullptr) == MHA_OK);
  CHECK(mha_cache_length(target.get(), 0) == (int64_t{1} << 61) + 29);
}

TEST_CASE("cache blob: NULL, alignment, a buffer that is too small", "[cache][blob][status]") {
  const mha_cache_config config = cache_config(MHA_CACHE_CONTIGUOUS, 32);
  CachePtr cache = make_cache(cache_context(), config);
  require_append(cache.get(), 0, random_tokens(config, 5, 235000));
  size_t bytes = 0;
  REQUIRE(mha_cache_save_bytes(cache.get(), 0, &bytes, nullptr) == MHA_OK);
  Bytes blob(bytes + 4, 0x5a);
  mha_error error = {};
  CHECK(mha_cache_save(cache.get(), 0, nullptr, bytes, &error) == MHA_ERR_NULL);
  CHECK(mentions(error, "blob is NULL"));
  CHECK(mha_cache_load(cache.get(), 0, nullptr, bytes, &error) == MHA_ERR_NULL);
  CHECK(mha_cache_save(cache.get(), 1, blob.data(), bytes, &error) == MHA_ERR_ARGUMENT);
  CHECK(mha_cache_load(cache.get(), -1, blob.data(), bytes, &error) == MHA_ERR_ARGUMENT);
  for (size_t shift : {1, 2, 3}) {
    CHECK(mha_cache_save(cache.get(), 0, blob.data() + shift, bytes, &error) == MHA_ERR_ARGUMENT);
    CHECK(mentions(error, "aligned to 4"));
    CHECK(mha_cache_load(cache.get(), 0, blob.data() + shift, bytes, &error) == MHA_ERR_ARGUMENT);
    CHECK(mentions(error, "aligned to 4"));
  }
  for (size_t small : {size_t{0}, size_t{1}, bytes - 1}) {
    CHECK(mha_cache_save(cache.get(), 0, blob.data(), small, &error) == MHA_ERR_BUFFER);
    CHECK(mentions(error, std::to_string(small)));
    CHECK(mentions(error, std::to_string(bytes)));
  }
  CHECK(std::all_of(blob.begin(), blob.end(), [](unsigned char byte) { return byte == 0x5a; }));
  CHECK(mha_cache_save(cache.get(), 0, blob.data() + 4, bytes, &error) == MHA_OK);
}
