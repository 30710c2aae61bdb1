// SPDX-License-Identifier: Apache-2.0
// Layers over 16-bit inputs, weights and outputs: the widening law in every bit, for self- and cross-attention, fused
// weights and added keys; workspace and its bound; blobs; the error of packing.
#include "tests/support/counting.h"
#include "tests/support/element_linears.h"
#include "tests/support/float_environment.h"
#include "tests/support/seeds.h"

using namespace mha::test;

namespace {

/// The types of a layer's tensors. `packed` -1: as the weights are given.
struct LayerTypes {
  mha_dtype query, key, value, weight[4], output;
  int packed;

  static LayerTypes all(mha_dtype dtype) { return {dtype, dtype, dtype, {dtype, dtype, dtype, dtype}, dtype, -1}; }
  static LayerTypes random(Random& random) {
    const auto any = [&] { return kDtypes[random.below(3)]; };
    return {any(), any(), any(), {any(), any(), any(), any()}, any(), one_of(random, {-1, -1, 0, 1, 2})};
  }
  std::string describe() const {
    std::string text = std::string("query ") + name_of(query) + " key " + name_of(key) + " value " + name_of(value);
    text += " weights";
    for (mha_dtype dtype : weight) text += std::string(" ") + name_of(dtype);
    if (packed >= 0) text += std::string(" packed as ") + name_of(static_cast<mha_dtype>(packed));
    return text + " output " + name_of(output);
  }
};

/// A problem of floats stored in these types; it becomes the float problem over the widened numbers, which is the
/// oracle.
struct ElementLayer {
  LayerProblem wide;
  LayerTypes types;
  int64_t pad;
  ElementRows query, key, value;
  std::vector<ElementRows> weights;
  bool fused = false;  // weights[0] is in_proj_weight, weights[1] that of the output
  std::vector<float> bias_key, bias_value;

  ElementLayer(const mha_layer_config& config, int64_t B, int64_t Tq, int64_t Tk, Biases biases, const LayerTypes& t,
               uint64_t seed, int64_t padding = 0, bool is_fused = false)
      : wide(config, B, Tq, Tk, biases, seed),
        types(t),
        pad(padding),
        query(t.query, B * Tq, full_config(config).embed_dim, padding, padding),
        key(t.key, B * Tk, full_config(config).kdim, 2 * padding, padding),
        value(t.value, B * Tk, full_config(config).vdim, padding),
        fused(is_fused) {
    const mha_layer_config c = full_config(config);
    store(&query, &wide.query), store(&key, &wide.key), store(&value, &wide.value);
    wide.key.reserve(1), wide.value.reserve(1);
    std::vector<float>* floats[] = {&wide.query_weight, &wide.key_weight, &wide.value_weight, &wide.output_weight};
    const int64_t columns[] = {c.embed_dim, c.kdim, c.vdim, c.num_heads * c.value_head_dim};
    if (fused) {
      types.weight[1] = types.weight[2] = types.weight[0];
      keep(&wide.in_proj_weight, c.embed_dim, types.weight[0]), keep(&wide.output_weight, columns[3], types.weight[3]);
    } else {
      for (int i = 0; i < 4; ++i) keep(floats[i], columns[i], types.weight[i]);
    }
  }

  mha_layer_weights narrow_weights() const {
    mha_layer_weights w = fused ? wide.fused_weights() : wide.separate_weights();
    mha_view* views[] = {&w.query_weight, &w.key_weight, &w.value_weight, &w.output_weight};
    if (fused) views[0] = &w.in_proj_weight, views[1] = &w.output_weight;
    for (size_t i = 0; i < weights.size(); ++i) *views[i] = weights[i].view();
    return with_added(w);
  }
  mha_layer_weights wide_weights() const { return with_added(fused ? wide.fused_weights() : wide.separate_weights()); }
  int64_t added() const { return (bias_key.empty() ? 0 : 1) + (wide.config.add_zero_attn ? 1 : 0); }

  LayerPtr make(const mha_context* context, mha_storage_error* packed_error = nullptr) const {
    mha_layer_config config = wide.config;
    mha_storage storage = {};
    if (types.packed >= 0) storage.dtype = static_cast<mha_dtype>(types.packed), config.packed = &storage;
    config.packed_error = packed_error;
    const mha_layer_weights w = narrow_weights();
    mha_layer* layer = nullptr;
    mha_error error = {};
    require_ok(mha_layer_create(context, &config, &w, &layer, &error), error);
    return LayerPtr(layer);
  }
  /// The float call's arguments over the stored tensors; what is not given stays so.
  LayerCall narrowed(LayerCall args) const {
    args.query = items(query, wide.Tq);
    if (args.key.data) args.key = items(key, wide.Tk);
    if (args.value.data) args.value = items(value, wide.Tk);
    return args;
  }

 private:
  static void store(ElementRows* rows, std::vector<float>* floats) { *floats = rows->fill(*floats).floats(); }
  void keep(std::vector<float>* floats, int64_t columns, mha_dtype dtype) {
    ElementRows rows(dtype, static_cast<int64_t>(floats->size()) / columns, columns, pad, pad);
    store(&rows, floats);
    weights.push_back(rows);
    if (types.packed >= 0) *floats = through(static_cast<mha_dtype>(types.packed), *floats);
  }
  static mha_view items(const ElementRows& rows, int64_t length) {
    mha_view v = rows.view();
    if (v.stride_t) v.stride_b = std::max<int64_t>(length, 1) * v.stride_t;
    return v;
  }
  mha_layer_weights with_added(mha_layer_weights w) const {
    if (!bias_key.empty()) w.bias_key = bias_key.data(), w.bias_value = bias_value.data();
    return w;
  }
};

/// The call over stored tensors into an output of its own type, in exactly the workspace that it asks for.
void check_law(const mha_context* context, const mha_layer* layer, const ElementLayer& p, const LayerCall& floats,
               const LayerResult& want) {
  const mha_layer_config c = full_config(p.wide.config);
  LayerCall args = p.narrowed(floats);
  ElementRows output(p.types.output, args.batch * args.query_len, c.out_dim, p.pad, p.pad);
  args.output = output.mut_view();
  if (args.output.stride_t) args.output.stride_b = std::max<int64_t>(args.query_len, 1) * args.output.stride_t;
  std::vector<float> weights = poisoned(static_cast<int64_t>(want.weights.size()));
  if (!weights.empty()) args.results.weights = mut_view(weights.data());
  if (weights.empty()) args.results = {};
  mha_error error = {};
  size_t bytes = 0, bound = 0;
  require_ok(layer_workspace_bytes(context, layer, args, &bytes, &error), error);
  require_ok(layer_workspace_bound(context, layer, args, &bound, &error), error);
  CHECK(bytes <= bound);
  WatchedWorkspace workspace(bytes);
  workspace.lend(&args.resources);
  require_ok(layer_forward(context, layer, args, &error), error);
  CHECK(workspace.canaries_intact());
  CHECK(output.gaps_intact());
  check_rounded("output", output, want.output);
  check_same_bits("weights", weights, want.weights);
}

mha_layer_config config_of(int64_t E, int64_t H, int64_t Hkv, int64_t D, int64_t Dv = 0) {
  mha_layer_config config = {};
  config.embed_dim = E, config.num_heads = H, config.num_kv_heads = Hkv, config.head_dim = D;
  config.value_head_dim = Dv;
  return config;
}

/// The law of one problem on every target, self- or cross-attention.
void check_everywhere(const ElementLayer& p, bool self, int64_t threads) {
  INFO(p.types.describe() << (self ? ", self" : ", cross") << ", " << threads << " threads");
  for_each_target(
      [&](const std::string&, const mha_context* context) {
        LayerCall args = p.wide.args();
        if (self) args.key = args.value = {}, args.key_len = 0;
        args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
        const LayerResult want = run_layer(context, p.wide.make_from(context, p.wide_weights()).get(), args, p.added());
        const LayerPtr layer = p.make(context);
        check_law(context, layer.get(), p, args, want);
        args.results = {};
        check_law(context, layer.get(), p, args, {want.output, {}});
      },
      threads);
}

}  // namespace

TEST_CASE("layer elements: each type alone and in any mix, self and cross, separate and fused", "[layer][elements]") {
  Random random(450000);
  for (bool fused : {false, true}) {
    for (bool self : {false, true}) {
      for (int n = 0; n < 12; ++n) {
        const LayerTypes types = n < 3 ? LayerTypes::all(kDtypes[n]) : LayerTypes::random(random);
        const ElementLayer p(config_of(40, 6, 2, 9, 7), 2, 11, 35, Biases::kAll, types, random.bits() >> 8, n % 3,
                             fused);
        check_everywhere(p, self, n % 2 ? 3 : 1);
      }
    }
  }
}

TEST_CASE("layer elements: bias_key and add_zero_attn", "[layer][elements][added]") {
  Random random(451000);
  for (int n = 0; n < 12; ++n) {
    mha_layer_config config = config_of(24, 4, 2, 8, 10);
    config.add_zero_attn = n % 3 != 0;
    ElementLayer p(config, 2, n % 2 ? 5 : 40, n % 4 < 2 ? 37 : 255, Biases::kAll, LayerTypes::random(random),
                   random.bits() >> 8, n % 2);
    if (n % 3 != 1) p.bias_key = random_floats(16, 451100), p.bias_value = random_floats(20, 451200);
    check_everywhere(p, false, n % 2 ? 1 : 3);
    if (n % 2) check_everywhere(p, true, 1);
  }
}

TEST_CASE("layer elements: output in the query's own memory", "[layer][elements][overlap]") {
  for (mha_dtype dtype : kHalfDtypes) {
    const ElementLayer p(config_of(32, 4, 4, 8), 2, 19, 19, Biases::kAll, LayerTypes::all(dtype), 452000);
    for_each_target([&](const std::string&, const mha_context* context) {
      LayerCall args = p.wide.args();
      args.key = args.value = {}, args.key_len = 0, args.causal = 1;
      const LayerResult want = run_layer(context, p.wide.make_from(context, p.wide_weights()).get(), args);
      ElementRows place = p.query;
      args = p.narrowed(args);
      args.query = place.view(), args.output = place.mut_view();
      mha_error error = {};
      require_ok(layer_forward(context, p.make(context).get(), args, &error), error);
      check_rounded("in place", place, want.output);
      args.output.dtype = dtype == MHA_F16 ? MHA_BF16 : MHA_F16;  // the same place, but other elements
      CHECK(layer_forward(context, p.make(context).get(), args, &error) == MHA_ERR_STRIDE);
      CHECK(mentions(error, "output overlaps query"));
    });
  }
}

TEST_CASE("layer elements: the bound is enough for smaller calls", "[layer][elements][bounds]") {
  Random random(453000);
  for (int n = 0; n < 30; ++n) {
    const ElementLayer p(config_of(48, 6, 2, 16), 3, 70, 300, Biases::kAll, LayerTypes::random(random), 453100, n % 2);
    const RandomContext context = random_context(random);
    const LayerPtr layer = p.make(context.get());
    LayerCall args = p.narrowed(p.wide.args());
    ElementRows output(p.types.output, 3 * 70, 48);
    args.output = output.mut_view();
    size_t bound = 0;
    REQUIRE(layer_workspace_bound(context.get(), layer.get(), args, &bound, nullptr) == MHA_OK);
    for (int call = 0; call < 12; ++call) {
      args.batch = between(random, 1, 3), args.query_len = between(random, 1, 70),
      args.key_len = between(random, 1, 300);
      size_t bytes = 0;
      REQUIRE(layer_workspace_bytes(context.get(), layer.get(), args, &bytes, nullptr) == MHA_OK);
      INFO(context.describe() << ", " << p.types.describe() << ": B " << args.batch << " Tq " << args.query_len
                              << " Tk " << args.key_len);
      CHECK(bytes <= bound);
    }
  }
}

TEST_CASE("layer elements: packed weights in any mode of the caller, mapped, and their error",
          "[layer][elements][blob]") {
  Random random(454000);
  const auto saved = [](const mha_layer* layer) {
    mha_error error = {};
    size_t bytes = 0;
    require_ok(mha_layer_save_bytes(layer, &bytes, &error), error);
    std::vector<unsigned char> blob(bytes);
    require_ok(mha_layer_save(layer, blob.data(), bytes, &error), error);
    return blob;
  };
  for (int n = 0; n < 12; ++n) {
    const ElementLayer p(config_of(33, 4, 2, 9, 5), 1, 6, 7, Biases::kAll, LayerTypes::random(random), 454100, n % 3);
    const std::vector<unsigned char> want = saved(p.make(shared_context(supported_targets()[0], 1)).get());
    for (const CallerMode& mode : kCallerModes) {
      for_each_target([&](const std::string& target, const mha_context* context) {
        INFO(p.types.describe() << ", " << mode.name);
        CountingAllocator allocator;  // its memory is NaN, not zeros
        const ContextPtr poisoned_context = make_context(allocator.options(target, 1));
        LayerPtr layer;
        mha_storage_error errors[4] = {};
        in_mode(mode, [&] { layer = p.make(poisoned_context.get(), errors); });
        std::vector<unsigned char> blob = saved(layer.get());
        REQUIRE((blob == want));
        for (int i = 0; i < 4; ++i) {
          CHECK(errors[i].elements == std::initializer_list<int64_t>{36 * 33, 18 * 33, 10 * 33, 33 * 20}.begin()[i]);
          const mha_dtype given = p.types.weight[i];
          if (p.types.packed == MHA_F16 && given == MHA_BF16) continue;  // exact but for denormals
          const bool rounds = p.types.packed > 0 && p.types.packed != static_cast<int>(given);
          CHECK((errors[i].max > 0) == rounds);
          CHECK((errors[i].rms > 0 && errors[i].rms < errors[i].max) == rounds);
        }
        mha_layer* mapped = nullptr;
        mha_error error = {};
        require_ok(mha_layer_map(context, blob.data(), blob.size(), &mapped, &error), error);
        const LayerPtr owner(mapped);
        const LayerCall args = p.wide.args();
        check_law(context, mapped, p, args,
                  {run_layer(context, p.wide.make_from(context, p.wide_weights()).get(), args).output, {}});
      });
    }
  }
}

TEST_CASE("properties: layers over 16-bit elements obey the widening law", "[properties][layer][elements]") {
  for (const uint64_t seed : seeds(460000, 110)) {
    Random random(seed);
    const int64_t groups = between(random, 1, 3);
    mha_layer_config config =
        config_of(between(random, 1, 90), groups * between(random, 1, 3), groups, between(random, 1, 24));
    if (one_in(random, 2)) config.value_head_dim = between(random, 1, 24);
    if (one_in(random, 3)) config.kdim = between(random, 1, 60), config.vdim = between(random, 1, 60);
    if (one_in(random, 3)) config.out_dim = between(random, 1, 60);
    const bool self = !config.kdim && one_in(random, 2);
    const int64_t B = between(random, 0, 3), Tq = random_length(random, 200);
    const int64_t Tk = self ? Tq : random_length(random, 600);
    const RandomMasks masks(random, B, config.num_heads, Tq, Tk);
    const ElementLayer p(config, B, Tq, Tk, one_of(random, {Biases::kNone, Biases::kAll, Biases::kInOnly}),
                         LayerTypes::random(random), random.bits() >> 8, random.below(3),
                         !config.kdim && one_in(random, 2));
    INFO("seed " << seed << ": " << p.types.describe() << (p.fused ? ", fused" : "") << ", B " << B << " Tq " << Tq
                 << " Tk " << Tk << ":" << masks.describe());
    LayerCall args = p.wide.args();
    if (self) args.key = args.value = {};
    masks.get().put_into(&args);
    args.score_mods = masks.mods();
    args.results.weights_mode = one_of(random, {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED});
    mha_norm norm = {};
    mha_rope rope = {};
    norm.epsilon = 1e-5f;
    if (one_in(random, 3)) args.query_norm = args.key_norm = &norm;
    if (config.head_dim % 2 == 0 && masks.get().align == MHA_ALIGN_START) args.rope = &rope;
    const LayerPtr layer = p.make(random_context(random).get());  // packed by one target, used by all
    for_each_target([&](const std::string& target, const mha_context* context) {
      const LayerResult want = run_layer(context, p.wide.make_from(context, p.wide_weights()).get(), args);
      check_law(context, layer.get(), p, args, want);
      check_law(shared_context(target, one_of<int64_t>(random, {2, 3, 5})), layer.get(), p, args, want);
    });
  }
}
