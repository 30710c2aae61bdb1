// SPDX-License-Identifier: Apache-2.0
// Every status of the calls on a cache: which arguments give it, a message that names the argument and its value, and a
// cache that is as it was.
#include <functional>

#include "tests/support/caches.h"
#include "tests/support/calls.h"

using namespace mha::test;

namespace {

constexpr int64_t kHuge = int64_t{1} << 61;

void check_error(mha_status got, mha_status want, const mha_error& error, const std::vector<std::string>& texts) {
  CHECK(std::string(mha_status_string(got)) == mha_status_string(want));
  CHECK(error.status == got);
  for (const std::string& text : texts) {
    if (!mentions(error, text)) FAIL_CHECK("\"" << error.message << "\" does not mention \"" << text << "\"");
  }
}

struct ConfigMistake {
  mha_status status;
  std::vector<std::string> texts;
  std::function<void(mha_cache_config&)> make;
};

#define MISTAKE(...) [](mha_cache_config& config) { __VA_ARGS__; }

const ConfigMistake kConfigMistakes[] = {
    {MHA_ERR_ARGUMENT, {"kind", "3"}, MISTAKE(config.kind = static_cast<mha_cache_kind>(3))},
    {MHA_ERR_ARGUMENT, {"kind", "-1"}, MISTAKE(config.kind = static_cast<mha_cache_kind>(-1))},
    {MHA_ERR_ARGUMENT, {"num_kv_heads", "0"}, MISTAKE(config.num_kv_heads = 0)},
    {MHA_ERR_ARGUMENT, {"head_dim", "-4"}, MISTAKE(config.head_dim = -4)},
    {MHA_ERR_ARGUMENT, {"value_head_dim", "-5"}, MISTAKE(config.value_head_dim = -5)},
    {MHA_ERR_ARGUMENT, {"max_sequences", "-6"}, MISTAKE(config.max_sequences = -6)},
    {MHA_ERR_ARGUMENT, {"capacity", "0"}, MISTAKE(config.capacity = 0)},
    {MHA_ERR_ARGUMENT, {"page_size", "-7"}, MISTAKE(config.page_size = -7)},
    {MHA_ERR_ARGUMENT, {"sink_tokens", "-8"}, MISTAKE(config.sink_tokens = -8)},
    {MHA_ERR_OVERFLOW, {"capacity", std::to_string(2 * kHuge + 1)}, MISTAKE(config.capacity = 2 * kHuge + 1)},
    {MHA_ERR_OVERFLOW, {"capacity", std::to_string(kHuge)}, MISTAKE(config.capacity = kHuge)},
    {MHA_ERR_OVERFLOW, {"head_dim", std::to_string(kHuge)}, MISTAKE(config.head_dim = kHuge)},
    {MHA_ERR_OVERFLOW, {"num_kv_heads", std::to_string(kHuge)}, MISTAKE(config.num_kv_heads = kHuge)},
    {MHA_ERR_OVERFLOW, {"max_sequences", std::to_string(kHuge)}, MISTAKE(config.max_sequences = kHuge)},
};

#undef MISTAKE

struct Call {
  mha_cache_config config = cache_config(MHA_CACHE_PAGED, 64, 4, 16);
  CachePtr cache = make_cache(cache_context(), config);
  Tokens before = random_tokens(config, 20, 220000), tokens = random_tokens(config, 12, 220001);
  std::vector<int64_t> sequences = {2, 0, 1};
  std::vector<int64_t> offsets = {0, 5, 5, 12};
  mha_append_args args = {};

  Call() {
    require_append(cache.get(), 0, before);
    args.batch = 3;
    args.sequences = sequences.data();
    args.length = 12;
    args.offsets = offsets.data();
    args.key = view(tokens.key.data());
    args.value = view(tokens.value.data());
  }
};

/// The same row for every token: as many as a test likes.
void repeat_rows(Call& call) {
  for (mha_view* view : {&call.args.key, &call.args.value}) {
    view->stride_b = view->stride_t = view->stride_h = MHA_BROADCAST;
  }
}

struct AppendMistake {
  mha_status status;
  std::vector<std::string> texts;
  std::function<void(Call&)> make;
};

#define MISTAKE(...) [](Call& call) { __VA_ARGS__; }

const AppendMistake kAppendMistakes[] = {
    {MHA_ERR_NULL, {"key.data is NULL"}, MISTAKE(call.args.key.data = nullptr)},
    {MHA_ERR_NULL, {"value.data is NULL"}, MISTAKE(call.args.value.data = nullptr)},
    {MHA_ERR_ARGUMENT, {"batch", "-1"}, MISTAKE(call.args.batch = -1)},
    {MHA_ERR_ARGUMENT, {"length", "-2"}, MISTAKE(call.args.length = -2)},
    {MHA_ERR_ARGUMENT, {"length", "11"}, MISTAKE(call.args.length = 11)},
    {MHA_ERR_ARGUMENT, {"offsets[0]", "1"}, MISTAKE(call.offsets[0] = 1)},
    {MHA_ERR_ARGUMENT, {"offsets[2]", "4", "(5)"}, MISTAKE(call.offsets[2] = 4)},
    {MHA_ERR_ARGUMENT, {"offsets[3]", "13"}, MISTAKE(call.offsets[3] = 13)},
    {MHA_ERR_ARGUMENT, {"sequences[1]", "4"}, MISTAKE(call.sequences[1] = 4)},
    {MHA_ERR_ARGUMENT, {"sequences[0]", "-1"}, MISTAKE(call.sequences[0] = -1)},
    {MHA_ERR_ARGUMENT, {"sequences[2]", "2", "distinct"}, MISTAKE(call.sequences[2] = 2)},
    {MHA_ERR_ARGUMENT,
     {"batch", "5", "4 sequences"},
     MISTAKE(call.args.batch = 5; call.args.sequences = nullptr; call.args.offsets = nullptr)},
    {MHA_ERR_STRIDE, {"key.stride_t", "-2"}, MISTAKE(call.args.key.stride_t = -2)},
    {MHA_ERR_STRIDE, {"value.stride_h", "-3"}, MISTAKE(call.args.value.stride_h = -3)},
    {MHA_ERR_OVERFLOW, {"value"}, MISTAKE(call.args.value.stride_t = int64_t{1} << 60; call.args.value.stride_h = 8)},
    {MHA_ERR_UNSUPPORTED, {"key.dtype", "MHA_I8"}, MISTAKE(call.args.key.dtype = MHA_I8)},
    {MHA_ERR_ARGUMENT, {"key", "reserved"}, MISTAKE(call.args.key.reserved = 1)},
    {MHA_ERR_ARGUMENT, {"args.reserved[3] is not 0"}, MISTAKE(call.args.reserved[3] = 1)},
    {MHA_ERR_OVERFLOW,
     {"batch", "length"},
     MISTAKE(call.args.offsets = nullptr; call.args.length = kHuge; call.args.batch = 4; call.sequences.push_back(3);
             call.args.sequences = call.sequences.data(); repeat_rows(call))},
    {MHA_ERR_FULL,
     {"3 pages", "2 of 4 are free"},
     MISTAKE(call.args.offsets = nullptr; call.args.length = 16; repeat_rows(call))},
    {MHA_ERR_FULL,
     {"sequence 0", "20", "64", "45"},
     MISTAKE(call.args.offsets = nullptr; call.args.length = 45; call.args.batch = 1; call.sequences[0] = 0;
             repeat_rows(call))},
};

#undef MISTAKE

}  // namespace

TEST_CASE("cache status: configurations", "[cache][status]") {
  for (const ConfigMistake& mistake : kConfigMistakes) {
    for (mha_cache_kind kind : kCacheKinds) {
      mha_cache_config config = cache_config(kind, 32, 2, 16);
      mistake.make(config);
      size_t bytes = 77;
      mha_cache* cache = reinterpret_cast<mha_cache*>(&bytes);
      mha_error error = {};
      check_error(mha_cache_memory_bytes(&config, &bytes, &error), mistake.status, error, mistake.texts);
      error = {};
      check_error(mha_cache_create(cache_context(), &config, &cache, &error), mistake.status, error, mistake.texts);
      CHECK(bytes == 77);
      CHECK(cache == nullptr);
    }
  }
  const mha_cache_config config = cache_config(MHA_CACHE_RING, 32);
  size_t bytes = 0;
  mha_cache* cache = nullptr;
  CHECK(mha_cache_memory_bytes(nullptr, &bytes, nullptr) == MHA_ERR_NULL);
  CHECK(mha_cache_memory_bytes(&config, nullptr, nullptr) == MHA_ERR_NULL);
  CHECK(mha_cache_create(nullptr, &config, &cache, nullptr) == MHA_ERR_NULL);
  CHECK(mha_cache_create(cache_context(), nullptr, &cache, nullptr) == MHA_ERR_NULL);
  CHECK(mha_cache_create(cache_context(), &config, nullptr, nullptr) == MHA_ERR_NULL);
}

TEST_CASE("cache status: append", "[cache][status]") {
  for (const AppendMistake& mistake : kAppendMistakes) {
    Call call;
    mistake.make(call);
    const size_t used = mha_cache_used_bytes(call.cache.get());
    mha_error error = {};
    check_error(mha_cache_append(cache_context(), call.cache.get(), &call.args, &error), mistake.status, error,
                mistake.texts);
    CHECK(mha_cache_used_bytes(call.cache.get()) == used);
    for (int64_t s = 0; s < 4; ++s) CHECK(mha_cache_length(call.cache.get(), s) == (s == 0 ? 20 : 0));
    check_same_tokens("as it was", exported(call.cache.get(), 0, 0, 20), call.before);
    // Nothing of the failed call is left over: the right one works.
    Call right;
    right.args.sequences = right.sequences.data();
    CHECK(mha_cache_append(cache_context(), call.cache.get(), &right.args, nullptr) == MHA_OK);
  }
  Call call;
  CHECK(mha_cache_append(nullptr, call.cache.get(), &call.args, nullptr) == MHA_ERR_NULL);
  CHECK(mha_cache_append(cache_context(), nullptr, &call.args, nullptr) == MHA_ERR_NULL);
  CHECK(mha_cache_append(cache_context(), call.cache.get(), nullptr, nullptr) == MHA_ERR_NULL);
}

TEST_CASE("cache status: a contiguous sequence that is full, a ring's endless one", "[cache][status]") {
  CachePtr cache = make_cache(cache_context(), cache_config(MHA_CACHE_CONTIGUOUS, 30, 2));
  const Tokens tokens = random_tokens(config_of(cache.get()), 40, 221000);
  require_append(cache.get(), 1, slice(config_of(cache.get()), tokens, 0, 25));
  mha_error error = {};
  check_error(append(cache_context(), cache.get(), 1, slice(config_of(cache.get()), tokens, 0, 6), &error),
              MHA_ERR_FULL, error, {"sequence 1", "25", "30", "6"});
  // Broadcast rows: a count that no memory holds. A ring's length ends at 2^62.
  mha_append_args args = {};
  args.batch = 1;
  args.length = 2 * kHuge;
  args.key = view(tokens.key.data(), {0, MHA_BROADCAST, 5});
  args.value = view(tokens.value.data(), {0, MHA_BROADCAST, 3});
  CachePtr ring = make_cache(cache_context(), cache_config(MHA_CACHE_RING, 30));
  require_append(ring.get(), 0, tokens);
  check_error(mha_cache_append(cache_context(), ring.get(), &args, &error), MHA_ERR_OVERFLOW, error, {"length"});
  CHECK(mha_cache_length(ring.get(), 0) == 40);
}

TEST_CASE("cache status: one sequence", "[cache][status]") {
  const mha_cache_config config = cache_config(MHA_CACHE_RING, 32, 3, 0, 10);
  CachePtr cache = make_cache(cache_context(), config);
  mha_cache* c = cache.get();
  require_append(c, 0, random_tokens(config, 500, 222000));
  require_append(c, 1, random_tokens(config, 4, 222001));
  const int64_t first = mha_cache_first_kept(c, 0);
  REQUIRE(first > 20);
  const std::string first_text = std::to_string(first);
  mha_error error = {};
  for (int64_t sequence : {-1, 3}) {
    const std::string text = std::to_string(sequence);
    check_error(mha_cache_truncate(c, sequence, 0, &error), MHA_ERR_ARGUMENT, error, {"sequence", text});
    check_error(mha_cache_remove(c, sequence, &error), MHA_ERR_ARGUMENT, error, {"sequence", text});
    check_error(mha_cache_fork(c, sequence, 2, 0, &error), MHA_ERR_ARGUMENT, error, {"source", text});
    check_error(mha_cache_fork(c, 0, sequence, 0, &error), MHA_ERR_ARGUMENT, error, {"destination", text});
    CHECK(mha_cache_length(c, sequence) == -1);
    CHECK(mha_cache_first_kept(c, sequence) == -1);
    CHECK(mha_cache_room(c, sequence) == -1);
    size_t bytes = 77;
    check_error(mha_cache_save_bytes(c, sequence, &bytes, &error), MHA_ERR_ARGUMENT, error, {"sequence", text});
    CHECK(bytes == 77);
  }
  for (int64_t length : {int64_t{-1}, int64_t{501}, int64_t{11}, first - 1}) {
    check_error(mha_cache_truncate(c, 0, length, &error), MHA_ERR_ARGUMENT, error, {std::to_string(length)});
  }
  for (int64_t length : {int64_t{-2}, int64_t{501}, int64_t{11}, first - 1}) {
    check_error(mha_cache_fork(c, 0, 2, length, &error), MHA_ERR_ARGUMENT, error, {std::to_string(length)});
  }
  check_error(mha_cache_truncate(c, 0, 20, &error), MHA_ERR_ARGUMENT, error, {"20", "from " + first_text});
  check_error(mha_cache_fork(c, 0, 1, -1, &error), MHA_ERR_ARGUMENT, error, {"destination is 1", "4 tokens"});
  check_error(mha_cache_fork(c, 2, 2, -1, &error), MHA_ERR_ARGUMENT, error, {"destination is 2", "source"});

  std::vector<float> key = poisoned(500 * 10), value = poisoned(500 * 6);
  const mha_mut_view k = mut_view(key.data()), v = mut_view(value.data());
  const auto refused = [&](mha_status want, int64_t sequence, int64_t begin, int64_t count, const mha_mut_view& keys,
                           const mha_mut_view& values, const std::vector<std::string>& texts) {
    mha_export_args args = {};
    args.sequence = sequence, args.begin = begin, args.count = count, args.key = keys, args.value = values;
    check_error(mha_cache_export(c, &args, &error), want, error, texts);
  };
  refused(MHA_ERR_ARGUMENT, 0, 400, 101, k, v, {"400", "101", "500"});
  refused(MHA_ERR_ARGUMENT, 0, 5, 6, k, v, {"begin 5", "count 6", "first 10", "from " + first_text});
  refused(MHA_ERR_ARGUMENT, 0, first - 1, 2, k, v, {first_text});
  refused(MHA_ERR_ARGUMENT, 0, -1, 2, k, v, {"begin", "-1"});
  refused(MHA_ERR_ARGUMENT, 0, 1, -2, k, v, {"count", "-2"});
  refused(MHA_ERR_ARGUMENT, 7, 0, 0, k, v, {"sequence", "7"});
  refused(MHA_ERR_NULL, 0, 0, 2, {}, v, {"key.data is NULL"});
  refused(MHA_ERR_NULL, 0, 0, 2, k, {}, {"value.data is NULL"});
  refused(MHA_ERR_STRIDE, 0, 0, 2, mut_view(key.data(), {0, 4, 5}), v, {"key.stride", "4"});
  refused(MHA_ERR_STRIDE, 0, 0, 2, k, mut_view(value.data(), {0, 6, MHA_BROADCAST}), {"value.stride_h", "-1"});
  refused(MHA_ERR_STRIDE, 0, 0, 2, k, mut_view(key.data()), {"value", "key"});
  check_error(mha_cache_export(c, nullptr, &error), MHA_ERR_NULL, error, {"args is NULL"});
  CHECK(std::all_of(key.begin(), key.end(), is_poison));
  CHECK(std::all_of(value.begin(), value.end(), is_poison));

  CHECK(mha_cache_length(c, 0) == 500);
  CHECK(mha_cache_length(c, 1) == 4);
  CHECK(mha_cache_length(c, 2) == 0);
}

TEST_CASE("cache status: what a kind of cache has none of", "[cache][status]") {
  struct Mistake {
    mha_status status;
    std::vector<std::string> texts;
    std::function<bool(mha_cache_config&)> make;  // false: this kind has it
  };
  const Mistake mistakes[] = {
      {MHA_ERR_ARGUMENT,
       {"page_size is 16", "MHA_CACHE_PAGED"},
       [](mha_cache_config& c) {
         c.page_size = 16;
         return c.kind != MHA_CACHE_PAGED;
       }},
      {MHA_ERR_ARGUMENT,
       {"sink_tokens is 3", "MHA_CACHE_RING"},
       [](mha_cache_config& c) {
         c.sink_tokens = 3;
         return c.kind != MHA_CACHE_RING;
       }},
      {MHA_ERR_UNSUPPORTED, {"value_in_key is 1"}, [](mha_cache_config& c) { return c.value_in_key = 1; }},
      {MHA_ERR_UNSUPPORTED,
       {"key.dtype is MHA_Q8_0"},
       [](mha_cache_config& c) { return c.key.dtype = MHA_Q8_0, true; }},
      {MHA_ERR_ARGUMENT, {"config.reserved[7] is not 0"}, [](mha_cache_config& c) { return c.reserved[7] = 1; }},
  };
  for (const Mistake& mistake : mistakes) {
    for (mha_cache_kind kind : kCacheKinds) {
      mha_cache_config config = cache_config(kind, 32, 2);
      if (!mistake.make(config)) continue;
      size_t bytes = 77;
      mha_cache* cache = reinterpret_cast<mha_cache*>(&bytes);
      mha_error error = {};
      check_error(mha_cache_memory_bytes(&config, &bytes, &error), mistake.status, error, mistake.texts);
      check_error(mha_cache_create(cache_context(), &config, &cache, &error), mistake.status, error, mistake.texts);
      CHECK(bytes == 77);
      CHECK(cache == nullptr);
    }
  }
  // memory_bytes of no memory: nothing to the size query, refused by create.
  mha_cache_config config = cache_config(MHA_CACHE_PAGED, 32);
  config.memory_bytes = 4096;
  size_t bytes = 0;
  mha_cache* cache = nullptr;
  mha_error error = {};
  CHECK(mha_cache_memory_bytes(&config, &bytes, &error) == MHA_OK);
  check_error(mha_cache_create(cache_context(), &config, &cache, &error), MHA_ERR_ARGUMENT, error,
              {"memory_bytes is 4096"});
  CHECK(cache == nullptr);
}

TEST_CASE("cache status: NULL caches", "[cache][status]") {
  const mha_export_args args = {};
  size_t bytes = 77;
  float blob[64] = {};
  CHECK(mha_cache_truncate(nullptr, 0, 0, nullptr) == MHA_ERR_NULL);
  CHECK(mha_cache_fork(nullptr, 0, 1, 0, nullptr) == MHA_ERR_NULL);
  CHECK(mha_cache_remove(nullptr, 0, nullptr) == MHA_ERR_NULL);
  CHECK(mha_cache_export(nullptr, &args, nullptr) == MHA_ERR_NULL);
  CHECK(mha_cache_save(nullptr, 0, blob, sizeof(blob), nullptr) == MHA_ERR_NULL);
  CHECK(mha_cache_load(nullptr, 0, blob, sizeof(blob), nullptr) == MHA_ERR_NULL);
  CHECK(mha_cache_save_bytes(nullptr, 0, &bytes, nullptr) == MHA_ERR_NULL);
  CachePtr cache = make_cache(cache_context(), cache_config(MHA_CACHE_PAGED, 32));
  CHECK(mha_cache_save_bytes(cache.get(), 0, nullptr, nullptr) == MHA_ERR_NULL);
  CHECK(bytes == 77);
  CHECK(mha_cache_reserve(nullptr, nullptr) == MHA_ERR_NULL);
  CHECK(mha_cache_length(nullptr, 0) == -1);
  CHECK(mha_cache_first_kept(nullptr, 0) == -1);
  CHECK(mha_cache_room(nullptr, 0) == -1);
  CHECK(mha_cache_used_bytes(nullptr) == 0);
  mha_cache_reset(nullptr);
  mha_cache_destroy(nullptr);
}
