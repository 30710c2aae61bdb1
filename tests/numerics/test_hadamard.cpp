// SPDX-License-Identifier: Apache-2.0
// Codes of rows that were rotated by a Walsh-Hadamard matrix: attention over them is the f32 call over rotated queries and
// over what the codes stand for, rotated back; in views, caches, layers and partial results. Rounding of rotated rows is
// in test_quantise.cpp, histories of caches are in test_widening_cache.cpp.
#include <cmath>

#include "tests/support/caches.h"
#include "tests/support/codes.h"
#include "tests/support/layers.h"
#include "tests/support/partials.h"
#include "tests/support/quantise.h"
#include "tests/support/random_typed.h"
#include "tests/support/seeds.h"
#include "tests/support/shapes.h"

using namespace mha::test;

namespace {

/// A random call over codes of which keys, values or both are of rotated rows.
struct RotatedCall {
  TypedCall call;
  std::unique_ptr<CodeTensor> key, value;
  bool keys = false, values = false;

  explicit RotatedCall(Random& random) : call(random) {
    const AttentionShape& s = call.shape;
    key = draw_codes_for(random, call.ragged() ? Extent{1, s.Tk, s.Hkv, s.D} : s.key());
    value = draw_codes_for(random, call.ragged() ? Extent{1, s.Tk, s.Hkv, s.Dv} : s.value());
    const int64_t which = random.below(3);
    keys = key && key->can_be_rotated() && which != 0, values = value && value->can_be_rotated() && which != 1;
    if (keys) key->rotated();
    if (values) value->rotated();
    if (key) call.stored.key = key->view(), call.wide.key = key->wide_view();
    if (value) call.stored.value = value->view(), call.wide.value = value->wide_view();
  }
  std::string describe() const {
    return call.describe() + ", key " + (key ? key->describe() : "as is") + (keys ? " rotated" : "") + ", value " +
           (value ? value->describe() : "as is") + (values ? " rotated" : "");
  }
  /// The f32 call over queries that are normed, turned and rotated before, its output rotated back.
  TypedResult want(const mha_context* context) const {
    AttentionCall args = call.wide;
    const AttentionShape& s = call.shape;
    std::vector<float> queries = call.query->dense().widened();
    if (keys && !queries.empty()) {
      mha_rows_args rows = {};
      rows.batch = 1, rows.length = call.ragged() ? s.Tq : s.B * s.Tq, rows.num_heads = s.H, rows.head_dim = s.D;
      const std::vector<float> given = queries;
      rows.input = view(given.data()), rows.output = mut_view(queries.data());
      rows.norm = args.query_norm, rows.rope = args.rope;
      if (args.rope) rows.positions = args.positions.query;
      mha_error error = {};
      require_ok(mha_rows_prepare(context, &rows, &error), error);
      queries = hadamard_rows(queries, s.D);
      args.query = view(queries.data());
      args.query_norm = nullptr, args.rope = nullptr, args.positions.query = nullptr;
    }
    TypedResult result = run_typed(context, args, call.wide_output(), call.longest_key);
    if (values) result.output = Elements(MHA_F32, hadamard_rows(result.output.widened(), s.Dv));
    return result;
  }
};

}  // namespace

TEST_CASE("hadamard: attention over codes of rotated rows", "[codes][hadamard][properties][bits]") {
  int64_t keys = 0, values = 0, both = 0, in_place = 0, packed = 0, weights = 0, ragged = 0, prepared = 0, half = 0;
  for (const uint64_t seed : seeds(534000, 900)) {
    Random random(seed);
    const RotatedCall c(random);
    if (!c.keys && !c.values) continue;
    INFO("seed " << seed << ": " << c.describe());
    keys += c.keys, values += c.values, both += c.keys && c.values;
    in_place += c.call.shape.Tq * c.call.shape.H / c.call.shape.Hkv <= 16, packed += c.call.shape.Tq > 16;
    weights += c.call.wide.results.weights_mode > MHA_WEIGHTS_PER_HEAD, ragged += c.call.ragged();
    prepared += c.keys && (c.call.wide.rope || c.call.wide.query_norm);
    half += c.values && c.call.output_dtype != MHA_F32;
    for (const std::string& target : supported_targets()) {
      const TypedResult want = c.want(shared_context(target, 1));
      for (const int64_t threads : {int64_t{1}, one_of<int64_t>(random, {2, 3, 5})}) {
        INFO(target << ", " << threads << " threads");
        const mha_context* context = shared_context(target, threads);
        check_widened("rotated", run_typed(context, c.call.stored, c.call.output(), c.call.longest_key), want);
      }
    }
  }
  for (const int64_t cases : {keys, values, both, in_place, packed, weights, ragged, prepared, half})
    CHECK(cases > share_of(20));
}

TEST_CASE("hadamard: the output may be the query's place, whatever is rotated", "[codes][hadamard][bits]") {
  const AttentionShape s = {2, 4, 2, 5, 300, 32, 32};
  for (const mha_weights_mode mode : {MHA_WEIGHTS_NONE, MHA_WEIGHTS_AVERAGED}) {
    for (const mha_dtype dtype : {MHA_F32, MHA_F16}) {
      for (const int64_t which : {1, 2, 3}) {
        Random random(534990);
        CodeTensor key(random, kCodeTypes[0], s.key()), value(random, kCodeTypes[0], s.value());
        if (which & 1) key.rotated();
        if (which & 2) value.rotated();
        const Elements query(dtype, random_floats(s.query().count(), 534991));
        AttentionCall args = AttentionProblem(s, MaskKind::kNone, 1).args();
        args.query = query.view(), args.key = key.view(), args.value = value.view();
        args.results.weights_mode = mode;
        for_each_target([&](const std::string& target, const mha_context* context) {
          INFO(target << " " << dtype_name(dtype) << " weights " << mode << " rotated " << which);
          Typed apart(dtype, s.output(), dense_bthd(s.output()));
          const TypedResult want = run_typed(context, args, apart, s.Tk);
          Elements place = query;
          std::vector<float> weights = poisoned(mode == MHA_WEIGHTS_NONE ? 0 : s.B * s.Tq * s.Tk);
          AttentionCall own = args;
          own.query = place.view(), own.output = place.mut_view();
          if (mode != MHA_WEIGHTS_NONE) own.results.weights = mut_view(weights.data());
          mha_error error = {};
          require_ok(attention(context, own, &error), error);
          check_same_bits("output", place.widened(), want.output.widened());
          check_same_bits("weights", weights, want.weights);
        });
      }
    }
  }
}

TEST_CASE("hadamard: the reference rotates by the matrix's definition", "[codes][hadamard][reference]") {
  for (const int64_t width : {16, 48, 64, 128}) {
    const AttentionShape s = {1, 2, 1, 3, 40, width, width};
    Random random(534995);
    CodeTensor key(random, kCodeTypes[0], s.key()), value(random, kCodeTypes[1], s.value());
    const AttentionProblem p(s, MaskKind::kNone, 534996);
    AttentionCall stored = p.args(), wide = stored;
    const std::vector<float> keys = hadamard_rows(key.widened(), width), values = hadamard_rows(value.widened(), width);
    wide.key = view(keys.data()), wide.value = view(values.data());
    key.rotated(), value.rotated();
    stored.key = key.view(), stored.value = value.view();
    const AttentionReference want = reference_attention(wide), got = reference_attention(stored);
    for (size_t n = 0; n < want.output.size(); ++n) CHECK(std::fabs(got.output[n] - want.output[n]) < 1e-6);
    const AttentionResult own = run_attention(shared_context(supported_targets()[0], 1), stored);
    for (size_t n = 0; n < want.output.size(); ++n)
      CHECK(std::fabs(static_cast<double>(own.output[n]) - want.output[n]) < 3e-6);
  }
}

namespace {

/// Tokens of a cache as the codes that it keeps, as views.
struct ExportedCodes {
  std::vector<unsigned char> codes[2], zeros[2];
  std::vector<float> scales[2];
  mha_quant quant[2] = {};
  mha_view views[2] = {};

  ExportedCodes(const mha_cache* cache, int64_t count, const CodeStorage& key, const CodeStorage& value) {
    mha_export_args args = {};
    args.count = count;
    const CodeStorage* parts[2] = {&key, &value};
    void** scale_fields[2] = {&args.key_scales, &args.value_scales};
    void** zero_fields[2] = {&args.key_zeros, &args.value_zeros};
    mha_mut_view* out[2] = {&args.key, &args.value};
    for (int n = 0; n < 2; ++n) {
      const CodeStorage& p = *parts[n];
      const int64_t rows = count * p.heads;
      codes[n].resize(static_cast<size_t>(rows * p.row_bytes()));
      scales[n].resize(static_cast<size_t>(rows * p.groups()));
      zeros[n].resize(static_cast<size_t>(rows * p.zero_bytes()) + 1);
      out[n]->data = codes[n].data(), out[n]->dtype = p.dtype, *scale_fields[n] = scales[n].data();
      if (p.zero_bytes() > 0) *zero_fields[n] = zeros[n].data();
      mha_quant& q = quant[n];
      q.scales = scales[n].data(), q.scale_dtype = p.scale_dtype, q.hadamard = p.hadamard;
      q.group = p.group, q.stride_d = p.group > 0 ? 1 : 0;
      q.stride_h = p.groups(), q.stride_t = p.heads * p.groups();
      if (p.zero_bytes() > 0) q.zeros = zeros[n].data(), q.zero_dtype = p.is_signed() ? MHA_I8 : MHA_U8;
      views[n].data = codes[n].data(), views[n].dtype = p.dtype, views[n].quant = &q;
    }
    mha_error error = {};
    require_ok(mha_cache_export(cache, &args, &error), error);
  }
};

/// Codes of rotated rows for keys and for values.
struct Parts {
  CodeStorage key, value;
  Parts(mha_dtype key_type, mha_dtype value_type, int64_t D, int64_t Dv)
      : key(key_type, 2, D), value(value_type, 2, Dv) {
    key.hadamard = value.hadamard = true;
    key.group = 32, value.zero_points = true;
  }
};

mha_cache_config config_with(const Parts& parts, mha_cache_kind kind) {
  mha_cache_config config = cache_config(kind, 700, 2, 24);
  config.num_kv_heads = 2, config.head_dim = parts.key.width, config.value_head_dim = parts.value.width;
  config.key = parts.key.storage(), config.value = parts.value.storage();
  return config;
}

}  // namespace

TEST_CASE("hadamard: caches keep what rows_prepare gives, and attention reads it", "[codes][hadamard][cache][bits]") {
  const Parts parts(MHA_I4, MHA_U8, 64, 48);
  mha_rope rope = {};
  mha_norm norm = {};
  norm.epsilon = 1e-5f;
  for (const mha_cache_kind kind : kCacheKinds) {
    const mha_cache_config config = config_with(parts, kind);
    const Tokens tokens = random_tokens(config, 320, 534200);
    for_each_target([&](const std::string& target, const mha_context* one) {
      INFO(target << " " << kind_name(kind));
      const mha_context* three = shared_context(target, 3);
      const CachePtr cache = make_cache(one, config);
      mha_error error = {};
      for (const auto& part : {std::pair<int64_t, int64_t>{0, 300}, {300, 1}, {301, 19}}) {
        const Tokens some = slice(config, tokens, part.first, part.second);
        mha_append_args args = {};
        args.batch = 1, args.length = part.second, args.key_norm = &norm, args.rope = &rope;
        args.key = view(some.key.data()), args.value = view(some.value.data());
        require_ok(mha_cache_append(three, cache.get(), &args, &error), error);
      }
      const ExportedCodes codes(cache.get(), 320, parts.key, parts.value);

      // Keys are those that rows_prepare gives, in every bit.
      std::vector<unsigned char> prepared(codes.codes[0].size());
      std::vector<float> scales(codes.scales[0].size());
      const mha_storage storage = parts.key.storage();
      mha_rows_args rows = {};
      rows.batch = 1, rows.length = 320, rows.num_heads = 2, rows.head_dim = 64;
      rows.input = view(tokens.key.data()), rows.output.data = prepared.data(), rows.output.dtype = MHA_I4;
      rows.storage = &storage, rows.scales = scales.data(), rows.norm = &norm, rows.rope = &rope;
      require_ok(mha_rows_prepare(one, &rows, &error), error);
      CHECK(prepared == codes.codes[0]);
      check_same_bits("scales", scales, codes.scales[0]);

      const AttentionShape s = {1, 4, 2, 3, 320, 64, 48};
      const AttentionProblem p(s, MaskKind::kNone, 534201);
      AttentionCall over_views = p.args(), over_cache = p.args();
      over_views.rope = over_cache.rope = &rope, over_views.causal = over_cache.causal = 1;
      over_views.key = codes.views[0], over_views.value = codes.views[1];
      over_cache.key = over_cache.value = {}, over_cache.key_len = 0, over_cache.cache = cache.get();
      const TypedResult want = run_typed(one, over_views, Typed(MHA_BF16, s.output(), dense_bthd(s.output())), 320);
      const TypedResult got = run_typed(three, over_cache, Typed(MHA_BF16, s.output(), dense_bthd(s.output())), 320);
      check_same_bits("output", got.output.widened(), want.output.widened());
      check_same_bits("log-sum-exp", got.log_sum_exp, want.log_sum_exp);

      // Chunk by chunk, then merged.
      const AttentionResult whole = run_attention(one, over_cache);
      const std::vector<float> partials = partial(three, over_cache);
      for (const mha_dtype dtype : {MHA_F32, MHA_F16}) {
        Elements output(dtype, s.output().count());
        mha_merge_partials_args merge = {};
        merge.batch = 1, merge.num_heads = 4, merge.query_len = 3, merge.value_head_dim = 48, merge.num_chunks = 2;
        merge.partials = partials.data(), merge.output = output.mut_view(), merge.hadamard = 1;
        require_ok(mha_attention_merge_partials(three, &merge, &error), error);
        check_rounded("merged", output, whole.output);
        merge.value_head_dim = 40;
        CHECK(mha_attention_merge_partials(three, &merge, &error) == MHA_ERR_UNSUPPORTED);
        CHECK(mentions(error, "hadamard is 1, but rows have 40 elements"));
      }
    });
  }
}

TEST_CASE("hadamard: a saved cache says that its rows are rotated", "[codes][hadamard][cache][blob]") {
  const Parts parts(MHA_I8, MHA_U4, 32, 32);
  const mha_cache_config config = config_with(parts, MHA_CACHE_PAGED);
  const CachePtr cache = make_cache(cache_context(), config);
  require_append(cache.get(), 0, random_tokens(config, 30, 534300));
  mha_error error = {};
  size_t bytes = 0;
  require_ok(mha_cache_save_bytes(cache.get(), 0, &bytes, &error), error);
  std::vector<unsigned char> blob(bytes);
  require_ok(mha_cache_save(cache.get(), 0, blob.data(), bytes, &error), error);
  mha_cache_config plain = config;
  plain.value.hadamard = 0;
  const CachePtr other = make_cache(cache_context(), plain), same = make_cache(cache_context(), config);
  CHECK(mha_cache_load(other.get(), 1, blob.data(), bytes, &error) == MHA_ERR_BLOB);
  CHECK(mentions(error, "blob keeps values as MHA_U4 with MHA_F32 scales of 0 elements (0: rows) and zeros, rotated"));
  CHECK(mentions(error, "the cache has MHA_U4"));
  require_ok(mha_cache_load(same.get(), 1, blob.data(), bytes, &error), error);
  check_same_tokens("loaded", exported(same.get(), 1, 0, 30), exported(cache.get(), 0, 0, 30));
}

TEST_CASE("hadamard: a layer appends rotated keys and values, and sees them", "[codes][hadamard][cache][layer][bits]") {
  for (const uint64_t seed : seeds(534400, 24)) {
    for (const std::string& target : supported_targets()) {
      Random random(seed);
      const mha_context* context = shared_context(target, one_of<int64_t>(random, {1, 3}));
      mha_layer_config config = {};
      config.num_kv_heads = 2, config.num_heads = 4, config.embed_dim = between(random, 1, 40);
      config.head_dim = 16 * between(random, 1, 3), config.value_head_dim = 16 * between(random, 1, 3);
      const LayerProblem problem(config, 1, 1, 1, Biases::kAll, seed);
      const LayerPtr layer = problem.make(context);
      Parts parts(MHA_I8, MHA_I8, config.head_dim, config.value_head_dim);
      parts.key.group = 0, parts.key.hadamard = one_in(random, 2), parts.value.hadamard = !one_in(random, 3);
      const mha_cache_config caches = config_with(parts, one_of(random, {MHA_CACHE_RING, MHA_CACHE_PAGED}));
      mha_cache_config floats = caches;
      floats.key = floats.value = {};
      const CachePtr typed = make_cache(context, caches), plain = make_cache(context, floats);
      const CachePtr again = make_cache(context, caches);
      mha_rope rope = {};
      INFO("seed " << seed << " " << target);
      for (const int64_t count : {between(random, 1, 200), int64_t{1}, int64_t{7}}) {
        LayerCall args;
        args.batch = 1, args.query_len = count, args.causal = 1;
        if (seed % 2 == 0) args.rope = &rope;
        const std::vector<float> query = random_floats(count * config.embed_dim, random.bits() >> 8);
        args.query = view(query.data());
        const auto forward = [&](mha_cache* cache, mha_cache_use use) {
          std::vector<float> output = poisoned(count * config.embed_dim);
          LayerCall call = args;
          call.output = mut_view(output.data()), call.cache = cache, call.cache_use = use;
          mha_error error = {};
          require_ok(layer_forward(context, layer.get(), call, &error), error);
          return output;
        };
        const int64_t done = mha_cache_length(typed.get(), 0);
        const std::vector<float> got = forward(typed.get(), MHA_CACHE_APPEND);
        forward(plain.get(), MHA_CACHE_APPEND);
        require_append(again.get(), 0, exported(plain.get(), 0, done, count));
        check_same_bits("output", got, forward(again.get(), MHA_CACHE_READ));
        check_same_tokens("appended", exported(typed.get(), 0, done, count), exported(again.get(), 0, done, count));
      }
    }
  }
}

TEST_CASE("hadamard: rows with outliers lose less to 4 bits", "[codes][hadamard][accuracy]") {
  std::vector<float> rows = random_floats(200 * 128, 534500);
  for (size_t n = 0; n < rows.size(); ++n)
    if (n % 128 == 5 || n % 128 == 77) rows[n] *= 20;
  const auto lost = [&](int hadamard) {
    std::vector<unsigned char> codes(rows.size() / 2);
    std::vector<float> scales(200);
    mha_storage storage = {};
    storage.dtype = MHA_I4, storage.hadamard = hadamard;
    mha_storage_error stored = {};
    mha_rows_args args = {};
    args.batch = 1, args.length = 200, args.num_heads = 1, args.head_dim = 128;
    args.input = view(rows.data()), args.output.data = codes.data(), args.output.dtype = MHA_I4;
    args.storage = &storage, args.scales = scales.data(), args.storage_error = &stored;
    mha_error error = {};
    require_ok(mha_rows_prepare(cache_context(), &args, &error), error);
    return stored.rms / stored.rms_given;
  };
  const double plain = lost(0), rotated = lost(1);
  INFO(plain << " and rotated " << rotated);
  CHECK(rotated < 0.6 * plain);
}

TEST_CASE("hadamard: explain says what is rotated, and where", "[codes][hadamard][explain]") {
  const AttentionShape s = {1, 4, 2, 2, 100, 96, 64};
  Random random(534600);
  CodeTensor key(random, kCodeTypes[0], s.key()), value(random, kCodeTypes[0], s.value());
  const auto explained = [&](mha_dtype dtype) {
    AttentionCall args = AttentionProblem(s, MaskKind::kNone, 1).args();
    std::vector<float> any(1);
    args.key = key.view(), args.value = value.view();
    args.output = mut_view(any.data()), args.output.dtype = dtype;
    char text[8192];
    mha_error error = {};
    require_ok(attention_explain(cache_context(), args, text, sizeof text, nullptr, &error), error);
    return std::string(text);
  };
  CHECK(explained(MHA_F32).find("rotation of") == std::string::npos);
  CHECK(explained(MHA_F32).find("after attention") == std::string::npos);
  key.rotated(), value.rotated();
  const std::string floats = explained(MHA_F32), half = explained(MHA_F16);
  for (const char* line : {"rotation of keys: by a Walsh-Hadamard matrix, in blocks of 32 elements\n",
                           "rotation of values: by a Walsh-Hadamard matrix, in blocks of 64 elements\n",
                           "before attention: queries rotated as the keys by a phase of its own, into the workspace\n",
                           "after attention: the output rotated back as the values by a phase of its own, in place\n"})
    CHECK(floats.find(line) != std::string::npos);
  CHECK(half.find("by a phase of its own, from the workspace\n") != std::string::npos);
}
