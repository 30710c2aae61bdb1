// SPDX-License-Identifier: Apache-2.0
// Keys normed and rotated on the way into a cache: the bits of mha_rows_prepare and then a plain append, on every
// target, for every kind, split and thread count; values are copied as they are.
#include <cfenv>

#include "tests/support/caches.h"
#include "tests/support/calls.h"

using namespace mha::test;

namespace {

/// What may be asked for. Each has its own part of a row, so that none can stand for another.
struct Preparation {
  const char* name;
  mha_rope rope;
  bool rotates;
  float epsilon;
  bool weighted;
};

std::vector<Preparation> preparations() {
  mha_rope half = {}, interleaved = {}, partial = {};
  interleaved.style = MHA_ROPE_INTERLEAVED;
  partial.dims = 4;
  partial.base = 500;
  return {{"half", half, true, 0, false},
          {"interleaved, norm", interleaved, true, 1e-5f, true},
          {"partial", partial, true, 0, false},
          {"norm alone", {}, false, 1e-6f, true},
          {"norm without weight", half, true, 1e-5f, false}};
}

mha_cache_config wide_config(mha_cache_kind kind, int64_t capacity) {
  mha_cache_config config = cache_config(kind, capacity, 3, 7, 5);
  config.num_kv_heads = 3;
  config.head_dim = 20;
  config.value_head_dim = 12;
  return config;
}

mha_norm norm_of(const Preparation& p, const std::vector<float>& weight) {
  mha_norm norm = {};
  norm.epsilon = p.epsilon, norm.weight = p.weighted ? weight.data() : nullptr;
  return norm;
}

/// Dense keys [count, Hkv, D] as mha_rows_prepare makes them.
std::vector<float> applied(const mha_context* context, const mha_cache_config& c, const Preparation& p,
                           const std::vector<float>& weight, const std::vector<float>& key, int64_t first,
                           const int64_t* positions) {
  std::vector<float> out = poisoned(static_cast<int64_t>(key.size()));
  mha_rows_args args = {};
  args.batch = 1;
  args.num_heads = c.num_kv_heads;
  args.head_dim = c.head_dim;
  args.length = static_cast<int64_t>(key.size()) / (c.num_kv_heads * c.head_dim);
  args.input = view(key.data());
  args.output = mut_view(out.data());
  args.first_position = first;
  if (p.rotates) args.positions = positions;
  args.rope = p.rotates ? &p.rope : nullptr;
  const mha_norm norm = norm_of(p, weight);
  if (p.epsilon > 0) args.norm = &norm;
  mha_error error = {};
  require_ok(mha_rows_prepare(context, &args, &error), error);
  return out;
}

mha_append_args append_args(const Preparation& p, const mha_norm& norm, const Tokens& tokens) {
  mha_append_args args = {};
  args.batch = 1;
  args.key = view(tokens.key.data());
  args.value = view(tokens.value.data());
  args.rope = p.rotates ? &p.rope : nullptr;
  if (p.epsilon > 0) args.key_norm = &norm;
  return args;
}

}  // namespace

TEST_CASE("cache prepare: appended at once or in pieces, as applied before", "[cache][prepare]") {
  constexpr int64_t kCount = 150;
  for_each_target([&](const std::string&, const mha_context* context) {
    for (mha_cache_kind kind : kCacheKinds) {
      for (const Preparation& p : preparations()) {
        INFO(kind_name(kind) << " " << p.name);
        const mha_cache_config c = wide_config(kind, kind == MHA_CACHE_RING ? 30 : kCount);
        const std::vector<float> weight = random_floats(c.head_dim, 250000);
        const mha_norm norm = norm_of(p, weight);
        const Tokens tokens = random_tokens(c, kCount, 250001);
        const Tokens want = {applied(context, c, p, weight, tokens.key, 0, nullptr), tokens.value};
        Random random(250003);
        for (int64_t most : {kCount, int64_t{1}, int64_t{17}}) {
          CachePtr cache = make_cache(context, c);
          for (int64_t done = 0; done < kCount;) {
            const int64_t count = most == kCount ? kCount : std::min(kCount - done, 1 + random.below(most));
            const Tokens piece = slice(c, tokens, done, count);
            mha_append_args args = append_args(p, norm, piece);
            args.length = count;
            mha_error error = {};
            require_ok(mha_cache_append(context, cache.get(), &args, &error), error);
            done += count;
          }
          const int64_t first = mha_cache_first_kept(cache.get(), 0);
          CHECK((first > 0) == (kind == MHA_CACHE_RING));
          check_same_tokens("kept", exported(cache.get(), 0, first, kCount - first),
                            slice(c, want, first, kCount - first));
          check_same_tokens("sink", exported(cache.get(), 0, 0, 5), slice(c, want, 0, 5));
        }
      }
    }
  });
}

namespace {

/// A host that runs its tasks from the last to the first.
void run_backwards(void*, int64_t count, void (*task)(void*, int64_t), void* data) {
  for (int64_t n = count; n-- > 0;) task(data, n);
}

}  // namespace

TEST_CASE("cache prepare: a ring that drops most of an append, ranges of it in any order", "[cache][prepare]") {
  constexpr int64_t kCount = 4000;
  for (const std::string& target : supported_targets()) {
    mha_context_options options = {};
    options.target = target.c_str(), options.num_threads = 4;
    options.parallel_for.run = run_backwards;
    const ContextPtr backwards = make_context(options);
    const mha_cache_config c = wide_config(MHA_CACHE_RING, 100);
    for (const Preparation& p : preparations()) {
      INFO(target << " " << p.name);
      const std::vector<float> weight = random_floats(c.head_dim, 250100);
      const Tokens tokens = random_tokens(c, kCount, 250101);
      const Tokens want = {applied(backwards.get(), c, p, weight, tokens.key, 0, nullptr), tokens.value};
      const CachePtr cache = make_cache(backwards.get(), c);
      const mha_norm norm = norm_of(p, weight);
      mha_append_args args = append_args(p, norm, tokens);
      args.length = kCount;
      mha_error error = {};
      require_ok(mha_cache_append(backwards.get(), cache.get(), &args, &error), error);
      const int64_t first = mha_cache_first_kept(cache.get(), 0);
      REQUIRE(first > 3000);
      check_same_tokens("kept", exported(cache.get(), 0, first, kCount - first), slice(c, want, first, kCount - first));
      check_same_tokens("sink", exported(cache.get(), 0, 0, 5), slice(c, want, 0, 5));
    }
  }
}

TEST_CASE("cache prepare: whatever the caller's rounding mode; nothing to append", "[cache][prepare]") {
  const mha_cache_config c = wide_config(MHA_CACHE_PAGED, 40);
  for_each_target([&](const std::string&, const mha_context* context) {
    for (const Preparation& p : preparations()) {
      INFO(p.name);
      const std::vector<float> weight = random_floats(c.head_dim, 250200);
      const mha_norm norm = norm_of(p, weight);
      const Tokens tokens = random_tokens(c, 20, 250201);
      const auto stored = [&](int mode) {
        const CachePtr cache = make_cache(context, c);
        mha_append_args args = append_args(p, norm, tokens);
        args.length = 20;
        mha_error error = {};
        std::fesetround(mode);
        const mha_status status = mha_cache_append(context, cache.get(), &args, &error);
        std::fesetround(FE_TONEAREST);
        require_ok(status, error);
        args.length = 0;
        require_ok(mha_cache_append(context, cache.get(), &args, &error), error);
        CHECK(mha_cache_length(cache.get(), 0) == 20);
        return exported(cache.get(), 0, 0, 20);
      };
      const Tokens want = stored(FE_TONEAREST);
      for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) check_same_tokens("stored", stored(mode), want);
    }
  });
}

TEST_CASE("cache prepare: positions of the caller's, packed and dense, on any number of threads", "[cache][prepare]") {
  const int64_t offsets[] = {0, 400, 400, 1500}, sequences[] = {2, 0, 1};
  constexpr int64_t kCount = 1500;
  mha_cache_config c = wide_config(MHA_CACHE_PAGED, 4000);
  c.head_dim = 64;
  const std::vector<float> weight = random_floats(c.head_dim, 251000);
  const Tokens tokens = random_tokens(c, kCount, 251001);
  std::vector<int64_t> positions(kCount);
  Random random(251003);
  for (int64_t& position : positions) position = random.below(100000);
  for (const Preparation& p : preparations()) {
    const mha_norm norm = norm_of(p, weight);
    for (int64_t threads : {1, 2, 5}) {
      const mha_context* context = shared_context(supported_targets()[0], threads);
      const Tokens want = {applied(context, c, p, weight, tokens.key, 0, positions.data()), tokens.value};
      CachePtr cache = make_cache(context, c);
      mha_append_args args = append_args(p, norm, tokens);
      if (p.rotates) args.positions = positions.data();
      args.batch = 3;
      args.sequences = sequences;
      args.offsets = offsets;
      args.length = kCount;
      REQUIRE(mha_cache_append(context, cache.get(), &args, nullptr) == MHA_OK);
      args.offsets = nullptr;
      args.length = 500;
      REQUIRE(mha_cache_append(context, cache.get(), &args, nullptr) == MHA_OK);
      for (int64_t b = 0; b < 3; ++b) {
        INFO(p.name << " threads " << threads << " item " << b);
        Tokens both = slice(c, want, offsets[b], offsets[b + 1] - offsets[b]);
        both += slice(c, want, 500 * b, 500);
        check_same_tokens("sequence",
                          exported(cache.get(), sequences[b], 0, mha_cache_length(cache.get(), sequences[b])), both);
      }
    }
  }
}

TEST_CASE("cache prepare: positions count on in each sequence", "[cache][prepare]") {
  const mha_context* context = cache_context();
  const mha_cache_config c = wide_config(MHA_CACHE_PAGED, 200);
  const Preparation p = preparations()[0];
  const std::vector<float> weight = random_floats(c.head_dim, 252000);
  const mha_norm norm = norm_of(p, weight);
  const Tokens tokens = random_tokens(c, 40, 252001);
  CachePtr cache = make_cache(context, c);
  mha_append_args args = append_args(p, norm, tokens);
  args.length = 10;
  REQUIRE(mha_cache_append(context, cache.get(), &args, nullptr) == MHA_OK);
  args.batch = 2;
  args.length = 20;
  REQUIRE(mha_cache_append(context, cache.get(), &args, nullptr) == MHA_OK);
  const Tokens first = slice(c, tokens, 0, 20), second = slice(c, tokens, 20, 20);
  CHECK(same_bits(exported(cache.get(), 0, 10, 20).key, applied(context, c, p, weight, first.key, 10, nullptr)));
  CHECK(same_bits(exported(cache.get(), 1, 0, 20).key, applied(context, c, p, weight, second.key, 0, nullptr)));
  // After a rollback as if never appended.
  REQUIRE(mha_cache_truncate(cache.get(), 0, 7, nullptr) == MHA_OK);
  args.batch = 1;
  REQUIRE(mha_cache_append(context, cache.get(), &args, nullptr) == MHA_OK);
  CHECK(same_bits(exported(cache.get(), 0, 7, 20).key, applied(context, c, p, weight, first.key, 7, nullptr)));
}

TEST_CASE("cache prepare: refusals change nothing", "[cache][prepare][status]") {
  const mha_cache_config c = wide_config(MHA_CACHE_RING, 30);
  CachePtr cache = make_cache(cache_context(), c);
  const Tokens tokens = random_tokens(c, 4, 253000);
  const std::vector<float> weight(static_cast<size_t>(c.head_dim), 1.0f), table(2 * 10, 0.5f);
  const int64_t positions[] = {3, 0, -1, 2}, far[] = {0, 1, 2, 1};
  mha_rope odd = {}, wide = {}, short_table = {};
  odd.dims = 3;
  wide.dims = 22;
  short_table.cos = short_table.sin = table.data();
  short_table.table_positions = 2;
  const mha_rope plain = {};
  struct Mistake {
    const mha_rope* rope;
    const int64_t* positions;
    const mha_norm* norm;
    std::string text, value;
  };
  const mha_norm negative = {-1.0f, 0, nullptr, {}}, nan = {kNan, 0, nullptr, {}}, zero = {0, 0, weight.data(), {}};
  mha_norm newer = {1e-5f, 0, nullptr, {}};
  newer.reserved[1] = 1;
  const Mistake mistakes[] = {{&odd, nullptr, nullptr, "dims", "3"},
                              {&wide, nullptr, nullptr, "dims", "22"},
                              {&plain, positions, nullptr, "positions[2]", "-1"},
                              {&short_table, far, nullptr, "positions[2]", "2"},
                              {&short_table, nullptr, nullptr, "token", "3"},
                              {nullptr, far, nullptr, "positions", "rope"},
                              {nullptr, nullptr, &negative, "key_norm.epsilon", "-1"},
                              {nullptr, nullptr, &nan, "key_norm.epsilon", "nan"},
                              {nullptr, nullptr, &zero, "key_norm.epsilon", "0"},
                              {nullptr, nullptr, &newer, "key_norm.reserved[1]", "1"}};
  for (const Mistake& mistake : mistakes) {
    mha_append_args args = append_args(preparations()[0], negative, tokens);
    args.length = 4;
    args.rope = mistake.rope;
    args.positions = mistake.positions;
    args.key_norm = mistake.norm;
    mha_error error = {};
    INFO(mistake.text);
    CHECK(mha_cache_append(cache_context(), cache.get(), &args, &error) == MHA_ERR_ARGUMENT);
    INFO(error.message);
    CHECK(mentions(error, mistake.text));
    CHECK(mentions(error, mistake.value));
    CHECK(mha_cache_length(cache.get(), 0) == 0);
    CHECK(mha_cache_used_bytes(cache.get()) == 0);
  }
}
