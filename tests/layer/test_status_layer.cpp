// SPDX-License-Identifier: Apache-2.0
// Every status of the layer and linear calls: which arguments give it, a message that names the argument and its value,
// and nothing written.
#include <functional>

#include "tests/support/caches.h"
#include "tests/support/layers.h"
#include "tests/support/status.h"

using namespace mha::test;

namespace {

const mha_quant kQuant = {};

/// What a mistake in codes gives; a build with MHA_CODES=OFF refuses codes first.
mha_status of_codes([[maybe_unused]] mha_status status) {
#if defined(MHA_NO_CODES)
  return MHA_ERR_UNSUPPORTED;
#else
  return status;
#endif
}

}  // namespace

TEST_CASE("status: layer configurations that do not fit", "[status][layer]") {
  const mha_layer_config good = {24, 4, 2, 0, 0, 0, 0, 0, 0};
  const LayerProblem problem(good, 1, 1, 1, Biases::kAll, 141000);
  const mha_layer_weights weights = problem.separate_weights();
  const std::vector<Mistake<mha_layer_config>> mistakes = {
      {MHA_ERR_ARGUMENT, {"embed_dim", "0"}, [](mha_layer_config& c) { c.embed_dim = 0; }},
      {MHA_ERR_ARGUMENT, {"embed_dim", "-24"}, [](mha_layer_config& c) { c.embed_dim = -24; }},
      {MHA_ERR_ARGUMENT, {"num_heads", "0"}, [](mha_layer_config& c) { c.num_heads = 0; }},
      {MHA_ERR_ARGUMENT, {"num_heads", "-1"}, [](mha_layer_config& c) { c.num_heads = -1; }},
      {MHA_ERR_ARGUMENT, {"num_kv_heads", "-2"}, [](mha_layer_config& c) { c.num_kv_heads = -2; }},
      {MHA_ERR_ARGUMENT, {"head_dim", "-3"}, [](mha_layer_config& c) { c.head_dim = -3; }},
      {MHA_ERR_ARGUMENT, {"value_head_dim", "-4"}, [](mha_layer_config& c) { c.value_head_dim = -4; }},
      {MHA_ERR_ARGUMENT, {"kdim", "-5"}, [](mha_layer_config& c) { c.kdim = -5; }},
      {MHA_ERR_ARGUMENT, {"vdim", "-6"}, [](mha_layer_config& c) { c.vdim = -6; }},
      {MHA_ERR_ARGUMENT, {"out_dim", "-7"}, [](mha_layer_config& c) { c.out_dim = -7; }},
      {MHA_ERR_ARGUMENT, {"scale is nan"}, [](mha_layer_config& c) { c.scale = kNan; }},
      {MHA_ERR_ARGUMENT, {"scale is -2", "scale_is_exact"}, [](mha_layer_config& c) { c.scale = -2; }},
      {MHA_ERR_ARGUMENT, {": a denormal"}, [](mha_layer_config& c) { c.scale = float_of_bits(5); }},
      {MHA_ERR_OVERFLOW, {"embed_dim is 4611686018427387905"}, [](mha_layer_config& c) { c.embed_dim = kFar; }},
      {MHA_ERR_ARGUMENT, {"arithmetic is 3"}, [](mha_layer_config& c) { c.arithmetic = no_value<mha_arithmetic>(3); }},
      {MHA_ERR_UNSUPPORTED,
       {"query_weight.dtype is MHA_F32", "GPTQ"},
       [](mha_layer_config& c) { c.layout = MHA_WEIGHT_GPTQ; }},
      {MHA_ERR_ARGUMENT,
       {"layout is 4: not a value"},
       [](mha_layer_config& c) { c.layout = no_value<mha_weight_layout>(4); }},
      {MHA_ERR_UNSUPPORTED, {"packed.dtype is MHA_Q8_0"}, [](mha_layer_config& c) { c.packed = &kBlocks; }},
      {MHA_ERR_ARGUMENT, {"packed.scale_dtype, group"}, [](mha_layer_config& c) { c.packed = &kGrouped; }},
      {MHA_ERR_ARGUMENT, {"packed.reserved[1] is not 0"}, [](mha_layer_config& c) { c.packed = &kNewer; }},
      {MHA_ERR_ARGUMENT, {"config.reserved_int is not 0"}, [](mha_layer_config& c) { c.reserved_int = 1; }},
      {MHA_ERR_ARGUMENT, {"config.reserved[0] is not 0"}, [](mha_layer_config& c) { c.reserved[0] = 1; }},
      {MHA_ERR_ARGUMENT, {"config.reserved[7] is not 0"}, [](mha_layer_config& c) { c.reserved[7] = 1; }},
      {MHA_ERR_SHAPE, {"embed_dim", "25", "4"}, [](mha_layer_config& c) { c.embed_dim = 25; }},
      {MHA_ERR_SHAPE, {"num_heads", "4", "3"}, [](mha_layer_config& c) { c.num_kv_heads = 3; }},
  };
  for (const auto& mistake : mistakes) {
    INFO("expected to mention " << mistake.texts[0]);
    mha_layer_config config = good;
    mistake.make(config);
    mha_layer* layer = reinterpret_cast<mha_layer*>(&config);  // must become NULL
    mha_error error = fresh_error();
    check_error(mha_layer_create(any_context(), &config, &weights, &layer, &error), mistake.status, error,
                mistake.texts);
    CHECK(layer == nullptr);
  }
}

TEST_CASE("status: layer weights, both or neither of two alternatives, and NULL", "[status][layer]") {
  const mha_layer_config good = {24, 4, 2, 0, 0, 0, 0, 0, 0};
  const LayerProblem problem(good, 1, 1, 1, Biases::kAll, 142000);
  const mha_context* context = any_context();
  mha_layer* layer = nullptr;
  mha_error error = fresh_error();
  const auto create = [&](const mha_layer_config& config, const mha_layer_weights& weights) {
    layer = reinterpret_cast<mha_layer*>(&error);
    error = fresh_error();
    const mha_status status = mha_layer_create(context, &config, &weights, &layer, &error);
    CHECK(layer == nullptr);
    return status;
  };
  mha_layer_weights weights = problem.separate_weights();
  weights.in_proj_weight = view(problem.in_proj_weight.data());
  check_error(create(good, weights), MHA_ERR_SHAPE, error, {"in_proj_weight", "query_weight"});
  weights.query_weight = weights.key_weight = {};
  check_error(create(good, weights), MHA_ERR_SHAPE, error, {"in_proj_weight", "value_weight"});

  weights = problem.separate_weights();
  weights.in_proj_weight.stride_t = 24;
  check_error(create(good, weights), MHA_ERR_ARGUMENT, error, {"in_proj_weight.stride_t is given", "NULL"});

  weights = problem.separate_weights();
  weights.in_proj_bias = problem.in_proj_bias.data();
  check_error(create(good, weights), MHA_ERR_SHAPE, error, {"in_proj_bias", "query_bias"});

  const struct {
    const char* name;
    mha_view mha_layer_weights::*member;
  } matrices[] = {{"query_weight", &mha_layer_weights::query_weight},
                  {"key_weight", &mha_layer_weights::key_weight},
                  {"value_weight", &mha_layer_weights::value_weight},
                  {"output_weight", &mha_layer_weights::output_weight}};
  for (const auto& matrix : matrices) {
    const auto refused = [&](mha_status status, const std::string& text, auto change) {
      weights = problem.separate_weights();
      change(weights.*matrix.member);
      check_error(create(good, weights), status, error, {matrix.name + text});
    };
    refused(MHA_ERR_NULL, ".data is NULL", [](mha_view& v) { v.data = nullptr; });
    refused(MHA_ERR_ARGUMENT, " is at 0x", [](mha_view& v) { v.data = static_cast<const char*>(v.data) + 1; });
    refused(MHA_ERR_ARGUMENT, " is at 0x",
            [](mha_view& v) { v.dtype = MHA_F16, v.data = static_cast<const char*>(v.data) + 1; });
    refused(of_codes(MHA_ERR_SHAPE), ".dtype is MHA_Q4_0", [](mha_view& v) { v.dtype = MHA_Q4_0; });
    refused(MHA_ERR_ARGUMENT, ".reserved is not 0", [](mha_view& v) { v.reserved = 1; });
    refused(MHA_ERR_ARGUMENT, ".quant is given", [](mha_view& v) { v.quant = &kQuant; });
    refused(MHA_ERR_STRIDE, ".stride_t is -3", [](mha_view& v) { v.stride_t = -3; });
    refused(MHA_ERR_STRIDE, ".stride_b is 24: must be 0", [](mha_view& v) { v.stride_b = 24; });
    refused(MHA_ERR_STRIDE, ".stride_h is -1: must be 0", [](mha_view& v) { v.stride_h = MHA_BROADCAST; });
  }
  for (int n : {0, 7}) {
    weights = problem.separate_weights();
    weights.reserved[n] = 1;
    check_error(create(good, weights), MHA_ERR_ARGUMENT, error,
                {"weights.reserved[" + std::to_string(n) + "] is not 0"});
  }
  for (const mha_layer_config& config :
       {mha_layer_config{24, 4, 2, 0, 0, 10, 0, 0, 0}, mha_layer_config{24, 4, 2, 0, 0, 0, 10, 0, 0}})
    check_error(create(config, problem.fused_weights()), MHA_ERR_SHAPE, error, {"in_proj_weight", "10", "24"});

  weights = problem.separate_weights();
  check_error(mha_layer_create(nullptr, &good, &weights, &layer, &error), MHA_ERR_NULL, error, {"context is NULL"});
  check_error(mha_layer_create(context, nullptr, &weights, &layer, &error), MHA_ERR_NULL, error, {"config is NULL"});
  check_error(mha_layer_create(context, &good, nullptr, &layer, &error), MHA_ERR_NULL, error, {"weights is NULL"});
  check_error(mha_layer_create(context, &good, &weights, nullptr, &error), MHA_ERR_NULL, error, {"layer is NULL"});
  mha_layer_destroy(nullptr);
}

TEST_CASE("status: layer forward, every mistake is named and writes nothing", "[status][layer]") {
  const mha_layer_config config = {24, 4, 2, 0, 0, 10, 12, 14, 0};
  LayerProblem problem(config, 2, 3, 5, Biases::kAll, 143000);
  const mha_context* context = any_context();
  const LayerPtr layer = problem.make(context);
  const int64_t lengths[] = {5, 7, 7}, short_lengths[] = {5, 4}, positions[10] = {0, -1};
  mha_cache_config cache_sizes = cache_config(MHA_CACHE_CONTIGUOUS, 16, 2);
  cache_sizes.head_dim = cache_sizes.value_head_dim = 6;
  CachePtr cache = make_cache(context, cache_sizes);
  require_append(cache.get(), 0, random_tokens(config_of(cache.get()), 4, 143001));
  const auto use_cache = [&](LayerCall& a) {
    a.key = a.value = {};
    a.key_len = 0, a.cache = cache.get(), a.cache_use = MHA_CACHE_READ;
  };
  const mha_rope rope = {};
  mha_norm norm = {}, no_norm = {}, newer_norm = {};
  norm.epsilon = newer_norm.epsilon = 1e-5f, newer_norm.reserved[1] = 1;
  const std::vector<Mistake<LayerCall>> mistakes = {
      {MHA_ERR_NULL, {"query.data is NULL"}, [](LayerCall& a) { a.query = {}; }},
      {MHA_ERR_NULL, {"output.data is NULL"}, [](LayerCall& a) { a.output = {}; }},
      {MHA_ERR_NULL, {"results.weights.data is NULL"}, [](LayerCall& a) { a.results.weights.data = nullptr; }},
      {MHA_ERR_ARGUMENT, {"batch", "-1"}, [](LayerCall& a) { a.batch = -1; }},
      {MHA_ERR_ARGUMENT, {"query_len", "-2"}, [](LayerCall& a) { a.query_len = -2; }},
      {MHA_ERR_ARGUMENT, {"key_len", "-3"}, [](LayerCall& a) { a.key_len = -3; }},
      {MHA_ERR_ARGUMENT,
       {"weights_mode", "5"},
       [](LayerCall& a) { a.results.weights_mode = static_cast<mha_weights_mode>(5); }},
      {MHA_ERR_OVERFLOW, {"batch is 4611686018427387905"}, [](LayerCall& a) { a.batch = kFar; }},
      {MHA_ERR_UNSUPPORTED,
       {"keys are MHA_F32: MHA_ARITHMETIC_INT8"},
       [](LayerCall& a) { a.arithmetic = MHA_ARITHMETIC_INT8; }},
      {MHA_ERR_ARGUMENT, {"cache_use is 2"}, [](LayerCall& a) { a.cache_use = no_value<mha_cache_use>(2); }},
      {MHA_ERR_ARGUMENT,
       {"cache_use is MHA_CACHE_READ, but cache is NULL"},
       [](LayerCall& a) { a.cache_use = MHA_CACHE_READ; }},
      {MHA_ERR_ARGUMENT, {"key.data is given beside a cache"}, [&](LayerCall& a) { a.cache = cache.get(); }},
      {MHA_ERR_ARGUMENT,
       {"value.data is given beside a cache"},
       [&](LayerCall& a) { a.cache = cache.get(), a.key = {}; }},
      {MHA_ERR_ARGUMENT, {"key.reserved is not 0"}, [](LayerCall& a) { a.key = a.value = {}, a.key.reserved = 1; }},
      {MHA_ERR_ARGUMENT,
       {"value.stride_b is given, but value.data is NULL"},
       [](LayerCall& a) { a.value = {}, a.value.stride_b = 8; }},
      {MHA_ERR_ARGUMENT, {"key_len is given beside a cache"}, [&](LayerCall& a) { use_cache(a), a.key_len = 3; }},
      {MHA_ERR_ARGUMENT,
       {"items.key_offsets is given", "cache"},
       [&](LayerCall& a) { use_cache(a), a.items.key_offsets = lengths; }},
      {MHA_ERR_ARGUMENT,
       {"items.key_lengths is given", "cache"},
       [&](LayerCall& a) { use_cache(a), a.items.key_lengths = lengths; }},
      {MHA_ERR_ARGUMENT,
       {"key_norm is given, but cache_use is MHA_CACHE_READ"},
       [&](LayerCall& a) { use_cache(a), a.key_norm = &norm; }},
      {MHA_ERR_ARGUMENT,
       {"items.sequences[0] is 5: must be 0 to 1"},
       [&](LayerCall& a) { use_cache(a), a.items.sequences = lengths; }},
      {MHA_ERR_ARGUMENT,
       {"positions.key is given", "keys are given rotated"},
       [&](LayerCall& a) { use_cache(a), a.rope = &rope, a.positions.key = lengths; }},
      {MHA_ERR_ARGUMENT, {"positions.key is given", "rope"}, [&](LayerCall& a) { a.positions.key = lengths; }},
      {MHA_ERR_ARGUMENT,
       {"positions.key[1] is -1"},
       [&](LayerCall& a) { a.rope = &rope, a.positions.key = positions; }},
      {MHA_ERR_ARGUMENT,
       {"positions.query[1] is -1"},
       [&](LayerCall& a) { a.rope = &rope, a.positions.query = positions; }},
      {MHA_ERR_ARGUMENT, {"query_norm.epsilon is 0"}, [&](LayerCall& a) { a.query_norm = &no_norm; }},
      {MHA_ERR_ARGUMENT, {"key_norm.epsilon is 0"}, [&](LayerCall& a) { a.key_norm = &no_norm; }},
      {MHA_ERR_ARGUMENT, {"key_norm.reserved[1] is not 0"}, [&](LayerCall& a) { a.key_norm = &newer_norm; }},
      {MHA_ERR_ARGUMENT,
       {"positions.align is MHA_ALIGN_DEFAULT beside items.key_lengths"},
       [&](LayerCall& a) { a.items.key_lengths = short_lengths, a.causal = 1; }},
      {MHA_ERR_ARGUMENT, {"args.reserved_int is not 0"}, [](LayerCall& a) { a.reserved_int = 1; }},
      {MHA_ERR_ARGUMENT, {"args.reserved[5] is not 0"}, [](LayerCall& a) { a.reserved[5] = 1; }},
      {MHA_ERR_ARGUMENT, {"items.reserved[0] is not 0"}, [](LayerCall& a) { a.items.reserved[0] = 1; }},
      {MHA_ERR_ARGUMENT, {"positions.reserved_int is not 0"}, [](LayerCall& a) { a.positions.reserved_int = 1; }},
      {MHA_ERR_ARGUMENT, {"masks.reserved[6] is not 0"}, [](LayerCall& a) { a.masks.reserved[6] = 1; }},
      {MHA_ERR_ARGUMENT, {"score_mods.reserved[15] is not 0"}, [](LayerCall& a) { a.score_mods.reserved[15] = 1; }},
      {MHA_ERR_ARGUMENT, {"results.reserved[7] is not 0"}, [](LayerCall& a) { a.results.reserved[7] = 1; }},
      {MHA_ERR_ARGUMENT, {"resources.reserved[3] is not 0"}, [](LayerCall& a) { a.resources.reserved[3] = 1; }},
      {MHA_ERR_ARGUMENT, {"resources.max_threads is -4"}, [](LayerCall& a) { a.resources.max_threads = -4; }},
      {MHA_ERR_ARGUMENT, {"query.reserved is not 0"}, [](LayerCall& a) { a.query.reserved = 1; }},
      {MHA_ERR_ARGUMENT,
       {"query is at 0x", "aligned to 2 bytes"},
       [](LayerCall& a) { a.query.dtype = MHA_F16, a.query.data = static_cast<const char*>(a.query.data) + 1; }},
      {MHA_ERR_ARGUMENT,
       {"output is at 0x", "aligned to 2 bytes"},
       [](LayerCall& a) { a.output.dtype = MHA_BF16, a.output.data = static_cast<char*>(a.output.data) + 1; }},
      {MHA_ERR_UNSUPPORTED, {"value.dtype is MHA_U8"}, [](LayerCall& a) { a.value.dtype = MHA_U8; }},
      {MHA_ERR_UNSUPPORTED, {"output.dtype is MHA_I8"}, [](LayerCall& a) { a.output.dtype = MHA_I8; }},
      {MHA_ERR_ARGUMENT, {"key.quant is given"}, [](LayerCall& a) { a.key.quant = &kQuant; }},
      {MHA_ERR_ARGUMENT, {"items.key_lengths[1] is 7", "5"}, [&](LayerCall& a) { a.items.key_lengths = lengths; }},
      {MHA_ERR_SHAPE, {"key_len", "5", "3"}, [](LayerCall& a) { a.key = {}; }},
      {MHA_ERR_SHAPE, {"kdim", "10", "24"}, [](LayerCall& a) { a.key = {}, a.key_len = 3; }},
      {MHA_ERR_SHAPE, {"vdim", "12", "10"}, [](LayerCall& a) { a.value = {}; }},
      {MHA_ERR_STRIDE, {"query.stride_h", "24"}, [](LayerCall& a) { a.query.stride_h = 24; }},
      {MHA_ERR_STRIDE, {"output.stride_h", "14"}, [](LayerCall& a) { a.output.stride_h = 14; }},
      {MHA_ERR_STRIDE, {"key.stride_h is -1: must be 0"}, [](LayerCall& a) { a.key.stride_h = MHA_BROADCAST; }},
      {MHA_ERR_STRIDE, {"value.stride_t", "-12"}, [](LayerCall& a) { a.value.stride_b = 60, a.value.stride_t = -12; }},
      {MHA_ERR_STRIDE,
       {"output.stride_b, _t, _h are 42, 13, 0"},
       [](LayerCall& a) { a.output.stride_b = 42, a.output.stride_t = 13; }},
  };
  for (const auto& mistake : mistakes) {
    INFO("expected to mention " << mistake.texts[0]);
    std::vector<float> output = poisoned(2 * 3 * 14), weights = poisoned(2 * 4 * 3 * 5), workspace = poisoned(100000);
    LayerCall args = problem.args();
    args.output = mut_view(output.data());
    args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
    args.results.weights = mut_view(weights.data());
    args.resources.workspace = workspace.data();
    args.resources.workspace_bytes = workspace.size() * sizeof(float);
    mistake.make(args);
    mha_error error = fresh_error();
    check_error(layer_forward(context, layer.get(), args, &error), mistake.status, error, mistake.texts);
    CHECK(layer_forward(context, layer.get(), args, nullptr) == mistake.status);
    for (const std::vector<float>* buffer : {&output, &weights, &workspace})
      CHECK(std::all_of(buffer->begin(), buffer->end(), is_poison));
    CHECK(mha_cache_length(cache.get(), 0) == 4);
  }

  LayerCall args = problem.args();
  std::vector<float> output = poisoned(2 * 3 * 14);
  args.output = mut_view(output.data());
  mha_error error = fresh_error();
  check_error(layer_forward(nullptr, layer.get(), args, &error), MHA_ERR_NULL, error, {"context is NULL"});
  check_error(layer_forward(context, nullptr, args, &error), MHA_ERR_NULL, error, {"layer is NULL"});
  check_error(mha_layer_forward(context, layer.get(), nullptr, &error), MHA_ERR_NULL, error, {"args is NULL"});
  size_t bytes = 0;
  check_error(layer_workspace_bytes(context, layer.get(), args, nullptr, &error), MHA_ERR_NULL, error, {"bytes"});
  check_error(layer_workspace_bytes(context, nullptr, args, &bytes, &error), MHA_ERR_NULL, error, {"layer"});
  REQUIRE(layer_workspace_bytes(context, layer.get(), args, &bytes, nullptr) == MHA_OK);
  std::vector<unsigned char> workspace(bytes);
  args.resources.workspace = workspace.data();
  args.resources.workspace_bytes = bytes - 1;
  check_error(layer_forward(context, layer.get(), args, &error), MHA_ERR_BUFFER, error,
              {"workspace_bytes", std::to_string(bytes - 1), std::to_string(bytes)});
  CHECK(std::all_of(output.begin(), output.end(), is_poison));
  args.resources.workspace_bytes = bytes;
  CHECK(layer_forward(context, layer.get(), args, nullptr) == MHA_OK);
}

TEST_CASE("status: layer forward, self-attention of packed items says their lengths once", "[status][layer]") {
  const mha_layer_config config = {24, 4, 2, 0, 0, 0, 0, 0, 0};
  const LayerProblem problem(config, 2, 10, 10, Biases::kAll, 143500);
  const LayerPtr layer = problem.make(any_context());
  const int64_t offsets[] = {0, 5, 20}, lengths[] = {20, 20};
  const auto refused = [&](const std::string& field, auto change) {
    std::vector<float> output = poisoned(20 * 24);
    LayerCall args = problem.args();
    args.key = args.value = {}, args.key_len = 0, args.query_len = 20;
    args.items.query_offsets = offsets;
    args.output = mut_view(output.data());
    change(args);
    mha_error error = fresh_error();
    check_error(layer_forward(any_context(), layer.get(), args, &error), MHA_ERR_ARGUMENT, error,
                {field + " is given", "query_offsets pack them"});
    CHECK(std::all_of(output.begin(), output.end(), is_poison));
  };
  refused("items.key_offsets", [&](LayerCall& a) { a.items.key_offsets = offsets; });
  refused("items.key_lengths", [&](LayerCall& a) { a.items.key_lengths = lengths; });
}

TEST_CASE("status: linear, configurations", "[status][linear]") {
  const mha_context* context = any_context();
  const std::vector<float> weight(12);
  mha_linear_config good = {};
  good.in_features = 4, good.out_features = 3, good.weight = view(weight.data());
  const auto create = [&](const mha_linear_config& config, mha_error* error) {
    mha_linear* linear = reinterpret_cast<mha_linear*>(&good);  // must become NULL
    const mha_status status = mha_linear_create(context, &config, &linear, error);
    CHECK(linear == nullptr);
    return status;
  };
  using Config = mha_linear_config;
  check_mistakes<Config>(
      good,
      {{MHA_ERR_NULL, {"weight.data is NULL"}, [](Config& c) { c.weight.data = nullptr; }},
       {MHA_ERR_ARGUMENT, {"in_features is 0"}, [](Config& c) { c.in_features = 0; }},
       {MHA_ERR_ARGUMENT, {"out_features is -3"}, [](Config& c) { c.out_features = -3; }},
       {MHA_ERR_OVERFLOW, {"in_features is 4611686018427387905"}, [](Config& c) { c.in_features = kFar; }},
       {MHA_ERR_STRIDE, {"weight.stride_t is -2"}, [](Config& c) { c.weight.stride_t = -2; }},
       {MHA_ERR_STRIDE, {"weight.stride_b is 12: must be 0"}, [](Config& c) { c.weight.stride_b = 12; }},
       {MHA_ERR_STRIDE, {"weight.stride_h is 4: must be 0"}, [](Config& c) { c.weight.stride_h = 4; }},
       {of_codes(MHA_ERR_NULL), {"weight", "MHA_U4"}, [](Config& c) { c.weight.dtype = MHA_U4; }},
       {MHA_ERR_ARGUMENT, {"weight.dtype is -1"}, [](Config& c) { c.weight.dtype = no_value<mha_dtype>(-1); }},
       {MHA_ERR_ARGUMENT, {"weight.reserved is not 0"}, [](Config& c) { c.weight.reserved = 1; }},
       {MHA_ERR_ARGUMENT, {"weight.quant is given"}, [](Config& c) { c.weight.quant = &kQuant; }},
       {MHA_ERR_ARGUMENT,
        {"weight is at 0x"},
        [](Config& c) { c.weight.data = static_cast<const char*>(c.weight.data) + 2; }},
       {MHA_ERR_ARGUMENT,
        {"weight is at 0x", "aligned to 2 bytes"},
        [](Config& c) { c.weight.dtype = MHA_BF16, c.weight.data = static_cast<const char*>(c.weight.data) + 1; }},
       {MHA_ERR_UNSUPPORTED, {"weight.dtype is MHA_F32", "AWQ"}, [](Config& c) { c.layout = MHA_WEIGHT_AWQ; }},
       {MHA_ERR_ARGUMENT, {"layout is -1"}, [](Config& c) { c.layout = no_value<mha_weight_layout>(-1); }},
       {MHA_ERR_UNSUPPORTED, {"packed.dtype is MHA_Q8_0"}, [](Config& c) { c.packed = &kBlocks; }},
       {MHA_ERR_ARGUMENT, {"packed.scale_dtype, group"}, [](Config& c) { c.packed = &kGrouped; }},
       {MHA_ERR_ARGUMENT, {"packed.reserved[1] is not 0"}, [](Config& c) { c.packed = &kNewer; }},
       {MHA_ERR_ARGUMENT, {"config.reserved[0] is not 0"}, [](Config& c) { c.reserved[0] = 1; }},
       {MHA_ERR_ARGUMENT, {"config.reserved[7] is not 0"}, [](Config& c) { c.reserved[7] = 1; }}},
      create, [] { return true; });
  mha_error error = fresh_error();
  mha_linear* linear = nullptr;
  check_error(mha_linear_create(nullptr, &good, &linear, &error), MHA_ERR_NULL, error, {"context is NULL"});
  check_error(mha_linear_create(context, nullptr, &linear, &error), MHA_ERR_NULL, error, {"config is NULL"});
  check_error(mha_linear_create(context, &good, nullptr, &error), MHA_ERR_NULL, error, {"linear is NULL"});
  mha_linear_destroy(nullptr);
  mha_linear_config untouched = good;
  mha_linear_get_config(nullptr, &untouched);
  CHECK(untouched.in_features == 4);
}

TEST_CASE("status: linear, calls", "[status][linear]") {
  const mha_context* context = any_context();
  const std::vector<float> weight(12);
  const LinearPtr linear = make_linear(context, 4, 3, weight.data(), nullptr);
  std::vector<float> output = poisoned(8);
  using Args = mha_linear_args;
  const Args good = linear_args(2, weight.data(), output.data());
  const std::vector<Mistake<Args>> mistakes = {
      {MHA_ERR_ARGUMENT, {"rows is -1"}, [](Args& a) { a.rows = -1; }},
      {MHA_ERR_OVERFLOW, {"rows is 4611686018427387905"}, [](Args& a) { a.rows = kFar; }},
      {MHA_ERR_NULL, {"input.data is NULL"}, [](Args& a) { a.input.data = nullptr; }},
      {MHA_ERR_NULL, {"output.data is NULL"}, [](Args& a) { a.output.data = nullptr; }},
      {MHA_ERR_STRIDE, {"input.stride_t is -4"}, [](Args& a) { a.input.stride_t = -4; }},
      {MHA_ERR_STRIDE, {"input.stride_b is 8"}, [](Args& a) { a.input.stride_b = 8; }},
      {MHA_ERR_STRIDE, {"input.stride_h is 1"}, [](Args& a) { a.input.stride_h = 1; }},
      {MHA_ERR_STRIDE, {"output.stride_b, _t, _h are 0, 2, 0"}, [](Args& a) { a.output.stride_t = 2; }},
      {MHA_ERR_STRIDE, {"output.stride_t is -1"}, [](Args& a) { a.output.stride_t = MHA_BROADCAST; }},
      {MHA_ERR_STRIDE, {"output.stride_b is 6"}, [](Args& a) { a.output.stride_b = 6; }},
      {MHA_ERR_STRIDE, {"output.stride_h is 3"}, [](Args& a) { a.output.stride_h = 3; }},
      {MHA_ERR_STRIDE, {"output overlaps input"}, [](Args& a) { a.input.data = a.output.data; }},
      {MHA_ERR_ARGUMENT,
       {"input is at 0x", "aligned to 2 bytes"},
       [](Args& a) { a.input.dtype = MHA_BF16, a.input.data = static_cast<const char*>(a.input.data) + 1; }},
      {MHA_ERR_ARGUMENT,
       {"output is at 0x", "aligned to 2 bytes"},
       [](Args& a) { a.output.dtype = MHA_F16, a.output.data = static_cast<char*>(a.output.data) + 1; }},
      {MHA_ERR_UNSUPPORTED, {"input.dtype is MHA_U8"}, [](Args& a) { a.input.dtype = MHA_U8; }},
      {MHA_ERR_UNSUPPORTED, {"output.dtype is MHA_I8"}, [](Args& a) { a.output.dtype = MHA_I8; }},
      {MHA_ERR_ARGUMENT, {"input.quant is given"}, [](Args& a) { a.input.quant = &kQuant; }},
      {MHA_ERR_ARGUMENT, {"input.reserved is not 0"}, [](Args& a) { a.input.reserved = 1; }},
      {MHA_ERR_ARGUMENT, {"output.reserved is not 0"}, [](Args& a) { a.output.reserved = 1; }},
      {MHA_ERR_ARGUMENT, {"output is at 0x"}, [](Args& a) { a.output.data = static_cast<char*>(a.output.data) + 1; }},
      {MHA_ERR_ARGUMENT, {"args.reserved[0] is not 0"}, [](Args& a) { a.reserved[0] = 1; }},
      {MHA_ERR_ARGUMENT, {"args.reserved[3] is not 0"}, [](Args& a) { a.reserved[3] = 1; }}};
  check_mistakes<Args>(
      good, mistakes, [&](const Args& a, mha_error* e) { return mha_linear_forward(context, linear.get(), &a, e); },
      [&] { return all_poison({&output}); });
  // Size queries and explain see what has no pointer in it.
  for (const Mistake<Args>& mistake : mistakes) {
    Args args = good;
    mistake.make(args);
    const bool by_pointers = mistake.texts[0].find(" NULL") != std::string::npos ||
                             mistake.texts[0].find(" overlaps") != std::string::npos ||
                             mistake.texts[0].find(" is at ") != std::string::npos;
    const mha_status want = by_pointers ? MHA_OK : mistake.status;
    size_t bytes = 12345;
    INFO(mistake.texts[0]);
    CHECK(mha_linear_workspace_bytes(context, linear.get(), &args, &bytes, nullptr) == want);
    const bool floats = args.input.dtype == MHA_F32 && args.output.dtype == MHA_F32;
    CHECK((bytes == 0) == (by_pointers && floats));
    CHECK((bytes == 12345) == !by_pointers);
    CHECK(mha_linear_explain(context, linear.get(), &args, nullptr, 0, nullptr, nullptr) == want);
  }
  mha_error error = fresh_error();
  size_t bytes = 0;
  check_error(mha_linear_forward(nullptr, linear.get(), &good, &error), MHA_ERR_NULL, error, {"context is NULL"});
  check_error(mha_linear_forward(context, nullptr, &good, &error), MHA_ERR_NULL, error, {"linear is NULL"});
  check_error(mha_linear_forward(context, linear.get(), nullptr, &error), MHA_ERR_NULL, error, {"args is NULL"});
  check_error(mha_linear_workspace_bytes(context, linear.get(), &good, nullptr, &error), MHA_ERR_NULL, error,
              {"bytes is NULL"});
  check_error(mha_linear_save_bytes(nullptr, &bytes, &error), MHA_ERR_NULL, error, {"linear is NULL"});
  check_error(mha_linear_save_bytes(linear.get(), nullptr, &error), MHA_ERR_NULL, error, {"bytes is NULL"});
}
