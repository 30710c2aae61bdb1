// SPDX-License-Identifier: Apache-2.0
// The layer with a cache: a causal prefill in one call, in any pieces, token by token, ragged among others, after a
// rollback or in a fork gives the same bits, whatever the kind of cache, with and without rope and norm.
#include "tests/support/cache_layouts.h"
#include "tests/support/layers.h"

using namespace mha::test;

namespace {

constexpr int64_t kWidth = 48;

mha_layer_config config() {
  mha_layer_config c = {};
  c.embed_dim = kWidth, c.num_heads = 6, c.num_kv_heads = 2, c.head_dim = 16, c.value_head_dim = 24;
  return c;
}

/// A layer, and tokens of several sequences.
struct Decoder {
  std::vector<std::vector<float>> tokens;  // [T_b, E] of each sequence
  LayerProblem problem;
  LayerPtr layer;
  const mha_rope* rope = nullptr;
  const mha_norm *query_norm = nullptr, *key_norm = nullptr;

  explicit Decoder(const std::vector<int64_t>& lengths)
      : problem(config(), 1, 1, 1, Biases::kAll, 11), layer(problem.make(any_context())) {
    for (size_t b = 0; b < lengths.size(); ++b) tokens.push_back(random_floats(lengths[b] * kWidth, 700 + b));
  }

  static const mha_context* any_context() { return shared_context(supported_targets()[0], 1); }
  AttentionShape heads() const { return {1, 6, 2, 1, 1, 16, 24}; }

  /// Causal self-attention without a cache: what every other way must give.
  std::vector<float> plain(const mha_context* context, size_t b) const {
    LayerCall args;
    args.batch = 1;
    args.query_len = args.key_len = static_cast<int64_t>(tokens[b].size()) / kWidth;
    args.query = view(tokens[b].data());
    args.causal = 1;
    args.rope = rope, args.query_norm = query_norm, args.key_norm = key_norm;
    std::vector<float> output = poisoned(static_cast<int64_t>(tokens[b].size()));
    args.output = mut_view(output.data());
    mha_error error = {};
    require_ok(layer_forward(context, layer.get(), args, &error), error);
    return output;
  }

  /// Tokens [from[b], to[b]) of each sequence in one packed call; results go to where they belong in `outputs`.
  mha_status step(const mha_context* context, mha_cache* cache, const std::vector<int64_t>& sequences,
                  const std::vector<int64_t>& from, const std::vector<int64_t>& to,
                  std::vector<std::vector<float>>* outputs, mha_error* error) const {
    std::vector<float> input;
    std::vector<int64_t> offsets{0};
    for (size_t n = 0; n < sequences.size(); ++n) {
      const std::vector<float>& all = tokens[sequences[n]];
      input.insert(input.end(), all.begin() + from[n] * kWidth, all.begin() + to[n] * kWidth);
      offsets.push_back(offsets.back() + to[n] - from[n]);
    }
    std::vector<float> output = poisoned(static_cast<int64_t>(input.size()));
    LayerCall args;
    args.batch = static_cast<int64_t>(sequences.size());
    args.query_len = offsets.back();
    args.items.query_offsets = offsets.data();
    args.query = view(input.data());
    args.output = mut_view(output.data());
    args.causal = 1;
    args.rope = rope, args.query_norm = query_norm, args.key_norm = key_norm;
    args.cache = cache;
    args.items.sequences = sequences.data();
    size_t bytes = 0;
    require_ok(layer_workspace_bytes(context, layer.get(), args, &bytes, error), *error);
    std::vector<float> workspace = poisoned(static_cast<int64_t>(bytes / sizeof(float) + 1));
    args.resources.workspace = workspace.data(), args.resources.workspace_bytes = bytes;
    const mha_status status = layer_forward(context, layer.get(), args, error);
    if (status != MHA_OK) {
      for (const float value : output) CHECK(is_poison(value));
      return status;
    }
    for (size_t n = 0; n < sequences.size(); ++n) {
      std::copy_n(output.begin() + offsets[n] * kWidth, (to[n] - from[n]) * kWidth,
                  (*outputs)[sequences[n]].begin() + from[n] * kWidth);
    }
    return status;
  }
  void must_step(const mha_context* context, mha_cache* cache, const std::vector<int64_t>& sequences,
                 const std::vector<int64_t>& from, const std::vector<int64_t>& to,
                 std::vector<std::vector<float>>* outputs) const {
    mha_error error = {};
    require_ok(step(context, cache, sequences, from, to, outputs, &error), error);
  }

  std::vector<std::vector<float>> blank() const {
    std::vector<std::vector<float>> outputs;
    for (const auto& t : tokens) outputs.push_back(poisoned(static_cast<int64_t>(t.size())));
    return outputs;
  }
};

}  // namespace

TEST_CASE("cached forward: any pieces, any kind of cache, the same bits as one call without", "[cache][bits]") {
  const std::vector<int64_t> lengths = {300, 40, 530};
  const Decoder d(lengths);
  for_each_target([&](const std::string& target, const mha_context* one) {
    std::vector<std::vector<float>> want;
    for (size_t b = 0; b < lengths.size(); ++b) want.push_back(d.plain(one, b));
    for (const CacheLayout& layout : kCacheLayouts) {
      for (const int64_t threads : {1, 3}) {
        const mha_context* context = shared_context(target, threads);
        INFO(layout.name() << " threads " << threads);
        CachePtr cache = make_cache(context, cache_config(layout, d.heads(), 3, 530));
        auto outputs = d.blank();
        // Prefill of one beside nothing, then pieces of all at once, then decoding beside prefill, then the rest.
        d.must_step(context, cache.get(), {2}, {0}, {257}, &outputs);
        d.must_step(context, cache.get(), {0, 1, 2}, {0, 0, 257}, {100, 39, 258}, &outputs);
        d.must_step(context, cache.get(), {2, 1, 0}, {258, 39, 100}, {259, 40, 290}, &outputs);
        for (int64_t t = 290; t < 300; ++t) {
          d.must_step(context, cache.get(), {0, 2}, {t, t - 31}, {t + 1, t - 30}, &outputs);
        }
        d.must_step(context, cache.get(), {2}, {269}, {530}, &outputs);
        for (size_t b = 0; b < lengths.size(); ++b) check_same_bits(layout.name(), outputs[b], want[b]);
      }
    }
  });
}

TEST_CASE("cached forward: rope and norm, each token at its number in its sequence", "[cache][prepare][bits]") {
  const std::vector<int64_t> lengths = {300, 40};
  Decoder d(lengths);
  const std::vector<float> weights = random_floats(32, 720);
  mha_rope rope = {};
  rope.style = MHA_ROPE_INTERLEAVED, rope.dims = 12, rope.base = 500000;
  const mha_norm query_norm = {1e-5f, 0, weights.data(), {}}, key_norm = {1e-6f, 0, weights.data() + 16, {}};
  const std::vector<float> without = d.plain(Decoder::any_context(), 0);
  d.rope = &rope;
  CHECK(d.plain(Decoder::any_context(), 0) != without);
  for_each_target([&](const std::string& target, const mha_context* one) {
    for (const bool normed : {false, true}) {
      d.query_norm = normed ? &query_norm : nullptr, d.key_norm = normed ? &key_norm : nullptr;
      const std::vector<std::vector<float>> want = {d.plain(one, 0), d.plain(one, 1)};
      for (const CacheLayout& layout : {kCacheLayouts[0], kCacheLayouts[1], kCacheLayouts[4]}) {
        for (const int64_t threads : {1, 3}) {
          const mha_context* context = shared_context(target, threads);
          INFO(layout.name() << " threads " << threads << (normed ? " with norm" : ""));
          CachePtr cache = make_cache(context, cache_config(layout, d.heads(), 2, 300));
          auto outputs = d.blank(), scratch = d.blank();
          mha_error error = {};
          d.must_step(context, cache.get(), {1, 0}, {0, 0}, {39, 200}, &outputs);
          d.must_step(context, cache.get(), {0}, {200}, {210}, &scratch);
          require_ok(mha_cache_truncate(cache.get(), 0, 200, &error), error);
          d.must_step(context, cache.get(), {0, 1}, {200, 39}, {299, 40}, &outputs);
          d.must_step(context, cache.get(), {0}, {299}, {300}, &outputs);
          for (size_t b = 0; b < lengths.size(); ++b) check_same_bits(layout.name(), outputs[b], want[b]);
        }
      }
    }
  });
}

TEST_CASE("cached forward: rollback and forks", "[cache][bits]") {
  const std::vector<int64_t> lengths = {90, 90};
  Decoder d(lengths);
  std::copy_n(d.tokens[0].begin(), 70 * kWidth, d.tokens[1].begin());  // the second differs from token 70 on
  for_each_target([&](const std::string&, const mha_context* context) {
    const std::vector<std::vector<float>> want = {d.plain(context, 0), d.plain(context, 1)};
    for (const CacheLayout& layout : kCacheLayouts) {
      INFO(layout.name());
      CachePtr cache = make_cache(context, cache_config(layout, d.heads(), 2, 90));
      auto outputs = d.blank(), scratch = d.blank();
      mha_error error = {};
      d.must_step(context, cache.get(), {0}, {0}, {80}, &outputs);
      require_ok(mha_cache_fork(cache.get(), 0, 1, 70, &error), error);
      d.must_step(context, cache.get(), {1}, {70}, {85}, &scratch);  // speculation, thrown away
      require_ok(mha_cache_truncate(cache.get(), 1, 70, &error), error);
      d.must_step(context, cache.get(), {0, 1}, {80, 70}, {90, 90}, &outputs);
      check_same_bits("source", outputs[0], want[0]);
      std::copy_n(outputs[0].begin(), 70 * kWidth, outputs[1].begin());
      check_same_bits("fork", outputs[1], want[1]);
    }
  });
}

TEST_CASE("cached forward: a full cache stays as it was", "[cache][status]") {
  const Decoder d({40, 40});
  const mha_context* context = Decoder::any_context();
  for (const CacheLayout& layout : {kCacheLayouts[0], kCacheLayouts[3]}) {
    mha_cache_config c = cache_config(layout, d.heads(), 2, 32);
    if (layout.kind == MHA_CACHE_PAGED) c.capacity = 64;
    CachePtr cache = make_cache(context, c);
    auto outputs = d.blank();
    mha_error error = {};
    d.must_step(context, cache.get(), {0}, {0}, {30}, &outputs);
    CHECK(d.step(context, cache.get(), {1, 0}, {0, 30}, {33, 40}, &outputs, &error) == MHA_ERR_FULL);
    CHECK(mha_cache_length(cache.get(), 0) == 30);
    CHECK(mha_cache_length(cache.get(), 1) == 0);
    d.must_step(context, cache.get(), {0}, {30}, {32}, &outputs);
    const std::vector<float> want = d.plain(context, 0);
    check_same_bits("after the failure", std::vector<float>(outputs[0].begin(), outputs[0].begin() + 32 * kWidth),
                    std::vector<float>(want.begin(), want.begin() + 32 * kWidth));
  }
}

TEST_CASE("cached forward: a sequence given twice is refused", "[cache][status]") {
  const Decoder d({4});
  CachePtr cache = make_cache(Decoder::any_context(), cache_config(kCacheLayouts[0], d.heads(), 1, 8));
  const int64_t twice[] = {0, 0};
  std::vector<float> output = poisoned(2 * kWidth);
  LayerCall args;
  args.batch = 2, args.query_len = 1;
  args.query = view(d.tokens[0].data());
  args.output = mut_view(output.data());
  args.cache = cache.get(), args.items.sequences = twice;
  mha_error error = {};
  CHECK(layer_forward(Decoder::any_context(), d.layer.get(), args, &error) == MHA_ERR_ARGUMENT);
  CHECK(mentions(error, "sequences[1] is 0"));
  CHECK(mha_cache_length(cache.get(), 0) == 0);
}

TEST_CASE("forward: packed sequences without a cache", "[ragged][bits]") {
  const std::vector<int64_t> lengths = {30, 1, 300};
  const Decoder d(lengths);
  for_each_target([&](const std::string& target, const mha_context* one) {
    std::vector<float> input, want;
    std::vector<int64_t> offsets{0};
    for (size_t b = 0; b < lengths.size(); ++b) {
      const std::vector<float> plain = d.plain(one, b);
      input.insert(input.end(), d.tokens[b].begin(), d.tokens[b].end());
      want.insert(want.end(), plain.begin(), plain.end());
      offsets.push_back(offsets.back() + lengths[b]);
    }
    for (const int64_t threads : {1, 2}) {
      for (const bool keys_given : {false, true}) {
        LayerCall args;
        args.batch = 3;
        args.query_len = args.key_len = offsets.back();
        args.query = view(input.data());
        args.items.query_offsets = offsets.data();
        if (keys_given) args.key = view(input.data()), args.items.key_offsets = offsets.data();
        args.causal = 1;
        std::vector<float> output = poisoned(static_cast<int64_t>(input.size()));
        args.output = mut_view(output.data());
        mha_error error = {};
        require_ok(layer_forward(shared_context(target, threads), d.layer.get(), args, &error), error);
        check_same_bits("packed", output, want);
      }
    }
  });
}
