// SPDX-License-Identifier: Apache-2.0
// Attention over caches of any types: the bits of the f32 call over a cache of floats that holds the same tokens widened,
// and of a plain call over them; layers that append to such caches: f32 attention over keys and values as stored.
#include "tests/support/random_typed.h"
#include "tests/support/seeds.h"

using namespace mha::test;

namespace {

/// A call over a cache of any types, and its twin over a cache of floats.
struct TwinDecode {
  Random draw, twin_draw;
  RandomStorage storage;
  RandomDecode typed, twin;
  Elements query;
  std::vector<float> wide_query;
  mha_dtype output;
  TypedMask mask, mask2;
  AttentionCall stored, wide;

  TwinDecode(Random& random, uint64_t seed)
      : draw(seed),
        twin_draw(seed),
        storage{random_dtype(random), random_dtype(random), seed, false, one_in(random, 2) ? seed : 0},
        typed(draw, storage),
        twin(twin_draw, {storage.key, storage.value, seed, true, storage.codes}),
        output(random_dtype(random)),
        stored(typed.args()),
        wide(twin.args()) {
    const int64_t count = extent().b * extent().t * wide.num_heads * wide.head_dim;
    const float* given = static_cast<const float*>(wide.query.data);
    query = Elements(random_dtype(random), std::vector<float>(given, given + count));
    wide_query = query.widened(), wide_query.push_back(0);  // never empty
    stored.query = query.view(), wide.query = view(wide_query.data());
    mha_masks &m = stored.masks, &w = wide.masks;
    mask.place(random, typed.B, typed.H, typed.longest_query, typed.longest_key, &m.add_mask, &w.add_mask);
    mask2.place(random, typed.B, typed.H, typed.longest_query, typed.longest_key, &m.add_mask2, &w.add_mask2);
  }
  Extent extent() const {
    const bool ragged = wide.items.query_offsets != nullptr;
    return {ragged ? 1 : wide.batch, wide.query_len, wide.num_heads, wide.value_head_dim};
  }
  Typed output_of(mha_dtype dtype) const { return Typed(dtype, extent(), dense_bthd(extent())); }
  std::string describe() const {
    const auto &key = typed.cache.key_codes, &value = typed.cache.value_codes;
    return typed.describe() + ", keys " + (key ? key->describe() : dtype_name(storage.key)) + " values " +
           (value ? value->describe() : dtype_name(storage.value)) + " query " + dtype_name(query.dtype()) +
           " output " + dtype_name(output);
  }

  /// Item b as a plain call over its tokens, widened, is its rows of `want`.
  void check_item(const mha_context* context, int64_t b, const TypedResult& want) {
    AttentionCall item = typed.item(b);
    item.masks.add_mask = wide.masks.add_mask, item.masks.add_mask2 = wide.masks.add_mask2;
    for (mha_add_mask* m : {&item.masks.add_mask, &item.masks.add_mask2})
      if (m->data) m->data = static_cast<const float*>(m->data) + b * m->stride_b;
    item.query = view(wide_query.data() + typed.query_begin(b) * typed.H * item.head_dim);
    item.results = {};
    const Extent e = {1, item.query_len, item.num_heads, item.value_head_dim};
    const TypedResult own = run_typed(context, item, Typed(MHA_F32, e, dense_bthd(e)), typed.key_len(b));
    const std::vector<float> all = want.output.widened();
    const auto first = all.begin() + typed.query_begin(b) * typed.H * item.value_head_dim;
    check_rounded("a plain call", own.output, std::vector<float>(first, first + own.output.count()));
  }
};

}  // namespace

TEST_CASE("widening: attention over caches of any types is the f32 call over their tokens",
          "[widening][properties][cache][bits]") {
  int64_t rings = 0, shared = 0, ragged = 0, run = 0, codes = 0;
  for (const auto& [arithmetic, seed] : seeds_of_both(620000, 450, 150)) {
    Random random(seed);
    TwinDecode d(random, seed + 7000);
    d.wide.arithmetic = d.stored.arithmetic = arithmetic, d.typed.set_arithmetic(arithmetic);
    INFO("seed " << seed << " arithmetic " << arithmetic << ": " << d.describe());
    if (d.typed.refused()) continue;
    ++run, ragged += d.wide.items.query_offsets != nullptr, codes += d.storage.codes != 0;
    const int64_t b = random.below(d.typed.B);
    rings += d.typed.cache.first_kept(d.wide.items.sequences[b]) > 0;
    for (const std::string& target : targets_of(arithmetic)) {
      INFO(target);
      const TypedResult want = run_typed(shared_context(target, 1), d.wide, d.output_of(MHA_F32), d.typed.longest_key);
      const mha_context* context = shared_context(target, one_of<int64_t>(random, {1, 2, 3, 5}));
      check_widened("over the cache", run_typed(context, d.stored, d.output_of(d.output), d.typed.longest_key), want);
      if (d.typed.query_len(b) > 0) d.check_item(shared_context(target, 1), b, want);
    }
    AttentionCall args = d.stored;
    Typed output = d.output_of(d.output);
    std::vector<float> any(1);
    args.output = output.mut_view();
    if (args.results.weights_mode != MHA_WEIGHTS_NONE) args.results.weights = mut_view(any.data());
    char text[8192];
    mha_error error = {};
    require_ok(attention_explain(cache_context(), args, text, sizeof text, nullptr, &error), error);
    shared += std::string(text).find("shared prefixes: none") == std::string::npos;
  }
  CHECK(run >= share_of(400));
  for (const int64_t cases : {rings, shared, ragged, codes}) CHECK(cases > share_of(20));
}

namespace {

/// A layer that decodes into a cache of any types. What it must give: its keys and values as a cache of floats gets them
/// are rounded, and appended to another of floats, which the layer then reads.
struct TwinLayers {
  mha_layer_config config = {};
  std::unique_ptr<LayerProblem> problem;
  LayerPtr layer;
  CachePtr typed, plain, rounded_;
  mha_cache_config caches;
  mha_rope rope = {};
  mha_norm norm = {};
  LayerCall common;
  int64_t done = 0;

  TwinLayers(Random& random, const mha_context* context) {
    config.num_kv_heads = between(random, 1, 2), config.num_heads = config.num_kv_heads * between(random, 1, 3);
    config.embed_dim = between(random, 1, 40), config.head_dim = 2 * between(random, 1, 12);
    config.value_head_dim = between(random, 1, 20), config.out_dim = between(random, 1, 20);
    problem = std::make_unique<LayerProblem>(config, 1, 1, 1, Biases::kAll, random.bits() >> 8);
    layer = problem->make(context);
    caches = cache_config(one_of(random, {MHA_CACHE_CONTIGUOUS, MHA_CACHE_RING, MHA_CACHE_PAGED}), 700, 1, 24);
    caches.num_kv_heads = config.num_kv_heads;
    caches.head_dim = config.head_dim, caches.value_head_dim = config.value_head_dim;
    plain = make_cache(cache_context(), caches), rounded_ = make_cache(cache_context(), caches);
    caches.key.dtype = random_dtype(random), caches.value.dtype = random_dtype(random);
    typed = make_cache(cache_context(), caches);
    common.causal = 1, common.batch = 1;
    if (one_in(random, 2)) common.rope = &rope;
    norm.epsilon = 1e-4f;
    if (one_in(random, 2)) common.query_norm = common.key_norm = &norm;
    if (one_in(random, 3)) common.masks.window_left = between(random, 1, 300);
  }
  Elements forward(const mha_context* context, mha_cache* cache, const mha_view& query, mha_dtype output) {
    LayerCall args = common;
    Elements result(output, args.query_len * config.out_dim);
    args.query = query, args.output = result.mut_view(), args.cache = cache;
    if (cache == rounded_.get()) args.cache_use = MHA_CACHE_READ, args.key_norm = nullptr;
    std::unique_ptr<GuardedBuffer> workspace;
    guarded_workspace(&workspace, &args, [&](size_t* bytes, mha_error* error) {
      return layer_workspace_bytes(context, layer.get(), args, bytes, error);
    });
    mha_error error = {};
    require_ok(layer_forward(context, layer.get(), args, &error), error);
    CHECK(workspace->slack_intact());
    return result;
  }
  void step(Random& random, const std::string& target, int64_t count) {
    const mha_context *one = shared_context(target, 1), *some = shared_context(target, one_of<int64_t>(random, {1, 3}));
    common.query_len = count;
    const Elements query(random_dtype(random), random_floats(count * config.embed_dim, random.bits() >> 8));
    const std::vector<float> wide = query.widened();
    forward(one, plain.get(), view(wide.data()), MHA_F32);
    Tokens tokens = exported(plain.get(), 0, done, count);
    tokens.key = rounded(caches.key.dtype, tokens.key), tokens.value = rounded(caches.value.dtype, tokens.value);
    require_append(rounded_.get(), 0, tokens);
    const Elements want = forward(one, rounded_.get(), view(wide.data()), MHA_F32);
    const Elements got = forward(some, typed.get(), query.view(), random_dtype(random));
    check_rounded("output", got, want.widened());
    check_same_tokens("appended", exported(typed.get(), 0, done, count), tokens);
    done += count;
  }
};

}  // namespace

TEST_CASE("widening: a layer appends to caches of any types and sees what they store", "[widening][cache][bits]") {
  for (const uint64_t seed : seeds(630000, 60)) {
    for (const std::string& target : supported_targets()) {
      Random random(seed);
      TwinLayers layers(random, shared_context(target, 1));
      INFO("seed " << seed << " " << target << " " << kind_name(layers.caches.kind) << " keys "
                   << dtype_name(layers.caches.key.dtype) << " values " << dtype_name(layers.caches.value.dtype));
      for (int64_t count : {random_length(random, 300) + 1, int64_t{1}, between(random, 1, 40), int64_t{1}})
        layers.step(random, target, count);
    }
  }
}
