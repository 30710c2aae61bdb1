// SPDX-License-Identifier: Apache-2.0
// A layer that reads a cache without growing it (MHA_CACHE_READ): cross-attention whose keys were appended once; and
// one that appends to what was reserved for it.
#include "tests/support/cache_layouts.h"
#include "tests/support/layers.h"
#include "tests/support/reserve.h"

using namespace mha::test;

namespace {

/// Cross-attention of a layer, with everything that is not a default, and its keys projected into a cache once.
struct CrossAttention {
  static constexpr int64_t kQueries = 7;
  const Integers lengths = {300, 40};  // keys of each item
  LayerProblem problem;
  mha_rope rope = {};
  std::vector<float> weights = random_floats(32, 921);
  mha_norm query_norm = {}, key_norm = {};

  CrossAttention() : problem(config(), 2, kQueries, 300, Biases::kAll, 920) {
    rope.style = MHA_ROPE_INTERLEAVED, rope.dims = 12;
    query_norm.epsilon = 1e-5f, query_norm.weight = weights.data();
    key_norm.epsilon = 1e-4f, key_norm.weight = weights.data() + 16;
  }
  static mha_layer_config config() {
    mha_layer_config c = {};
    c.embed_dim = 48, c.num_heads = 6, c.num_kv_heads = 2, c.head_dim = 16, c.value_head_dim = 24;
    c.kdim = 20, c.vdim = 28;
    return c;
  }

  /// Sequence lengths.size() - 1 - b has the keys and values of item b.
  CachePtr filled(const mha_context* context, const CacheLayout& layout) const {
    CachePtr cache = make_cache(context, cache_config(layout, {2, 6, 2, kQueries, 300, 16, 24}, 2, 300));
    const LinearPtr to_key = make_linear(context, 20, 32, problem.key_weight.data(), problem.key_bias.data());
    const LinearPtr to_value = make_linear(context, 28, 48, problem.value_weight.data(), problem.value_bias.data());
    for (int64_t b = 0; b < 2; ++b) {
      const int64_t count = lengths[static_cast<size_t>(b)], sequence = 1 - b;
      const auto rows = [&](const std::vector<float>& all, int64_t width) {
        return std::vector<float>(all.begin() + b * 300 * width, all.begin() + (b * 300 + count) * width);
      };
      const std::vector<float> key = run_linear(context, to_key.get(), rows(problem.key, 20), count);
      const std::vector<float> value = run_linear(context, to_value.get(), rows(problem.value, 28), count);
      mha_append_args args = {};
      args.batch = 1, args.sequences = &sequence, args.length = count;
      args.key = view(key.data()), args.value = view(value.data());
      args.key_norm = &key_norm, args.rope = &rope;
      mha_error error = {};
      require_ok(mha_cache_append(context, cache.get(), &args, &error), error);
    }
    return cache;
  }
  /// With keys given, padded to the longest.
  LayerCall plain() const {
    LayerCall args = problem.args();
    args.rope = &rope, args.query_norm = &query_norm, args.key_norm = &key_norm;
    args.items.key_lengths = lengths.data();
    args.positions.align = MHA_ALIGN_END;
    return args;
  }
  static LayerCall read(LayerCall args, mha_cache* cache, const int64_t* sequences) {
    args.key = args.value = {}, args.key_len = 0, args.key_norm = nullptr;
    args.items.key_lengths = nullptr;
    args.cache = cache, args.cache_use = MHA_CACHE_READ, args.items.sequences = sequences;
    return args;
  }
};

/// As run_layer, whose results do not know the lengths of a cache: weights [B, H, Tq, 300].
LayerResult run_reading(const mha_context* context, const mha_layer* layer, LayerCall args) {
  LayerResult result;
  result.output = poisoned(args.batch * args.query_len * 48);
  args.output = mut_view(result.output.data());
  if (args.results.weights_mode != MHA_WEIGHTS_NONE) {
    result.weights = poisoned(args.batch * 6 * args.query_len * 300);
    args.results.weights = mut_view(result.weights.data());
  }
  mha_error error = {};
  size_t bytes = 0;
  require_ok(layer_workspace_bytes(context, layer, args, &bytes, &error), error);
  std::vector<float> workspace = poisoned(static_cast<int64_t>(bytes / sizeof(float) + 1));
  args.resources.workspace = workspace.data(), args.resources.workspace_bytes = bytes;
  require_ok(layer_forward(context, layer, args, &error), error);
  return result;
}

}  // namespace

TEST_CASE("cache read: a layer over a cache gives the bits of the keys given, and changes nothing",
          "[cache][reserve]") {
  const CrossAttention c;
  const int64_t sequences[] = {1, 0};
  for_each_target([&](const std::string& target, const mha_context* one) {
    const LayerPtr layer = c.problem.make(one);
    for (const bool causal : {false, true}) {
      for (const mha_weights_mode mode : {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD}) {
        LayerCall args = c.plain();
        args.causal = causal, args.results.weights_mode = mode;
        const LayerResult want = run_layer(one, layer.get(), args);
        for (const CacheLayout& layout : kCacheLayouts) {
          CachePtr cache = c.filled(one, layout);
          const Snapshot before(cache.get());
          for (const int64_t threads : {1, 3}) {
            INFO(target << " " << layout.name() << " threads " << threads << " causal " << causal);
            const LayerCall reading = CrossAttention::read(args, cache.get(), sequences);
            const LayerResult got = run_reading(shared_context(target, threads), layer.get(), reading);
            check_same_bits("output", got.output, want.output);
            check_same_bits("weights", got.weights, want.weights);
            CHECK(Snapshot(cache.get()) == before);
          }
        }
      }
    }
  });
}

TEST_CASE("cache read: packed queries, a sequence that comes twice, a full cache", "[cache][reserve]") {
  const CrossAttention c;
  const Integers offsets = {0, 3, 3, 7}, sequences = {1, 0, 1};
  for_each_target([&](const std::string& target, const mha_context* one) {
    const LayerPtr layer = c.problem.make(one);
    CachePtr cache = c.filled(one, {MHA_CACHE_CONTIGUOUS, 0});
    CHECK(mha_cache_room(cache.get(), 1) == 0);  // appending would fail
    LayerCall args = CrossAttention::read(c.plain(), cache.get(), sequences.data());
    args.batch = 3, args.query_len = 7, args.items.query_offsets = offsets.data(), args.causal = 1;
    const LayerResult got = run_reading(shared_context(target, 2), layer.get(), args);
    for (const size_t b : {0, 2}) {
      LayerCall item = c.plain();
      item.batch = 1, item.query_len = offsets[b + 1] - offsets[b], item.causal = 1;
      item.query = view(c.problem.query.data() + offsets[b] * 48);
      const std::vector<float> want = run_layer(one, layer.get(), item).output;
      const auto begin = got.output.begin() + offsets[b] * 48;
      check_same_bits("item", std::vector<float>(begin, begin + item.query_len * 48), want);
    }
  });
}

TEST_CASE("cache read: refusals", "[cache][reserve][status]") {
  const CrossAttention c;
  const int64_t sequences[] = {1, 0};
  const mha_context* context = cache_context();
  const LayerPtr layer = c.problem.make(context);
  CachePtr cache = c.filled(context, {MHA_CACHE_PAGED, 16});
  const Snapshot before(cache.get());
  std::vector<float> output = poisoned(2 * 7 * 48);
  const auto refused = [&](const std::string& text, auto change) {
    LayerCall args = CrossAttention::read(c.plain(), cache.get(), sequences);
    args.output = mut_view(output.data());
    change(args);
    mha_error error = {};
    CHECK(layer_forward(context, layer.get(), args, &error) == MHA_ERR_ARGUMENT);
    INFO(error.message);
    CHECK(mentions(error, text));
    CHECK(std::all_of(output.begin(), output.end(), is_poison));
    CHECK(Snapshot(cache.get()) == before);
  };
  refused("key_norm is given", [&](LayerCall& a) { a.key_norm = &c.key_norm; });
  refused("key.data is given", [&](LayerCall& a) { a.key = view(c.problem.key.data()); });
  refused("value.data is given", [&](LayerCall& a) { a.value = view(c.problem.value.data()); });
  refused("key_len is given", [](LayerCall& a) { a.key_len = 300; });
  refused("items.key_lengths is given", [&](LayerCall& a) { a.items.key_lengths = c.lengths.data(); });
  refused("cache_use is 2", [](LayerCall& a) { a.cache_use = static_cast<mha_cache_use>(2); });
  refused("cache is NULL", [](LayerCall& a) { a.cache = nullptr, a.items.sequences = nullptr; });
}

TEST_CASE("reserve: a layer that appends has what was reserved for it", "[cache][reserve]") {
  mha_layer_config config = CrossAttention::config();
  config.kdim = config.vdim = 0;
  const LayerProblem problem(config, 1, 20, 20, Biases::kAll, 930);
  for_each_target([&](const std::string&, const mha_context* context) {
    const LayerPtr layer = problem.make(context);
    LayerCall args = problem.args();
    args.key = args.value = {}, args.causal = 1;
    const std::vector<float> want = run_layer(context, layer.get(), args).output;
    CachePtr cache = make_cache(context, cache_config({MHA_CACHE_PAGED, 16}, {1, 6, 2, 20, 20, 16, 24}, 2, 40));
    must_reserve({cache.get()}, {0}, {20});
    eat(cache.get(), 1);
    args.key_len = 0, args.cache = cache.get();
    check_same_bits("appended", run_layer(context, layer.get(), args).output, want);
    CHECK(length_of(cache, 0) == 20);
    // Beyond it the call fails, and the cache stays as it was.
    const Snapshot before(cache.get());
    std::vector<float> output = poisoned(20 * 48);
    args.output = mut_view(output.data());
    mha_error error = {};
    CHECK(layer_forward(context, layer.get(), args, &error) == MHA_ERR_FULL);
    CHECK(std::all_of(output.begin(), output.end(), is_poison));
    CHECK(Snapshot(cache.get()) == before);
  });
}
