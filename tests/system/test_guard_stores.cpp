// SPDX-License-Identifier: Apache-2.0
// What is stored in any types, between pages without access: rows prepared, a cache in memory of the caller's, tokens
// appended and exported, a layer with its blob.
#include "tests/support/guard.h"
#include "tests/support/layers.h"
#include "tests/support/random_typed.h"
#include "tests/support/seeds.h"

using namespace mha::test;

namespace {

const Guard kSides[] = {Guard::kAfter, Guard::kBefore};

}  // namespace

TEST_CASE("guard stores: rows of any types between pages without access", "[widening][memory][guard]") {
  for (const uint64_t seed : seeds(810000, 150)) {
    Random random(seed);
    const int64_t length = between(random, 1, 9), heads = between(random, 1, 3), width = between(random, 1, 70);
    const Elements input(random_dtype(random), random_floats(length * heads * width, random.bits() >> 8));
    mha_rope rope = {};
    rope.style = one_of(random, {MHA_ROPE_HALF, MHA_ROPE_INTERLEAVED});
    rope.dims = 2 * between(random, 1, std::max<int64_t>(1, width / 2));
    mha_norm norm = {};
    norm.epsilon = 1e-5f;
    mha_rows_args args = {};
    args.batch = 1, args.length = length, args.num_heads = heads, args.head_dim = width;
    if (width > 1 && one_in(random, 2)) args.rope = &rope;
    if (one_in(random, 3)) args.norm = &norm;
    std::vector<int64_t> slots(static_cast<size_t>(length));
    for (int64_t t = 0; t < length; ++t) slots[t] = length - 1 - t;
    if (one_in(random, 2)) args.slots = slots.data(), args.page_size = 1, args.num_pages = length;
    const mha_dtype to = random_dtype(random);
    INFO("seed " << seed << ": " << dtype_name(input.dtype()) << " to " << dtype_name(to) << " width " << width);
    for (const Guard side : kSides) {
      const GuardedElements from(input, side), output(Elements(to, input.count()), side);
      for_each_target([&](const std::string&, const mha_context* context) {
        const std::vector<float> wide = input.widened();
        std::vector<float> want = poisoned(input.count());
        mha_rows_args floats = args;
        floats.input = view(wide.data()), floats.output = mut_view(want.data());
        mha_error error = {};
        require_ok(mha_rows_prepare(context, &floats, &error), error);
        args.input = from.view(), args.output = output.mut_view();
        require_ok(mha_rows_prepare(context, &args, &error), error);
        check_rounded("rows", output.elements(), want);
        CHECK(output.slack_intact());
      });
    }
  }
}

namespace {

/// A cache in guarded memory, filled from guarded tokens; export and attention over it must be those of the tokens.
void check_cache(Random& random, const mha_context* context, mha_cache_kind kind, Guard side) {
  mha_cache_config config = cache_config(kind, 40, 1, 7);
  config.head_dim = between(random, 1, 40), config.value_head_dim = between(random, 1, 40);
  config.key.dtype = random_dtype(random), config.value.dtype = random_dtype(random);
  mha_error error = {};
  size_t bytes = 0;
  require_ok(mha_cache_memory_bytes(&config, &bytes, &error), error);
  const GuardedBuffer memory(bytes, side);
  config.memory = memory.data(), config.memory_bytes = bytes;
  const CachePtr cache = make_cache(context, config);
  const int64_t count = between(random, 1, 40);
  const Tokens tokens = random_tokens(config, count, random.bits() >> 8);
  const GuardedElements key(Elements(random_dtype(random), tokens.key), side);
  const GuardedElements value(Elements(random_dtype(random), tokens.value), side);
  mha_append_args append = {};
  append.batch = 1, append.length = count, append.key = key.view(), append.value = value.view();
  require_ok(mha_cache_append(context, cache.get(), &append, &error), error);
  const std::vector<float> keys = rounded(config.key.dtype, key.widened());
  const std::vector<float> values = rounded(config.value.dtype, value.widened());

  const GuardedElements key_out(Elements(random_dtype(random), key.elements().count()), side);
  const GuardedElements value_out(Elements(random_dtype(random), value.elements().count()), side);
  mha_export_args args = {};
  args.count = count, args.key = key_out.mut_view(), args.value = value_out.mut_view();
  require_ok(mha_cache_export(cache.get(), &args, &error), error);
  check_rounded("exported keys", key_out.elements(), keys);
  check_rounded("exported values", value_out.elements(), values);

  const AttentionShape s = {1, 4, 2, between(random, 1, 30), count, config.head_dim, config.value_head_dim};
  const AttentionProblem p(s, MaskKind::kNone, random.bits() >> 8);
  AttentionCall plain = p.args(), cached = p.args();
  plain.key = view(keys.data()), plain.value = view(values.data());
  cached.key = cached.value = {}, cached.key_len = 0, cached.cache = cache.get();
  const Extent e = s.output();
  check_rounded("output", run_typed(context, cached, Typed(MHA_BF16, e, dense_bthd(e)), count).output,
                run_attention(context, plain).output);
  CHECK((memory.slack_intact() && key_out.slack_intact() && value_out.slack_intact()));
}

/// A layer of 16-bit weights that lie in a guarded blob, over guarded tensors.
void check_layer(Random& random, const mha_context* context, Guard side) {
  const mha_layer_config config = {33, 6, 3, 9, 19, 12, 65, 71, 0, 0.3f};
  const LayerProblem p(config, 2, between(random, 1, 20), between(random, 1, 40), Biases::kAll, random.bits() >> 8);
  const mha_dtype dtype = random_dtype(random);
  const GuardedElements wq(Elements(dtype, p.query_weight), side), wk(Elements(dtype, p.key_weight), side);
  const GuardedElements wv(Elements(dtype, p.value_weight), side), wo(Elements(dtype, p.output_weight), side);
  mha_layer_weights weights = p.separate_weights(), wide_weights = weights;
  weights.query_weight = wq.view(), weights.key_weight = wk.view();
  weights.value_weight = wv.view(), weights.output_weight = wo.view();
  const std::vector<float> q = wq.widened(), k = wk.widened(), v = wv.widened();
  const std::vector<float> o = wo.widened();
  wide_weights.query_weight = view(q.data()), wide_weights.key_weight = view(k.data());
  wide_weights.value_weight = view(v.data()), wide_weights.output_weight = view(o.data());
  const LayerPtr packed = p.make_from(context, weights), wide_layer = p.make_from(context, wide_weights);
  mha_error error = {};
  size_t blob_bytes = 0;
  require_ok(mha_layer_save_bytes(packed.get(), &blob_bytes, &error), error);
  const GuardedBuffer blob(blob_bytes, side);
  require_ok(mha_layer_save(packed.get(), blob.data(), blob_bytes, &error), error);
  mha_layer* mapped = nullptr;
  require_ok(mha_layer_map(context, blob.data(), blob_bytes, &mapped, &error), error);
  const LayerPtr layer(mapped);

  const GuardedElements query(Elements(random_dtype(random), p.query), side);
  const GuardedElements key(Elements(random_dtype(random), p.key), side);
  const GuardedElements value(Elements(random_dtype(random), p.value), side);
  const std::vector<float> wide_query = query.widened(), wide_key = key.widened();
  const std::vector<float> wide_value = value.widened();
  LayerCall args = p.args();
  args.query = view(wide_query.data()), args.key = view(wide_key.data()), args.value = view(wide_value.data());
  const LayerResult want = run_layer(context, wide_layer.get(), args);
  const GuardedElements output(Elements(random_dtype(random), static_cast<int64_t>(want.output.size())), side);
  args.query = query.view(), args.key = key.view(), args.value = value.view(), args.output = output.mut_view();
  std::unique_ptr<GuardedBuffer> workspace;
  guarded_workspace(&workspace, &args, [&](size_t* bytes, mha_error* e) {
    return layer_workspace_bytes(context, layer.get(), args, bytes, e);
  });
  require_ok(layer_forward(context, layer.get(), args, &error), error);
  check_rounded("layer", output.elements(), want.output);
  CHECK((output.slack_intact() && workspace->slack_intact() && blob.slack_intact()));
}

}  // namespace

TEST_CASE("guard stores: caches of any types in guarded memory", "[widening][memory][guard][cache]") {
  for (const uint64_t seed : seeds(820000, 60)) {
    INFO("seed " << seed);
    for (const mha_cache_kind kind : kCacheKinds)
      for (const Guard side : kSides)
        for_each_target([&](const std::string&, const mha_context* context) {
          Random random(seed);
          check_cache(random, context, kind, side);
        });
  }
}

TEST_CASE("guard stores: layers of any types, their sources and blobs", "[widening][memory][guard]") {
  for (uint64_t seed = 830000; seed < 830030; ++seed) {
    INFO("seed " << seed);
    for (const Guard side : kSides)
      for (const int64_t threads : {1, 3})
        for_each_target(
            [&](const std::string&, const mha_context* context) {
              Random random(seed);
              check_layer(random, context, side);
            },
            threads);
  }
}
