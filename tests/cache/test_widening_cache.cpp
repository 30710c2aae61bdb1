// SPDX-License-Identifier: Apache-2.0
// Caches that store keys and values in types of their own: after any history they hold the tokens given, widened from
// any type and rounded once; exported, saved and loaded bit by bit; keys normed and rotated in f32 before the rounding.
#include "tests/support/guard.h"
#include "tests/support/random_cache.h"
#include "tests/support/seeds.h"

using namespace mha::test;

namespace {

RandomStorage random_storage(Random& random, bool twin) {
  RandomStorage storage = {random_dtype(random), random_dtype(random), 1 + (random.bits() >> 8), twin, 0, true};
  if (storage.key == MHA_F32 && storage.value == MHA_F32) storage.value = MHA_F16;
  if (one_in(random, 2)) storage.codes = 1 + (random.bits() >> 8);
  return storage;
}

std::string describe(const mha_cache_config& c) {
  return std::string(kind_name(c.kind)) + " page " + std::to_string(c.page_size) + " keys " + dtype_name(c.key.dtype) +
         " values " + dtype_name(c.value.dtype);
}

/// Tokens as export gives them in these types.
struct TypedTokens {
  Elements key, value;
};

TypedTokens exported_as(const mha_cache* cache, int64_t sequence, int64_t begin, int64_t count, mha_dtype key,
                        mha_dtype value) {
  const mha_cache_config c = config_of(cache);
  TypedTokens out = {Elements(key, count * c.num_kv_heads * c.head_dim),
                     Elements(value, count * c.num_kv_heads * c.value_head_dim)};
  mha_export_args args = {};
  args.sequence = sequence, args.begin = begin, args.count = count;
  args.key = out.key.mut_view(), args.value = out.value.mut_view();
  mha_error error = {};
  require_ok(mha_cache_export(cache, &args, &error), error);
  return out;
}

/// Everything in the cache's own types, as export gives it.
struct StoredTokens {
  std::vector<unsigned char> key, key_scales, key_zeros, value, value_scales, value_zeros;
  bool operator==(const StoredTokens& other) const {
    return key == other.key && key_scales == other.key_scales && key_zeros == other.key_zeros && value == other.value &&
           value_scales == other.value_scales && value_zeros == other.value_zeros;
  }
};

StoredTokens stored(const RandomCache& types, const mha_cache* cache, int64_t sequence, int64_t begin, int64_t count) {
  const mha_cache_config c = config_of(cache);
  const int64_t rows = count * c.num_kv_heads;
  StoredTokens out;
  mha_export_args args = {};
  const auto make = [&](const CodeStorage* codes, const mha_storage& s, int64_t width, mha_mut_view* view,
                        std::vector<unsigned char>* data, std::vector<unsigned char>* scales, void** scales_field,
                        std::vector<unsigned char>* zeros, void** zeros_field) {
    data->resize(static_cast<size_t>(rows * (codes ? codes->row_bytes() : width * element_bytes(s.dtype))) + 1);
    view->data = data->data(), view->dtype = s.dtype;
    if (codes == nullptr) return;
    scales->resize(static_cast<size_t>(rows * codes->scale_bytes()) + 1);
    zeros->resize(static_cast<size_t>(rows * codes->zero_bytes()) + 1);
    if (codes->scale_bytes() > 0) *scales_field = scales->data();
    if (codes->zero_bytes() > 0) *zeros_field = zeros->data();
  };
  make(types.key_codes.get(), c.key, c.head_dim, &args.key, &out.key, &out.key_scales, &args.key_scales, &out.key_zeros,
       &args.key_zeros);
  make(types.value_codes.get(), c.value, c.value_head_dim, &args.value, &out.value, &out.value_scales,
       &args.value_scales, &out.value_zeros, &args.value_zeros);
  args.sequence = sequence, args.begin = begin, args.count = count;
  mha_error error = {};
  require_ok(mha_cache_export(cache, &args, &error), error);
  return out;
}

/// What is exported as codes stands for what is exported as floats.
void check_codes(const CodeStorage& codes, const std::vector<unsigned char>& data,
                 const std::vector<unsigned char>& scales, const std::vector<unsigned char>& zeros,
                 const std::vector<float>& values) {
  const int64_t rows = static_cast<int64_t>(values.size()) / codes.width;
  for (int64_t r = 0; r < rows && !codes.fixed; ++r) {
    std::vector<float> row;
    for (int64_t d = 0; d < codes.width; ++d) {
      const int64_t group = codes.group > 0 ? d / codes.group : 0;
      const unsigned char byte = data[static_cast<size_t>(r * codes.row_bytes() + (codes.nibbles() ? d / 2 : d))];
      int code = codes.dtype == MHA_I8 ? static_cast<int8_t>(byte) : byte;
      if (codes.nibbles()) code = (d % 2 == 0 ? byte & 15 : byte >> 4) + codes.least();
      uint32_t bits = 0;
      std::memcpy(&bits, scales.data() + r * codes.scale_bytes() + group * element_bytes(codes.scale_dtype),
                  static_cast<size_t>(element_bytes(codes.scale_dtype)));
      float zero = codes.own_zero();
      if (codes.zero_points) {
        const unsigned char z = zeros[static_cast<size_t>(r * codes.zero_bytes() + group)];
        zero = static_cast<float>(codes.is_signed() ? static_cast<int8_t>(z) : z);
      }
      row.push_back(widened(codes.scale_dtype, bits) * (static_cast<float>(code) - zero));
    }
    if (codes.hadamard) row = hadamard_row(row.data(), codes.width);
    for (int64_t d = 0; d < codes.width; ++d) {
      const float value = row[static_cast<size_t>(d)], got = values[static_cast<size_t>(r * codes.width + d)];
      if (bits_of(value) == bits_of(got) || (std::isnan(value) && std::isnan(got))) continue;
      FAIL_CHECK(codes.describe() << ": row " << r << " element " << d << " stands for " << value << ", not " << got);
      return;
    }
  }
}

/// A sequence holds what the twin of floats does, in every type that it can be exported as.
void check_contents(const mha_cache* cache, const mha_cache* twin, int64_t sequence, int64_t begin, int64_t count) {
  const Tokens want = exported(twin, sequence, begin, count);
  check_same_tokens("exported as floats", exported(cache, sequence, begin, count), want);
  for (int64_t n = 0; n < kNumElementTypes; ++n) {
    const ElementType &key = kElementTypes[n], &value = kElementTypes[(n + 1) % kNumElementTypes];
    const TypedTokens got = exported_as(cache, sequence, begin, count, key.dtype, value.dtype);
    check_rounded("exported keys", got.key, want.key);
    check_rounded("exported values", got.value, want.value);
  }
}

using Bytes = std::vector<unsigned char>;

Bytes saved(const mha_cache* cache, int64_t sequence) {
  mha_error error = {};
  size_t bytes = 0;
  require_ok(mha_cache_save_bytes(cache, sequence, &bytes, &error), error);
  Bytes blob(bytes);
  require_ok(mha_cache_save(cache, sequence, blob.data(), bytes, &error), error);
  return blob;
}

/// Into any kind that can load it: the same bits. Into other types: refused, with both in the message.
void check_saved(Random& random, const RandomCache& from, int64_t sequence) {
  const Bytes blob = saved(from.cache.get(), sequence);
  const int64_t kept = from.first_kept(sequence), count = from.length(sequence) - kept;
  mha_cache_config config = cache_config(one_of(random, {MHA_CACHE_CONTIGUOUS, MHA_CACHE_RING, MHA_CACHE_PAGED}), 3000,
                                         2, between(random, 1, 70));
  if (kept > 0) config = cache_config(MHA_CACHE_RING, 3000, 2);
  const mha_cache_config& c = from.config;
  config.num_kv_heads = c.num_kv_heads, config.head_dim = c.head_dim, config.value_head_dim = c.value_head_dim;
  config.key = c.key, config.value = c.value;
  const CachePtr to = make_cache(cache_context(), config);
  mha_error error = {};
  require_ok(mha_cache_load(to.get(), 1, blob.data(), blob.size(), &error), error);
  CHECK(mha_cache_length(to.get(), 1) == from.length(sequence));
  const StoredTokens want = stored(from, from.cache.get(), sequence, kept, count);
  CHECK(stored(from, to.get(), 1, kept, count) == want);
  if (kept == 0) CHECK(saved(to.get(), 1) == blob);
  const Tokens floats = exported(from.cache.get(), sequence, kept, count);
  check_same_tokens("loaded", exported(to.get(), 1, kept, count), floats);
  if (from.key_codes) check_codes(*from.key_codes, want.key, want.key_scales, want.key_zeros, floats.key);
  if (from.value_codes) check_codes(*from.value_codes, want.value, want.value_scales, want.value_zeros, floats.value);

  config.key = config.value = {};
  config.key.dtype = random_dtype(random), config.value.dtype = random_dtype(random);
  const bool other_keys = config.key.dtype != c.key.dtype;
  if (!other_keys && config.value.dtype == c.value.dtype) return;
  const CachePtr other = make_cache(cache_context(), config);
  CHECK(mha_cache_load(other.get(), 1, blob.data(), blob.size(), &error) == MHA_ERR_BLOB);
  CHECK(mentions(error, "blob keeps " + (other_keys ? "keys as " + dtype_name(c.key.dtype)
                                                    : "values as " + dtype_name(c.value.dtype))));
  CHECK(mentions(error, "the cache has " + dtype_name(other_keys ? config.key.dtype : config.value.dtype)));
  CHECK(mha_cache_length(other.get(), 1) == 0);
}

}  // namespace

TEST_CASE("widening: caches of any types after any history hold the tokens, rounded once",
          "[widening][properties][cache]") {
  int64_t dropped = 0, forked = 0, half = 0, codes = 0, rotated = 0;
  for (const uint64_t seed : seeds(600000, 250)) {
    Random random(seed), draw(seed + 50000), twin_draw(seed + 50000), storage(seed), twin_storage(seed);
    const RandomCache typed(draw, random_storage(storage, false)), twin(twin_draw, random_storage(twin_storage, true));
    INFO("seed " << seed << ": " << describe(typed.config));
    for (int64_t s = 0; s < typed.config.max_sequences; ++s) {
      REQUIRE(typed.length(s) == twin.length(s));
      const int64_t kept = typed.first_kept(s);
      REQUIRE(kept == twin.first_kept(s));
      check_contents(typed.cache.get(), twin.cache.get(), s, kept, typed.length(s) - kept);
      if (kept > 0)
        check_contents(typed.cache.get(), twin.cache.get(), s, 0, std::min(typed.config.sink_tokens, typed.length(s)));
      dropped += kept > 0;
      if (one_in(random, 3)) check_saved(random, typed, s);
    }
    const size_t used = mha_cache_used_bytes(typed.cache.get()), floats = mha_cache_used_bytes(twin.cache.get());
    // Scales begin at a line of their own in each page, which small pages do not make up for.
    if (!typed.key_codes && !typed.value_codes) CHECK(used <= floats);
    half += used > 0 && typed.config.key.dtype != MHA_F32 && typed.config.value.dtype != MHA_F32;
    forked += typed.config.max_sequences > 1 && typed.config.kind == MHA_CACHE_PAGED;
    codes += used > 0 && typed.key_codes && typed.value_codes;
    for (const auto& part : {typed.key_codes, typed.value_codes}) rotated += used > 0 && part && part->hadamard;
  }
  for (const int64_t cases : {dropped, forked, half, codes, rotated}) CHECK(cases > share_of(20));
}

TEST_CASE("widening: a cache of 16 bits takes half the bytes, one of 16-bit keys three quarters", "[widening][cache]") {
  for (const mha_cache_kind kind : kCacheKinds) {
    mha_cache_config config = cache_config(kind, 4096, 3, 64);
    config.head_dim = config.value_head_dim = 64;
    const auto bytes_of = [&](mha_dtype key, mha_dtype value) {
      config.key.dtype = key, config.value.dtype = value;
      size_t bytes = 0;
      mha_error error = {};
      require_ok(mha_cache_memory_bytes(&config, &bytes, &error), error);
      return static_cast<double>(bytes);
    };
    const double floats = bytes_of(MHA_F32, MHA_F32);
    INFO(kind_name(kind));
    for (const mha_dtype dtype : {MHA_F16, MHA_BF16}) {
      CHECK(std::fabs(bytes_of(dtype, MHA_F16) / floats - 0.5) < 0.005);
      CHECK(std::fabs(bytes_of(dtype, MHA_F32) / floats - 0.75) < 0.005);
    }
  }
}

namespace {

/// Tokens of one sequence in a type of their own, which are normed and rotated at positions of theirs.
struct Prepared {
  int64_t count, heads, width;
  Elements key, value;
  mha_rope rope = {};
  mha_norm norm = {};
  std::vector<float> norm_weight;
  std::vector<int64_t> positions;
  bool rotated, normed;

  explicit Prepared(Random& random)
      : count(between(random, 1, 80)), heads(between(random, 1, 3)), width(between(random, 2, 40)) {
    key = Elements(random_dtype(random), random_floats(count * heads * width, random.bits() >> 8, 3));
    value = Elements(random_dtype(random), random_floats(count * heads * width, random.bits() >> 8, 3));
    rope.style = one_of(random, {MHA_ROPE_HALF, MHA_ROPE_INTERLEAVED});
    rope.dims = 2 * between(random, 1, width / 2);
    if (width % 2 == 0 && rope.dims == width) rope.dims = 0;  // its default
    norm.epsilon = 1e-5f, norm_weight = random_floats(width, random.bits() >> 8);
    if (one_in(random, 2)) norm.weight = norm_weight.data();
    for (int64_t t = 0; t < count; ++t) positions.push_back(random.below(9000));
    rotated = !one_in(random, 4), normed = !rotated || one_in(random, 2);
  }
  /// The keys as f32 calls prepare them.
  std::vector<float> wanted(const mha_context* context) const {
    const std::vector<float> input = key.widened();
    std::vector<float> output = poisoned(key.count());
    mha_rows_args args = {};
    args.batch = 1, args.length = count, args.num_heads = heads, args.head_dim = width;
    args.input = view(input.data()), args.output = mut_view(output.data());
    if (rotated) args.rope = &rope, args.positions = positions.data();
    if (normed) args.norm = &norm;
    mha_error error = {};
    require_ok(mha_rows_prepare(context, &args, &error), error);
    return output;
  }
  void append(const mha_context* context, mha_cache* cache, int64_t first, int64_t number) const {
    mha_append_args args = {};
    args.batch = 1, args.length = number;
    args.key = key.view({}, first * heads * width), args.value = value.view({}, first * heads * width);
    if (rotated) args.rope = &rope, args.positions = positions.data() + first;
    if (normed) args.key_norm = &norm;
    // Exactly as much workspace as the query says.
    mha_error error = {};
    size_t bytes = 0;
    require_ok(mha_cache_append_workspace_bytes(context, cache, &args, &bytes, &error), error);
    const mha_storage stored = config_of(cache).key;
    CHECK((bytes > 0) == (stored.dtype > MHA_BF16 && (rotated || normed)));
    GuardedBuffer workspace(bytes, Guard::kAfter);
    mha_resources resources = {};
    resources.workspace = workspace.data(), resources.workspace_bytes = bytes;
    if (bytes > 0) args.resources = &resources;
    require_ok(mha_cache_append(context, cache, &args, &error), error);
    CHECK(workspace.slack_intact());
  }
};

}  // namespace

TEST_CASE("widening: keys are normed and rotated in f32, then rounded once to the cache's type", "[widening][cache]") {
  for (const uint64_t seed : seeds(610000, 200)) {
    Random random(seed);
    const Prepared p(random);
    mha_cache_config config =
        cache_config(one_of(random, {MHA_CACHE_CONTIGUOUS, MHA_CACHE_RING, MHA_CACHE_PAGED}), 80, 1, 24);
    config.num_kv_heads = p.heads, config.head_dim = config.value_head_dim = p.width;
    config.key.dtype = random_dtype(random), config.value.dtype = random_dtype(random);
    std::unique_ptr<CodeStorage> codes;
    if (one_in(random, 2)) {
      codes = std::make_unique<CodeStorage>(random, p.heads, p.width);
      config.key = codes->storage();
    }
    INFO("seed " << seed << ": " << describe(config) << " from " << dtype_name(p.key.dtype()) << " and "
                 << dtype_name(p.value.dtype()));
    const auto pieces = random_pieces(random, p.count);
    for (const std::string& target : supported_targets()) {
      INFO(target);
      const CachePtr cache = make_cache(cache_context(), config);
      const int64_t threads = one_of<int64_t>(random, {1, 3});
      for (const auto& [first, count] : pieces) p.append(shared_context(target, threads), cache.get(), first, count);
      const std::vector<float> keys = p.wanted(shared_context(target, 1));
      const mha_dtype key = codes ? MHA_F32 : config.key.dtype;
      const TypedTokens got = exported_as(cache.get(), 0, 0, p.count, key, config.value.dtype);
      check_rounded("keys", got.key, codes ? codes->round_all(keys) : keys);
      check_rounded("values", got.value, p.value.widened());
    }
  }
}
