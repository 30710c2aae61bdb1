// SPDX-License-Identifier: Apache-2.0
// Keys that a layer adds to those of each item (bias_key, add_zero_attn): every query sees them, whatever the masks.
// Values, bits, what is masked, masks at the edge of memory, blobs, refusals. PyTorch's numbers: test_golden.cpp.
#include "tests/support/guard.h"
#include "tests/support/layers.h"

using namespace mha::test;

namespace {

/// A layer with added keys, and masks of every kind for its calls.
struct AddedKeys {
  mha_layer_config config = {};
  LayerProblem layer;
  AttentionProblem masked;  // its masks alone are used
  std::vector<float> bias_key, bias_value;
  bool has_bias;

  static mha_layer_config make_config(bool zeros) {
    mha_layer_config config = {};
    config.embed_dim = 24, config.num_heads = 4, config.num_kv_heads = 2, config.head_dim = 8;
    config.value_head_dim = 10, config.add_zero_attn = zeros ? 1 : 0;
    return config;
  }
  AddedKeys(bool bias, bool zeros, int64_t B, int64_t Tq, int64_t Tk, MaskKind kind, uint64_t seed)
      : config(make_config(zeros)),
        layer(config, B, Tq, Tk, Biases::kAll, seed * 100),
        masked({B, 4, 2, Tq, Tk, 8, 10}, kind, seed),
        bias_key(random_floats(16, seed + 1)),
        bias_value(random_floats(20, seed + 2)),
        has_bias(bias) {}

  int64_t count() const { return (has_bias ? 1 : 0) + config.add_zero_attn; }
  mha_layer_weights weights() const {
    mha_layer_weights w = layer.separate_weights();
    if (has_bias) w.bias_key = bias_key.data(), w.bias_value = bias_value.data();
    return w;
  }
  LayerCall args(mha_weights_mode mode) const {
    LayerCall args = layer.args();
    masked.masks.put_into(&args);
    args.results.weights_mode = mode;
    return args;
  }
};

constexpr mha_weights_mode kModes[] = {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED};

}  // namespace

TEST_CASE("added keys: every mask, around chunks, against the reference; threads and targets in bits", "[added]") {
  uint64_t seed = 900;
  for (const auto& [bias, zeros] : {std::pair<bool, bool>{true, false}, {false, true}, {true, true}}) {
    for (int kind = 0; kind < kMaskKinds; ++kind) {
      for (const auto& [Tq, Tk] :
           {std::pair<int64_t, int64_t>{1, 5}, {3, 15}, {40, 254}, {2, 255}, {5, 256}, {33, 600}}) {
        const AddedKeys p(bias, zeros, 2, Tq, Tk, static_cast<MaskKind>(kind), ++seed);
        const mha_weights_mode mode = kModes[seed % 3];
        const LayerReference want = reference_layer(p.config, p.weights(), p.args(mode));
        LayerResult first;
        for_each_target([&](const std::string& target, const mha_context* context) {
          INFO("mask " << kind << " Tq " << p.layer.Tq << " Tk " << p.layer.Tk << " mode " << mode);
          const LayerPtr layer = p.layer.make_from(context, p.weights());
          const LayerResult got = run_layer(context, layer.get(), p.args(mode), p.count());
          check_close("added " + target, got.output, want.output, {1e-6, 1.2e-7});
          check_close("added weights " + target, got.weights, want.weights, {2e-7, 6e-8});
          const LayerResult more = run_layer(shared_context(target, 3), layer.get(), p.args(mode), p.count());
          check_same_bits("threads", more.output, got.output);
          check_same_bits("threads: weights", more.weights, got.weights);
          if (!has_fma(target)) return;
          if (first.output.empty()) first = got;
          check_same_bits(target, got.output, first.output);
          check_same_bits(target + ": weights", got.weights, first.weights);
        });
      }
    }
  }
}

TEST_CASE("added keys: structured masks and sinks do not reach them", "[added]") {
  const std::vector<float> sinks = {0.5f, -1, 2, 0};
  uint64_t seed = 950;
  for (const auto& [Tq, Tk] : {std::pair<int64_t, int64_t>{2, 30}, {50, 255}, {3, 300}}) {
    for (int kind = 0; kind < 7; ++kind) {
      const AddedKeys p(true, true, 2, Tq, Tk, MaskKind::kNone, ++seed);
      Random random(seed);
      const int64_t bytes = (Tk + 7) / 8;
      std::vector<uint8_t> packed;
      for (int64_t n = 0; n < Tq * bytes; ++n) packed.push_back(static_cast<uint8_t>(random.below(256)));
      const GuardedBuffer bits(packed.size(), Guard::kAfter);
      std::memcpy(bits.data(), packed.data(), packed.size());
      std::vector<int32_t> query_segments, key_segments;
      for (int64_t n = 0; n < 2 * Tq; ++n) query_segments.push_back(static_cast<int32_t>(random.below(3)));
      for (int64_t n = 0; n < 2 * Tk; ++n) key_segments.push_back(static_cast<int32_t>(random.below(3)));
      const std::vector<int64_t> pairs = {0, 0, 0, 1, 1, 1}, prefix = {3, Tk / 2};
      LayerCall args = p.args(kModes[seed % 3]);
      const bool all = kind == 6;
      if (kind == 0 || all) args.masks.bit_mask = {static_cast<const uint8_t*>(bits.data()), 0, 0, bytes};
      if (kind == 1 || all) args.masks.window_left = 9, args.masks.sink_tokens = 4;
      if (kind == 2 || all) args.causal = 1, args.masks.prefix_lengths = prefix.data();
      if (kind == 3 || all) {
        args.masks.query_segments = query_segments.data();
        args.masks.key_segments = key_segments.data();
      }
      if (kind == 4) args.masks.block_mask = {20, 20, pairs.data(), 3};
      if (kind == 5 || all) args.score_mods.sink_logits = sinks.data();
      const LayerReference want = reference_layer(p.config, p.weights(), args);
      for_each_target([&](const std::string& target, const mha_context* context) {
        INFO("kind " << kind << " Tq " << p.layer.Tq << " Tk " << p.layer.Tk);
        const LayerPtr layer = p.layer.make_from(context, p.weights());
        const LayerResult got = run_layer(context, layer.get(), args, p.count());
        check_close("added structured " + target, got.output, want.output, {1e-6, 1.2e-7});
        check_close("added structured weights " + target, got.weights, want.weights, {2e-7, 6e-8});
      });
    }
  }
}

TEST_CASE("added keys: NaN in what is masked stays there; a query that sees no key sees the added ones", "[added]") {
  for (const int64_t Tq : {2, 60}) {
    const int64_t Tk = 300;
    AddedKeys p(true, true, 1, Tq, Tk, MaskKind::kNone, 1000);
    std::vector<uint8_t> open(static_cast<size_t>(Tq * Tk), 1);
    for (int64_t i = 0; i < Tq; ++i)
      for (int64_t j = 0; j < Tk; ++j) open[static_cast<size_t>(i * Tk + j)] = i > 0 && j != 7 && j < 290;
    const std::vector<int64_t> none = {0};
    for (const bool by_length : {false, true}) {
      LayerCall args = p.args(MHA_WEIGHTS_PER_HEAD);
      if (by_length) {
        args.items.key_lengths = none.data();
      } else {
        args.masks.bool_mask = {open.data(), 0, 0, Tk};
      }
      const LayerReference want = reference_layer(p.config, p.weights(), args);
      for_each_target([&](const std::string& target, const mha_context* context) {
        const LayerPtr layer = p.layer.make_from(context, p.weights());
        const LayerResult clean = run_layer(context, layer.get(), args, p.count());
        check_close("added " + target, clean.output, want.output, {1e-6, 1.2e-7});
        std::vector<float> key = p.layer.key, value = p.layer.value;
        const size_t from = by_length ? 0 : static_cast<size_t>(290 * 24);
        for (size_t n = from; n < key.size(); ++n) key[n] = value[n] = n % 2 == 0 ? kNan : kInf;
        for (size_t n = 7 * 24; n < 8 * 24; ++n) key[n] = value[n] = kNan;
        LayerCall dirty = args;
        dirty.key = view(key.data()), dirty.value = view(value.data());
        const LayerResult got = run_layer(context, layer.get(), dirty, p.count());
        check_same_bits("output", got.output, clean.output);
        check_same_bits("weights", got.weights, clean.weights);
      });
    }
  }
}

TEST_CASE("added keys: masks are read no further than the keys given", "[added]") {
  for (const int64_t Tk : {0, 1, 15, 16, 255, 256, 257}) {
    const int64_t Tq = 3;
    const AddedKeys p(true, true, 1, Tq, Tk, MaskKind::kNone, 1100);
    const std::vector<float> zeros(static_cast<size_t>(Tq * Tk));
    const GuardedFloats add(zeros, Guard::kAfter);
    const GuardedBuffer open(static_cast<size_t>(Tq * Tk), Guard::kAfter);
    std::memset(open.data(), 1, open.bytes());
    LayerCall args = p.args(MHA_WEIGHTS_AVERAGED);
    for_each_target([&](const std::string&, const mha_context* context) {
      const LayerPtr layer = p.layer.make_from(context, p.weights());
      const LayerResult want = run_layer(context, layer.get(), args, p.count());
      LayerCall masked = args;
      masked.masks.add_mask = {add.floats(), MHA_F32, 0, 0, 0, Tk};
      masked.masks.bool_mask = {static_cast<const uint8_t*>(open.data()), 0, 0, Tk};
      const LayerResult got = run_layer(context, layer.get(), masked, p.count());
      check_same_bits("output", got.output, want.output);
      check_same_bits("weights", got.weights, want.weights);
    });
  }
}

TEST_CASE("added keys: with rope and norm; explain says so", "[added][prepare]") {
  const AddedKeys p(true, true, 2, 6, 9, MaskKind::kCausal, 1200);
  mha_rope rope = {};
  rope.base = 100;
  mha_norm norm = {};
  norm.epsilon = 1e-6f;
  LayerCall args = p.args(MHA_WEIGHTS_PER_HEAD);
  args.rope = &rope;
  args.query_norm = args.key_norm = &norm;
  const LayerReference want = reference_layer(p.config, p.weights(), args);
  for_each_target([&](const std::string& target, const mha_context* context) {
    const LayerPtr layer = p.layer.make_from(context, p.weights());
    const LayerResult got = run_layer(context, layer.get(), args, p.count());
    check_close("added rope " + target, got.output, want.output, {1e-6, 1.2e-7});
    check_close("added rope weights " + target, got.weights, want.weights, {2e-7, 6e-8});
    std::vector<char> text(8192);
    mha_error error = {};
    require_ok(layer_explain(context, layer.get(), args, text.data(), text.size(), nullptr, &error), error);
    CHECK(std::string(text.data()).find("keys added by the layer: 2") != std::string::npos);
  });
}

TEST_CASE("added keys: a mapped layer has them too", "[added][blob]") {
  for (const auto& [bias, zeros] : {std::pair<bool, bool>{true, false}, {false, true}, {true, true}}) {
    const AddedKeys p(bias, zeros, 1, 4, 7, MaskKind::kBool, 1300);
    for_each_target([&, zeros = zeros](const std::string&, const mha_context* context) {
      const LayerPtr layer = p.layer.make_from(context, p.weights());
      mha_layer_config config = {};
      mha_layer_get_config(layer.get(), &config);
      CHECK(config.add_zero_attn == (zeros ? 1 : 0));
      mha_error error = {};
      size_t bytes = 0;
      require_ok(mha_layer_save_bytes(layer.get(), &bytes, &error), error);
      std::vector<float> blob(bytes / sizeof(float));
      require_ok(mha_layer_save(layer.get(), blob.data(), bytes, &error), error);
      mha_layer* mapped = nullptr;
      require_ok(mha_layer_map(context, blob.data(), blob.size() * sizeof(float), &mapped, &error), error);
      const LayerPtr owner(mapped);
      CHECK(mha_layer_added_keys(layer.get()) == p.count());
      CHECK(mha_layer_added_keys(mapped) == p.count());
      const LayerCall args = p.args(MHA_WEIGHTS_PER_HEAD);
      const LayerResult want = run_layer(context, layer.get(), args, p.count());
      const LayerResult got = run_layer(context, mapped, args, p.count());
      check_same_bits("output", got.output, want.output);
      check_same_bits("weights", got.weights, want.weights);
    });
  }
}

TEST_CASE("added keys: NaN in one value reaches the queries that see it, and no others", "[added][edges]") {
  for (const int64_t Tq : {3, 40}) {
    for (const int64_t Tk : {30, 257}) {  // the last key alone in its chunk with the added ones
      const AddedKeys p(true, true, 1, Tq, Tk, MaskKind::kNone, 1600);
      for (const int64_t length : {int64_t{0}, int64_t{6}, Tk - 1, Tk}) {
        for (const bool causal : {false, true}) {
          LayerCall args = p.args(MHA_WEIGHTS_AVERAGED);
          args.items.key_lengths = &length;
          if (causal) {
            args.causal = 1;
            args.positions.align = MHA_ALIGN_OFFSET, args.positions.offset = 4;
          }
          const LayerReference want = reference_layer(p.config, p.weights(), args);
          for_each_target([&](const std::string&, const mha_context* context) {
            const LayerPtr layer = p.layer.make_from(context, p.weights());
            const LayerResult clean = run_layer(context, layer.get(), args, p.count());
            for (const int64_t j : {int64_t{0}, int64_t{4}, int64_t{5}, int64_t{6}, int64_t{7}, Tk - 2, Tk - 1}) {
              INFO("Tq " << Tq << " Tk " << Tk << " length " << length << " causal " << causal << " NaN in " << j);
              std::vector<float> value = p.layer.value;
              value[static_cast<size_t>(j * 24 + 3)] = kNan;
              LayerCall dirty = args;
              dirty.value = view(value.data());
              const LayerResult got = run_layer(context, layer.get(), dirty, p.count());
              const int64_t width = static_cast<int64_t>(got.output.size()) / Tq;
              for (int64_t i = 0; i < Tq; ++i) {
                const bool sees = want.weights[static_cast<size_t>(i * (Tk + p.count()) + j)] > 0;
                const float* row = got.output.data() + i * width;
                const bool same =
                    first_bit_difference(row, clean.output.data() + i * width, static_cast<size_t>(width)) < 0;
                if (sees ? !std::isnan(row[0]) : !same) FAIL_CHECK("query " << i << (sees ? " sees it" : " does not"));
              }
            }
          });
        }
      }
    }
  }
}

TEST_CASE("added keys: any add_zero_attn but 0 is 1, in the configuration and in the blob", "[added][blob]") {
  const AddedKeys p(true, true, 1, 3, 3, MaskKind::kNone, 1500);
  for_each_target([&](const std::string&, const mha_context* context) {
    const mha_layer_weights weights = p.weights();
    std::vector<float> first;
    for (const int zeros : {1, 2, -1, 1 << 30}) {
      INFO("add_zero_attn " << zeros);
      mha_layer_config config = p.config;
      config.add_zero_attn = zeros;
      mha_layer* made = nullptr;
      mha_error error = {};
      require_ok(mha_layer_create(context, &config, &weights, &made, &error), error);
      const LayerPtr layer(made);
      mha_layer_config got = {};
      mha_layer_get_config(layer.get(), &got);
      CHECK(got.add_zero_attn == 1);
      size_t bytes = 0;
      require_ok(mha_layer_save_bytes(layer.get(), &bytes, &error), error);
      std::vector<float> blob(bytes / sizeof(float));
      require_ok(mha_layer_save(layer.get(), blob.data(), bytes, &error), error);
      if (first.empty()) first = blob;
      check_same_bits("blob", blob, first);
    }
  });
}

TEST_CASE("added keys: refusals", "[added]") {
  const AddedKeys p(true, true, 1, 3, 3, MaskKind::kNone, 1400);
  const std::vector<float> ones(64, 1);
  for_each_target([&](const std::string&, const mha_context* context) {
    mha_layer* none = nullptr;
    mha_error error = {};
    mha_layer_weights half = p.weights();
    half.bias_value = nullptr;
    CHECK(mha_layer_create(context, &p.config, &half, &none, &error) == MHA_ERR_SHAPE);
    CHECK(mentions(error, "bias_key is given and bias_value is NULL"));
    half = p.weights();
    half.bias_key = nullptr;
    CHECK(mha_layer_create(context, &p.config, &half, &none, &error) == MHA_ERR_SHAPE);
    CHECK(mentions(error, "bias_value is given and bias_key is NULL"));

    const LayerPtr layer = p.layer.make_from(context, p.weights());
    const int64_t offsets[] = {0, 3};
    const auto refused = [&](auto change, const std::string& text) {
      std::vector<float> output = poisoned(3 * 24);
      LayerCall args = p.args(MHA_WEIGHTS_NONE);
      args.output = mut_view(output.data());
      change(args);
      CHECK(layer_forward(context, layer.get(), args, &error) == MHA_ERR_UNSUPPORTED);
      CHECK(mentions(error, text));
      CHECK(std::all_of(output.begin(), output.end(), is_poison));
    };
    refused([&](LayerCall& a) { a.items.key_offsets = offsets; }, "keys of unequal length");
    mha_cache_config sizes = {};
    mha_layer_config full = {};
    mha_layer_get_config(layer.get(), &full);
    sizes.num_kv_heads = full.num_kv_heads, sizes.head_dim = full.head_dim, sizes.value_head_dim = full.value_head_dim;
    sizes.capacity = 8;
    mha_cache* made = nullptr;
    require_ok(mha_cache_create(context, &sizes, &made, &error), error);
    const CachePtr cache(made);
    refused(
        [&](LayerCall& a) {
          a.cache = cache.get();
          a.key = a.value = {};
          a.key_len = 0;
        },
        "cache: not with a layer that has bias_key or add_zero_attn");
    CHECK(mha_cache_length(cache.get(), 0) == 0);
    refused([&](LayerCall& a) { a.score_mods.softcap = 5; }, "score_mods.softcap");
    refused([&](LayerCall& a) { a.score_mods.alibi_slopes = ones.data(); }, "score_mods.alibi_slopes");
    refused(
        [&](LayerCall& a) {
          a.score_mods.relative_bias = ones.data();
          a.score_mods.relative_left = a.score_mods.relative_right = 1;
        },
        "score_mods.relative_bias");
  });
}
