// SPDX-License-Identifier: Apache-2.0
// Caches of codes beside what test_widening_cache and test_widening_decode draw: how storages are refused and read back,
// fixed scales, what NaN and Inf become, sizes.
#include <cmath>

#include "tests/support/quantise.h"
#include "tests/support/random_typed.h"
#include "tests/support/status.h"

using namespace mha::test;

namespace {

mha_cache_config codes_config(const mha_storage& key, const mha_storage& value) {
  mha_cache_config config = cache_config(MHA_CACHE_PAGED, 64, 2, 16);
  config.head_dim = 40, config.value_head_dim = 24;
  config.key = key, config.value = value;
  return config;
}

mha_storage storage_of(mha_dtype dtype, int64_t group = 0, int zero_points = 0, mha_dtype scale_dtype = MHA_F32) {
  mha_storage s = {};
  s.dtype = dtype, s.scale_dtype = scale_dtype, s.group = group, s.zero_points = zero_points;
  return s;
}

}  // namespace

TEST_CASE("cache codes: storages that are refused name their field", "[cache][codes][status]") {
  using Config = mha_cache_config;
  const std::vector<float> scales(64, 0.5f);
  const char* odd = reinterpret_cast<const char*>(scales.data()) + 1;
  mha_quant fixed = {};
  fixed.scales = scales.data();
  mha_quant wrong;  // of the mistake under way
  mha_storage with_fixed = {};
  with_fixed.dtype = MHA_I8, with_fixed.fixed = &fixed;
  const auto change = [&](auto how) {
    return [&, how](Config& c) {
      wrong = fixed;
      how(wrong);
      c.key = with_fixed, c.key.fixed = &wrong;
    };
  };
  const auto create = [](const Config& config, mha_error* error) {
    mha_cache* cache = nullptr;
    const mha_status status = mha_cache_create(cache_context(), &config, &cache, error);
    CHECK((cache == nullptr) == (status != MHA_OK));
    size_t bytes = 12345;
    CHECK(mha_cache_memory_bytes(&config, &bytes, nullptr) == status);
    CHECK((bytes == 12345) == (status != MHA_OK));
    mha_cache_destroy(cache);
    return status;
  };
  check_mistakes<Config>(
      codes_config(storage_of(MHA_I8), storage_of(MHA_U4, 16, 1, MHA_F16)),
      {{MHA_ERR_UNSUPPORTED, {"key.dtype is MHA_Q8_0: codes are stored as"}, [](Config& c) { c.key.dtype = MHA_Q8_0; }},
       {MHA_ERR_UNSUPPORTED, {"value.dtype is MHA_Q4_0"}, [](Config& c) { c.value.dtype = MHA_Q4_0; }},
       {MHA_ERR_ARGUMENT, {"key.scale_dtype is 3: must be MHA_F32"}, [](Config& c) { c.key.scale_dtype = MHA_I8; }},
       {MHA_ERR_ARGUMENT,
        {"value.scale_dtype is 77"},
        [](Config& c) { c.value.scale_dtype = no_value<mha_dtype>(77); }},
       {MHA_ERR_ARGUMENT, {"key.group is -16"}, [](Config& c) { c.key.group = -16; }},
       {MHA_ERR_UNSUPPORTED, {"key.group is 24: must be a multiple of 16"}, [](Config& c) { c.key.group = 24; }},
       {MHA_ERR_UNSUPPORTED,
        {"value.hadamard is 1, but rows have 24 elements: must be a multiple of 16"},
        [](Config& c) { c.value.hadamard = 1; }},
       {MHA_ERR_ARGUMENT, {"key.reserved[0] is not 0"}, [](Config& c) { c.key.reserved[0] = 1; }},
       {MHA_ERR_ARGUMENT,
        {"value.scale_dtype, group", "MHA_F16, which has no scales"},
        [](Config& c) { c.value.dtype = MHA_F16; }},
       {MHA_ERR_ARGUMENT,
        {"key.group 16, zero_points 0, hadamard 0 and scale_dtype 0 beside fixed"},
        [&](Config& c) { c.key = with_fixed, c.key.group = 16; }},
       {MHA_ERR_ARGUMENT, {"zero_points 1"}, [&](Config& c) { c.key = with_fixed, c.key.zero_points = 1; }},
       {MHA_ERR_ARGUMENT, {"hadamard 1 and"}, [&](Config& c) { c.key = with_fixed, c.key.hadamard = 1; }},
       {MHA_ERR_ARGUMENT,
        {"scale_dtype 2 beside fixed"},
        [&](Config& c) { c.key = with_fixed, c.key.scale_dtype = MHA_BF16; }},
       {MHA_ERR_NULL, {"key.fixed.scales is NULL"}, change([](mha_quant& q) { q.scales = nullptr; })},
       {MHA_ERR_ARGUMENT, {"key.fixed.scales is at 0x"}, change([&](mha_quant& q) { q.scales = odd; })},
       {MHA_ERR_ARGUMENT, {"key.fixed.zeros is at 0x"}, change([&](mha_quant& q) {
          q.zeros = odd, q.zero_dtype = MHA_F16;
        })},
       {MHA_ERR_ARGUMENT, {"key.fixed.stride_b is given"}, change([](mha_quant& q) { q.stride_b = 1; })},
       {MHA_ERR_ARGUMENT, {"key.fixed.stride_t is given"}, change([](mha_quant& q) { q.stride_t = 1; })},
       {MHA_ERR_ARGUMENT, {"key.fixed.stride_d is given"}, change([](mha_quant& q) { q.stride_d = 1; })},
       {MHA_ERR_ARGUMENT, {"key.fixed.group_tokens is given"}, change([](mha_quant& q) { q.group_tokens = 1; })},
       {MHA_ERR_UNSUPPORTED, {"key.fixed.hadamard is 1, but rows have 40"}, change([](mha_quant& q) {
          q.hadamard = 1;
        })},
       {MHA_ERR_ARGUMENT, {"key.fixed.zero_dtype is given"}, change([](mha_quant& q) { q.zero_dtype = MHA_I8; })},
       {MHA_ERR_ARGUMENT, {"fixed.stride_h is -1"}, change([](mha_quant& q) { q.stride_h = -1; })},
       {MHA_ERR_OVERFLOW, {"key.fixed.scales with strides 4611686018427387904, 0"}, change([](mha_quant& q) {
          q.stride_h = kFar - 1;
        })},
       {MHA_ERR_ARGUMENT, {"fixed.group is -1"}, change([](mha_quant& q) { q.group = -1; })},
       {MHA_ERR_ARGUMENT, {"key.fixed.scale_dtype is 4"}, change([](mha_quant& q) { q.scale_dtype = MHA_U8; })},
       {MHA_ERR_UNSUPPORTED, {"key.fixed.zero_dtype is 6"}, change([&](mha_quant& q) {
          q.zeros = scales.data(), q.zero_dtype = MHA_U4;
        })},
       {MHA_ERR_ARGUMENT, {"key.fixed.reserved[1] is not 0"}, change([](mha_quant& q) { q.reserved[1] = 1; })},
       {MHA_ERR_ARGUMENT, {"key.fixed.reserved_int is not 0"}, change([](mha_quant& q) { q.reserved_int = 1; })},
       {MHA_ERR_ARGUMENT, {"key.fixed.group_index is given"}, change([](mha_quant& q) {
          static const int32_t index[1] = {};
          q.group_index = index;
        })}},
      create, [] { return true; });
}

TEST_CASE("cache codes: exports that are refused", "[cache][codes][status]") {
  using Export = mha_export_args;
  const mha_cache_config config = codes_config(storage_of(MHA_U4, 16, 1), storage_of(MHA_I8));
  const CachePtr cache = make_cache(cache_context(), config);
  require_append(cache.get(), 0, random_tokens(config, 3, 550000));
  std::vector<unsigned char> key(3 * 2 * 20, 7), key_zeros(3 * 2 * 3, 7), value(3 * 2 * 24, 7);
  std::vector<float> key_scales(3 * 2 * 3 + 1, 7), value_scales(3 * 2 + 1, 7);
  Export good = {};
  good.count = 3;
  good.key.data = key.data(), good.key.dtype = MHA_U4, good.key_scales = key_scales.data();
  good.key_zeros = key_zeros.data();
  good.value.data = value.data(), good.value.dtype = MHA_I8, good.value_scales = value_scales.data();
  const auto clean = [&] {
    const auto seven = [](const auto& all) { return std::count(all.begin(), all.end(), 7) == int64_t(all.size()); };
    return seven(key) && seven(key_zeros) && seven(value) && seven(key_scales) && seven(value_scales);
  };
  check_mistakes<Export>(
      good,
      {{MHA_ERR_UNSUPPORTED, {"key.dtype is MHA_I8: the cache keeps MHA_U4"}, [](Export& e) { e.key.dtype = MHA_I8; }},
       {MHA_ERR_UNSUPPORTED, {"key.dtype is MHA_Q4_0"}, [](Export& e) { e.key.dtype = MHA_Q4_0; }},
       {MHA_ERR_NULL, {"key_scales is NULL"}, [](Export& e) { e.key_scales = nullptr; }},
       {MHA_ERR_NULL, {"key_zeros is NULL"}, [](Export& e) { e.key_zeros = nullptr; }},
       {MHA_ERR_NULL, {"value_scales is NULL"}, [](Export& e) { e.value_scales = nullptr; }},
       {MHA_ERR_ARGUMENT, {"value_zeros is given"}, [&](Export& e) { e.value_zeros = key_zeros.data(); }},
       {MHA_ERR_ARGUMENT,
        {"key_scales is at 0x", "aligned to 4"},
        [&](Export& e) { e.key_scales = reinterpret_cast<char*>(key_scales.data()) + 1; }},
       {MHA_ERR_STRIDE,
        {"key.stride_h is 41: must be a multiple of 2"},
        [](Export& e) { e.key.stride_t = 100, e.key.stride_h = 41; }},
       {MHA_ERR_STRIDE, {"key_scales overlaps key"}, [&](Export& e) { e.key_scales = key.data(); }},
       {MHA_ERR_STRIDE, {"value_scales overlaps key_scales"}, [&](Export& e) { e.value_scales = key_scales.data(); }},
       {MHA_ERR_STRIDE, {"key_zeros overlaps"}, [&](Export& e) { e.key_zeros = key.data(); }},
       {MHA_ERR_ARGUMENT,
        {"value_scales is given, but no codes are exported"},
        [&](Export& e) { e.value.dtype = MHA_F16; }}},
      [&](const Export& e, mha_error* error) { return mha_cache_export(cache.get(), &e, error); }, clean);
  mha_error error = {};
  require_ok(mha_cache_export(cache.get(), &good, &error), error);
  CHECK(!clean());
}

TEST_CASE("cache codes: rows that are refused", "[rows][codes][status]") {
  using Args = mha_rows_args;
  const std::vector<float> input(2 * 3 * 2 * 32);
  std::vector<unsigned char> output(2 * 3 * 2 * 32, 7), zeros(2 * 3 * 2 * 2, 7);
  std::vector<float> scales(2 * 3 * 2 * 2, 7);
  const mha_storage storage = storage_of(MHA_U8, 16, 1), plain = storage_of(MHA_U8, 16), other = storage_of(MHA_I8);
  mha_quant quant = {};
  quant.scales = input.data();
  mha_storage fixed = {};
  fixed.dtype = MHA_U8, fixed.fixed = &quant;
  Args good = {};
  good.batch = 2, good.length = 3, good.num_heads = 2, good.head_dim = 32, good.input = view(input.data());
  good.output.data = output.data(), good.output.dtype = MHA_U8;
  good.storage = &storage, good.scales = scales.data(), good.zeros = zeros.data();
  check_mistakes<Args>(
      good,
      {{MHA_ERR_ARGUMENT,
        {"storage.dtype is MHA_I8, but output.dtype is MHA_U8"},
        [&](Args& a) { a.storage = &other; }},
       {MHA_ERR_NULL, {"scales is NULL"}, [](Args& a) { a.scales = nullptr; }},
       {MHA_ERR_NULL, {"zeros is NULL"}, [](Args& a) { a.zeros = nullptr; }},
       {MHA_ERR_ARGUMENT, {"zeros is given, but storage has no zero_points"}, [&](Args& a) { a.storage = &plain; }},
       {MHA_ERR_ARGUMENT,
        {"scales is given, but storage.fixed has them"},
        [&](Args& a) { a.storage = &fixed, a.zeros = nullptr; }},
       {MHA_ERR_STRIDE, {"scales overlaps output"}, [&](Args& a) { a.scales = output.data(); }},
       {MHA_ERR_STRIDE, {"zeros overlaps scales"}, [&](Args& a) { a.zeros = scales.data(); }},
       {MHA_ERR_STRIDE, {"output overlaps input"}, [&](Args& a) { a.output.data = const_cast<float*>(input.data()); }}},
      [](const Args& a, mha_error* error) { return mha_rows_prepare(cache_context(), &a, error); },
      [&] { return std::count(output.begin(), output.end(), 7) == int64_t(output.size()); });
  mha_error error = {};
  require_ok(mha_rows_prepare(cache_context(), &good, &error), error);
}

TEST_CASE("cache codes: get_config gives back storage and a copy of fixed scales", "[cache][codes]") {
  Random random(551000);
  for (int n = 0; n < 40; ++n) {
    CodeStorage key(random, 2, 40), value(random, 2, 24);
    INFO(key.describe() << ", " << value.describe());
    const mha_cache_config config = codes_config(key.storage(), value.storage());
    const CachePtr cache = make_cache(cache_context(), config);
    const mha_cache_config got = config_of(cache.get());
    for (const auto part : {&mha_cache_config::key, &mha_cache_config::value}) {
      const mha_storage &s = got.*part, &given = config.*part;
      CHECK(s.dtype == given.dtype);
      CHECK(s.scale_dtype == given.scale_dtype);
      CHECK(s.group == given.group);
      CHECK(s.zero_points == given.zero_points);
      REQUIRE((s.fixed == nullptr) == (given.fixed == nullptr));
      if (given.fixed == nullptr) continue;
      CHECK(s.fixed->scales != given.fixed->scales);
      CHECK(s.fixed->scale_dtype == given.fixed->scale_dtype);
    }
    // A cache that is made from what was read back stores the same.
    const CachePtr again = make_cache(cache_context(), got);
    const Tokens tokens = random_tokens(config, 20, 551000 + static_cast<uint64_t>(n));
    require_append(cache.get(), 0, tokens), require_append(again.get(), 0, tokens);
    check_same_tokens("again", exported(again.get(), 0, 0, 20), exported(cache.get(), 0, 0, 20));
  }
}

TEST_CASE("cache codes: fixed scales are copied", "[cache][codes]") {
  std::vector<float> scales = {0.25f, 0.5f};
  std::vector<int8_t> zeros = {3, -2};
  mha_quant quant = {};
  quant.scales = scales.data(), quant.zeros = zeros.data(), quant.zero_dtype = MHA_I8, quant.stride_h = 1;
  mha_storage fixed = {};
  fixed.dtype = MHA_I8, fixed.fixed = &quant;
  const mha_cache_config config = codes_config(fixed, storage_of(MHA_I8));
  const CachePtr cache = make_cache(cache_context(), config), same = make_cache(cache_context(), config);
  const Tokens tokens = random_tokens(config, 9, 555000);
  require_append(same.get(), 0, tokens);
  const Tokens want = exported(same.get(), 0, 0, 9);
  scales = {7, 7}, zeros = {9, 9};
  require_append(cache.get(), 0, tokens);
  check_same_tokens("copied", exported(cache.get(), 0, 0, 9), want);
}

TEST_CASE("cache codes: sequences that were rounded with other fixed scales are not loaded", "[cache][codes]") {
  std::vector<float> scales = {0.25f, 0.5f};
  mha_quant quant = {};
  quant.scales = scales.data(), quant.stride_h = 1;
  mha_storage fixed = {};
  fixed.dtype = MHA_I8, fixed.fixed = &quant;
  const mha_cache_config config = codes_config(fixed, storage_of(MHA_I4, 16));
  const CachePtr cache = make_cache(cache_context(), config), same = make_cache(cache_context(), config);
  require_append(cache.get(), 0, random_tokens(config, 9, 552000));
  mha_error error = {};
  size_t bytes = 0;
  require_ok(mha_cache_save_bytes(cache.get(), 0, &bytes, &error), error);
  std::vector<unsigned char> blob(bytes);
  require_ok(mha_cache_save(cache.get(), 0, blob.data(), bytes, &error), error);
  require_ok(mha_cache_load(same.get(), 1, blob.data(), bytes, &error), error);
  scales[1] = 0.75f;
  const CachePtr other = make_cache(cache_context(), config);
  check_error(mha_cache_load(other.get(), 1, blob.data(), bytes, &error), MHA_ERR_BLOB, error,
              {"blob's keys were rounded with other fixed scales"});
  scales[1] = 0.5f;
  // Zeros of the same bytes and another type.
  const int8_t below[] = {-1, -1};
  quant.zeros = below, quant.zero_dtype = MHA_I8;
  const CachePtr signed_zeros = make_cache(cache_context(), config);
  require_append(signed_zeros.get(), 0, random_tokens(config, 9, 552000));
  std::vector<unsigned char> zeros_blob(bytes);
  require_ok(mha_cache_save(signed_zeros.get(), 0, zeros_blob.data(), bytes, &error), error);
  quant.zero_dtype = MHA_U8;
  const CachePtr unsigned_zeros = make_cache(cache_context(), config);
  check_error(mha_cache_load(unsigned_zeros.get(), 1, zeros_blob.data(), bytes, &error), MHA_ERR_BLOB, error,
              {"blob's keys were rounded with other fixed scales"});
  quant.zeros = nullptr, quant.zero_dtype = MHA_F32;
  mha_cache_config grouped = config;
  grouped.value.group = 0;
  const CachePtr rows = make_cache(cache_context(), grouped);
  check_error(mha_cache_load(rows.get(), 1, blob.data(), bytes, &error), MHA_ERR_BLOB, error,
              {"blob keeps values as MHA_I4 with MHA_F32 scales of 16 elements", "the cache has MHA_I4"});
}

TEST_CASE("cache codes: a token that is not finite spoils its own rows alone", "[cache][codes]") {
  for (mha_dtype dtype : {MHA_I8, MHA_U8, MHA_I4, MHA_U4}) {
    const mha_cache_config config = codes_config(storage_of(dtype), storage_of(dtype, 16, 1, MHA_BF16));
    const CachePtr cache = make_cache(cache_context(), config);
    Tokens tokens = random_tokens(config, 4, 553000);
    tokens.key[1 * 80 + 40 + 7] = kInf;    // token 1, head 1
    tokens.value[2 * 48 + 0 + 20] = kNan;  // token 2, head 0, its second group
    require_append(cache.get(), 0, tokens);
    const Tokens got = exported(cache.get(), 0, 0, 4);
    for (int64_t n = 0; n < 4 * 80; ++n) CHECK(std::isnan(got.key[n]) == (n / 40 == 3));
    for (int64_t n = 0; n < 4 * 48; ++n) CHECK(std::isnan(got.value[n]) == (n / 24 == 4 && n % 24 >= 16));
  }
}

TEST_CASE("cache codes: a cache takes the bytes of its codes and scales", "[cache][codes]") {
  const auto bytes = [](const mha_storage& key, const mha_storage& value) {
    mha_cache_config config = cache_config(MHA_CACHE_CONTIGUOUS, 1024);
    config.num_kv_heads = 8, config.head_dim = 128, config.value_head_dim = 128;
    config.key = key, config.value = value;
    size_t memory = 0;
    mha_error error = {};
    require_ok(mha_cache_memory_bytes(&config, &memory, &error), error);
    return static_cast<int64_t>(memory) - 63;  // the slack for alignment
  };
  const int64_t rows = 1024 * 8;
  CHECK(bytes({}, {}) == rows * 2 * 512);
  CHECK(bytes(storage_of(MHA_I8), storage_of(MHA_I8)) == rows * 2 * (128 + 4));
  CHECK(bytes(storage_of(MHA_I8), storage_of(MHA_I4, 32, 0, MHA_F16)) == rows * (128 + 4 + 64 + 4 * 2));
  CHECK(bytes(storage_of(MHA_U4, 32, 1, MHA_F16), storage_of(MHA_F16)) == rows * (64 + 4 * 3 + 256));
}

TEST_CASE("cache codes: pages of 8 have the bits of one tensor", "[cache][codes][bits]") {
  for (const mha_storage& storage : {storage_of(MHA_I8), storage_of(MHA_I8, 32), storage_of(MHA_I4, 32, 0, MHA_F16)}) {
    mha_cache_config paged = cache_config(MHA_CACHE_PAGED, 400, 1, 8);
    paged.head_dim = paged.value_head_dim = 64, paged.key = paged.value = storage;
    mha_cache_config whole = paged;
    whole.kind = MHA_CACHE_CONTIGUOUS, whole.page_size = 0;
    const CachePtr pages = make_cache(cache_context(), paged), tensor = make_cache(cache_context(), whole);
    const Tokens tokens = random_tokens(paged, 333, 557000);
    require_append(pages.get(), 0, tokens), require_append(tensor.get(), 0, tokens);
    const std::vector<float> query = random_floats(4 * 64, 557001);
    for_each_target([&](const std::string& target, const mha_context* context) {
      INFO(target << " " << dtype_name(storage.dtype) << " groups of " << storage.group);
      std::vector<float> outputs[2] = {poisoned(4 * 64), poisoned(4 * 64)};
      for (int n = 0; n < 2; ++n) {
        AttentionCall args;
        args.batch = 1, args.num_heads = 4, args.num_kv_heads = 2, args.query_len = 1;
        args.head_dim = args.value_head_dim = 64, args.cache = n == 0 ? pages.get() : tensor.get();
        args.query = view(query.data()), args.output = mut_view(outputs[n].data());
        mha_error error = {};
        require_ok(attention(context, args, &error), error);
      }
      check_same_bits("pages of 8", outputs[0], outputs[1]);
    });
  }
}

TEST_CASE("cache codes: explain says how keys and values are stored", "[cache][codes][explain]") {
  const mha_cache_config config = codes_config(storage_of(MHA_I8, 16, 1), storage_of(MHA_I4));
  const CachePtr cache = make_cache(cache_context(), config);
  require_append(cache.get(), 0, random_tokens(config, 5, 554000));
  AttentionCall args;
  std::vector<float> query(2 * 40), output(2 * 24);
  args.batch = 1, args.num_heads = args.num_kv_heads = 2, args.query_len = 1;
  args.head_dim = 40, args.value_head_dim = 24, args.cache = cache.get();
  args.query = view(query.data()), args.output = mut_view(output.data());
  char text[8192];
  mha_error error = {};
  require_ok(attention_explain(cache_context(), args, text, sizeof text, nullptr, &error), error);
  CHECK(std::string(text).find("codes of keys: MHA_F32 scales of 16 elements of a row, zeros: MHA_I8") !=
        std::string::npos);
  CHECK(std::string(text).find("codes of values: MHA_F32 scales of whole rows, zeros: the type's own") !=
        std::string::npos);
}
