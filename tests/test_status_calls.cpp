// SPDX-License-Identifier: Apache-2.0
// Every status of the layer, linear, rows, partial, merge and reserve calls, and of words that later versions may use:
// which arguments give it, a message that names the argument and its value, and nothing written. (Attention:
// test_status.cpp. Caches: test_cache_status.cpp.)
#include <functional>

#include "support/caches.h"
#include "support/layers.h"
#include "support/status.h"

using namespace mha::test;

namespace {

const mha_context* any_context() { return shared_context(supported_targets()[0], 2); }

constexpr int64_t kFar = (int64_t{1} << 62) + 1;

mha_storage storage_of(mha_dtype dtype, int64_t group, uint64_t reserved) {
  mha_storage storage = {};
  storage.dtype = dtype, storage.group = group, storage.reserved[1] = reserved;
  return storage;
}
const mha_storage kCodes = storage_of(MHA_I8, 32, 0), kGrouped = storage_of(MHA_F32, 32, 0);
const mha_storage kNewer = storage_of(MHA_F32, 0, 1);
const mha_quant kQuant = {};

/// What a call must refuse: the arguments changed by `make`.
template <class Args>
struct Mistake {
  mha_status status;
  std::vector<std::string> texts;
  std::function<void(Args&)> make;
};

/// call(args, error) on each mistake, and that `untouched()` holds after it.
template <class Args, class Call, class Untouched>
void check_mistakes(const Args& good, const std::vector<Mistake<Args>>& mistakes, Call&& call, Untouched&& untouched) {
  for (const Mistake<Args>& mistake : mistakes) {
    INFO("expected to mention " << mistake.texts[0]);
    Args args = good;
    mistake.make(args);
    mha_error error = fresh_error();
    check_error(call(args, &error), mistake.status, error, mistake.texts);
    CHECK(call(args, nullptr) == mistake.status);
    CHECK(untouched());
  }
}

bool all_poison(std::initializer_list<const std::vector<float>*> buffers) {
  for (const std::vector<float>* buffer : buffers)
    if (!std::all_of(buffer->begin(), buffer->end(), is_poison)) return false;
  return true;
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
      {MHA_ERR_UNSUPPORTED,
       {"arithmetic is MHA_ARITHMETIC_BF16"},
       [](mha_layer_config& c) { c.arithmetic = MHA_ARITHMETIC_BF16; }},
      {MHA_ERR_ARGUMENT,
       {"arithmetic is 3"},
       [](mha_layer_config& c) { c.arithmetic = no_value<mha_arithmetic>(3); }},
      {MHA_ERR_UNSUPPORTED, {"layout is 1"}, [](mha_layer_config& c) { c.layout = MHA_WEIGHT_GPTQ; }},
      {MHA_ERR_ARGUMENT, {"layout is 4: not a value"}, [](mha_layer_config& c) { c.layout = no_value<mha_weight_layout>(4); }},
      {MHA_ERR_UNSUPPORTED, {"packed.dtype is MHA_I8"}, [](mha_layer_config& c) { c.packed = &kCodes; }},
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
    refused(MHA_ERR_UNSUPPORTED, ".dtype is MHA_Q4_0", [](mha_view& v) { v.dtype = MHA_Q4_0; });
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
      {MHA_ERR_UNSUPPORTED, {"arithmetic is MHA_ARITHMETIC_INT8"}, [](LayerCall& a) { a.arithmetic = MHA_ARITHMETIC_INT8; }},
      {MHA_ERR_ARGUMENT, {"cache_use is 2"}, [](LayerCall& a) { a.cache_use = no_value<mha_cache_use>(2); }},
      {MHA_ERR_ARGUMENT, {"cache_use is MHA_CACHE_READ, but cache is NULL"}, [](LayerCall& a) { a.cache_use = MHA_CACHE_READ; }},
      {MHA_ERR_ARGUMENT, {"key.data is given beside a cache"}, [&](LayerCall& a) { a.cache = cache.get(); }},
      {MHA_ERR_ARGUMENT, {"value.data is given beside a cache"}, [&](LayerCall& a) { a.cache = cache.get(), a.key = {}; }},
      {MHA_ERR_ARGUMENT, {"key_len is given beside a cache"}, [&](LayerCall& a) { use_cache(a), a.key_len = 3; }},
      {MHA_ERR_ARGUMENT, {"items.key_offsets is given", "cache"}, [&](LayerCall& a) { use_cache(a), a.items.key_offsets = lengths; }},
      {MHA_ERR_ARGUMENT, {"items.key_lengths is given", "cache"}, [&](LayerCall& a) { use_cache(a), a.items.key_lengths = lengths; }},
      {MHA_ERR_ARGUMENT, {"key_norm is given, but cache_use is MHA_CACHE_READ"}, [&](LayerCall& a) { use_cache(a), a.key_norm = &norm; }},
      {MHA_ERR_ARGUMENT, {"items.sequences[1] is 7"}, [&](LayerCall& a) { use_cache(a), a.items.sequences = lengths; }},
      {MHA_ERR_ARGUMENT, {"positions.key is given", "keys are given rotated"}, [&](LayerCall& a) { use_cache(a), a.rope = &rope, a.positions.key = lengths; }},
      {MHA_ERR_ARGUMENT, {"positions.key is given", "rope"}, [&](LayerCall& a) { a.positions.key = lengths; }},
      {MHA_ERR_ARGUMENT, {"positions.key[1] is -1"}, [&](LayerCall& a) { a.rope = &rope, a.positions.key = positions; }},
      {MHA_ERR_ARGUMENT, {"positions.query[1] is -1"}, [&](LayerCall& a) { a.rope = &rope, a.positions.query = positions; }},
      {MHA_ERR_ARGUMENT, {"query_norm.epsilon is 0"}, [&](LayerCall& a) { a.query_norm = &no_norm; }},
      {MHA_ERR_ARGUMENT, {"key_norm.epsilon is 0"}, [&](LayerCall& a) { a.key_norm = &no_norm; }},
      {MHA_ERR_ARGUMENT, {"key_norm.reserved[1] is not 0"}, [&](LayerCall& a) { a.key_norm = &newer_norm; }},
      {MHA_ERR_ARGUMENT, {"positions.align is MHA_ALIGN_DEFAULT beside items.key_lengths"},
       [&](LayerCall& a) { a.items.key_lengths = short_lengths, a.causal = 1; }},
      {MHA_ERR_ARGUMENT, {"args.reserved_int is not 0"}, [](LayerCall& a) { a.reserved_int = 1; }},
      {MHA_ERR_ARGUMENT, {"args.reserved[5] is not 0"}, [](LayerCall& a) { a.reserved[5] = 1; }},
      {MHA_ERR_ARGUMENT, {"items.reserved[0] is not 0"}, [](LayerCall& a) { a.items.reserved[0] = 1; }},
      {MHA_ERR_ARGUMENT, {"positions.reserved_int is not 0"}, [](LayerCall& a) { a.positions.reserved_int = 1; }},
      {MHA_ERR_ARGUMENT, {"masks.reserved[7] is not 0"}, [](LayerCall& a) { a.masks.reserved[7] = 1; }},
      {MHA_ERR_ARGUMENT, {"score_mods.reserved[15] is not 0"}, [](LayerCall& a) { a.score_mods.reserved[15] = 1; }},
      {MHA_ERR_ARGUMENT, {"results.reserved[7] is not 0"}, [](LayerCall& a) { a.results.reserved[7] = 1; }},
      {MHA_ERR_ARGUMENT, {"resources.reserved[3] is not 0"}, [](LayerCall& a) { a.resources.reserved[3] = 1; }},
      {MHA_ERR_ARGUMENT, {"resources.max_threads is -4"}, [](LayerCall& a) { a.resources.max_threads = -4; }},
      {MHA_ERR_ARGUMENT, {"query.reserved is not 0"}, [](LayerCall& a) { a.query.reserved = 1; }},
      {MHA_ERR_UNSUPPORTED, {"value.dtype is MHA_BF16"}, [](LayerCall& a) { a.value.dtype = MHA_BF16; }},
      {MHA_ERR_UNSUPPORTED, {"output.dtype is MHA_F16"}, [](LayerCall& a) { a.output.dtype = MHA_F16; }},
      {MHA_ERR_ARGUMENT, {"key.quant is given"}, [](LayerCall& a) { a.key.quant = &kQuant; }},
      {MHA_ERR_ARGUMENT, {"items.key_lengths[1] is 7", "5"}, [&](LayerCall& a) { a.items.key_lengths = lengths; }},
      {MHA_ERR_SHAPE, {"key_len", "5", "3"}, [](LayerCall& a) { a.key = {}; }},
      {MHA_ERR_SHAPE, {"kdim", "10", "24"}, [](LayerCall& a) { a.key = {}, a.key_len = 3; }},
      {MHA_ERR_SHAPE, {"vdim", "12", "10"}, [](LayerCall& a) { a.value = {}; }},
      {MHA_ERR_STRIDE,
       {"query.stride_h", "24"},
       [](LayerCall& a) { a.query.stride_h = 24; }},
      {MHA_ERR_STRIDE,
       {"output.stride_h", "14"},
       [](LayerCall& a) { a.output.stride_h = 14; }},
      {MHA_ERR_STRIDE,
       {"key.stride_h is -1: must be 0"},
       [](LayerCall& a) { a.key.stride_h = MHA_BROADCAST; }},
      {MHA_ERR_STRIDE,
       {"value.stride_t", "-12"},
       [](LayerCall& a) { a.value.stride_b = 60, a.value.stride_t = -12; }},
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
  check_error(layer_workspace_bytes(context, layer.get(), args, nullptr, &error), MHA_ERR_NULL, error,
              {"bytes"});
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
       {MHA_ERR_UNSUPPORTED, {"weight.dtype is MHA_U4"}, [](Config& c) { c.weight.dtype = MHA_U4; }},
       {MHA_ERR_ARGUMENT, {"weight.dtype is -1"}, [](Config& c) { c.weight.dtype = no_value<mha_dtype>(-1); }},
       {MHA_ERR_ARGUMENT, {"weight.reserved is not 0"}, [](Config& c) { c.weight.reserved = 1; }},
       {MHA_ERR_ARGUMENT, {"weight.quant is given"}, [](Config& c) { c.weight.quant = &kQuant; }},
       {MHA_ERR_ARGUMENT,
        {"weight is at 0x"},
        [](Config& c) { c.weight.data = static_cast<const char*>(c.weight.data) + 2; }},
       {MHA_ERR_UNSUPPORTED,
        {"arithmetic is MHA_ARITHMETIC_INT8"},
        [](Config& c) { c.arithmetic = MHA_ARITHMETIC_INT8; }},
       {MHA_ERR_UNSUPPORTED, {"layout is 3"}, [](Config& c) { c.layout = MHA_WEIGHT_AWQ; }},
       {MHA_ERR_ARGUMENT, {"layout is -1"}, [](Config& c) { c.layout = no_value<mha_weight_layout>(-1); }},
       {MHA_ERR_UNSUPPORTED, {"packed.dtype is MHA_I8"}, [](Config& c) { c.packed = &kCodes; }},
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
      {MHA_ERR_UNSUPPORTED, {"input.dtype is MHA_BF16"}, [](Args& a) { a.input.dtype = MHA_BF16; }},
      {MHA_ERR_UNSUPPORTED, {"output.dtype is MHA_F16"}, [](Args& a) { a.output.dtype = MHA_F16; }},
      {MHA_ERR_ARGUMENT, {"input.quant is given"}, [](Args& a) { a.input.quant = &kQuant; }},
      {MHA_ERR_ARGUMENT, {"input.reserved is not 0"}, [](Args& a) { a.input.reserved = 1; }},
      {MHA_ERR_ARGUMENT, {"output.reserved is not 0"}, [](Args& a) { a.output.reserved = 1; }},
      {MHA_ERR_ARGUMENT,
       {"output is at 0x"},
       [](Args& a) { a.output.data = static_cast<char*>(a.output.data) + 1; }},
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
    CHECK(bytes == (by_pointers ? 0 : 12345));
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

TEST_CASE("status: what the host lends, in every call that takes it", "[status]") {
  const mha_context* context = any_context();
  const std::vector<float> zeros(64);
  const LinearPtr linear = make_linear(context, 4, 3, zeros.data(), nullptr);
  CachePtr cache = make_cache(context, cache_config(MHA_CACHE_CONTIGUOUS, 16, 2));
  std::vector<float> output = poisoned(64);
  const auto check = [&](const std::string& name, auto args, auto&& call) {
    using Args = decltype(args);
    mha_resources resources = {};
    float block = 0;
    const auto lend = [&](const std::string& text, auto change) {
      return Mistake<Args>{MHA_ERR_ARGUMENT, {text}, [&resources, change](Args& a) {
                             resources = {};
                             change(resources);
                             a.resources = &resources;
                           }};
    };
    INFO(name);
    check_mistakes<Args>(
        args,
        {lend("resources.max_threads is -1", [](mha_resources& r) { r.max_threads = -1; }),
         lend("resources.workspace_bytes is 8, but resources.workspace is NULL",
              [](mha_resources& r) { r.workspace_bytes = 8; }),
         lend("resources.parallel_user is given, but the context has no parallel_for",
              [&](mha_resources& r) { r.parallel_user = &block; }),
         lend("resources.reserved[0] is not 0", [](mha_resources& r) { r.reserved[0] = 1; }),
         lend("resources.reserved[3] is not 0", [](mha_resources& r) { r.reserved[3] = 1; })},
        call, [&] { return all_poison({&output}) && mha_cache_length(cache.get(), 0) == 0; });
  };
  check("linear", linear_args(2, zeros.data(), output.data()),
        [&](const mha_linear_args& a, mha_error* e) { return mha_linear_forward(context, linear.get(), &a, e); });
  mha_rows_args rows = {};
  rows.batch = rows.length = rows.num_heads = 1, rows.head_dim = 4;
  rows.input = view(zeros.data()), rows.output = mut_view(output.data());
  check("rows", rows, [&](const mha_rows_args& a, mha_error* e) { return mha_rows_prepare(context, &a, e); });
  const float* parts[] = {zeros.data()};
  mha_merge_args merge = {};
  merge.num_parts = merge.rows = 1, merge.value_head_dim = 4;
  merge.outputs = merge.log_sum_exps = parts, merge.output = output.data();
  check("merge", merge, [&](const mha_merge_args& a, mha_error* e) { return mha_attention_merge(context, &a, e); });
  mha_merge_partials_args partials = {};
  partials.batch = partials.num_heads = partials.query_len = partials.num_chunks = 1, partials.value_head_dim = 4;
  partials.partials = zeros.data(), partials.output = mut_view(output.data());
  check("merge partials", partials, [&](const mha_merge_partials_args& a, mha_error* e) {
    return mha_attention_merge_partials(context, &a, e);
  });
  mha_append_args append = {};
  append.batch = append.length = 1, append.key = append.value = view(zeros.data());
  check("append", append,
        [&](const mha_append_args& a, mha_error* e) { return mha_cache_append(context, cache.get(), &a, e); });
}

TEST_CASE("status: rows", "[status][rows]") {
  const mha_context* context = any_context();
  const std::vector<float> input(2 * 3 * 2 * 4);
  std::vector<float> output = poisoned(2 * 3 * 2 * 4 + 1);
  const mha_rope rope = {};
  mha_norm norm = {}, no_norm = {}, newer_norm = {};
  norm.epsilon = newer_norm.epsilon = 1e-5f, newer_norm.reserved_int = 1;
  const int64_t slots[] = {0, 1, 2, 3, 4, 6}, positions[] = {0, 1, 2, 3, -4, 5};
  float scale = 0;
  using Args = mha_rows_args;
  Args good = {};
  good.batch = 2, good.length = 3, good.num_heads = 2, good.head_dim = 4;
  good.input = view(input.data()), good.output = mut_view(output.data());
  const auto paged = [&](Args& a) { a.slots = slots, a.page_size = 3, a.num_pages = 2; };
  const std::vector<Mistake<Args>> mistakes = {
      {MHA_ERR_ARGUMENT, {"batch is -1"}, [](Args& a) { a.batch = -1; }},
      {MHA_ERR_ARGUMENT, {"length is -2"}, [](Args& a) { a.length = -2; }},
      {MHA_ERR_ARGUMENT, {"num_heads is -3"}, [](Args& a) { a.num_heads = -3; }},
      {MHA_ERR_ARGUMENT, {"head_dim is 0"}, [](Args& a) { a.head_dim = 0; }},
      {MHA_ERR_OVERFLOW, {"batch is 4611686018427387905"}, [](Args& a) { a.batch = kFar; }},
      {MHA_ERR_OVERFLOW, {"length 4611686018427387904", "too large"}, [](Args& a) { a.length = kFar - 1; }},
      {MHA_ERR_UNSUPPORTED, {"storage.dtype is MHA_I8"}, [](Args& a) { a.storage = &kCodes; }},
      {MHA_ERR_ARGUMENT, {"storage.scale_dtype, group"}, [](Args& a) { a.storage = &kGrouped; }},
      {MHA_ERR_ARGUMENT, {"storage.reserved[1] is not 0"}, [](Args& a) { a.storage = &kNewer; }},
      {MHA_ERR_ARGUMENT, {"scales is given"}, [&](Args& a) { a.scales = &scale; }},
      {MHA_ERR_ARGUMENT, {"zeros is given"}, [&](Args& a) { a.zeros = &scale; }},
      {MHA_ERR_ARGUMENT, {"page_size is 3 and num_pages 0, but slots is NULL"}, [](Args& a) { a.page_size = 3; }},
      {MHA_ERR_ARGUMENT, {"num_pages 4, but slots is NULL"}, [](Args& a) { a.num_pages = 4; }},
      {MHA_ERR_ARGUMENT, {"page_size is 0"}, [&](Args& a) { paged(a), a.page_size = 0; }},
      {MHA_ERR_ARGUMENT, {"num_pages is -1"}, [&](Args& a) { paged(a), a.num_pages = -1; }},
      {MHA_ERR_OVERFLOW, {"num_pages 4611686018427387904 x page_size 3"}, [&](Args& a) { paged(a), a.num_pages = kFar - 1; }},
      {MHA_ERR_ARGUMENT, {"slots[5] is 6: must be < num_pages * page_size (6)"}, [&](Args& a) { paged(a); }},
      {MHA_ERR_NULL, {"input.data is NULL"}, [](Args& a) { a.input.data = nullptr; }},
      {MHA_ERR_NULL, {"output.data is NULL"}, [](Args& a) { a.output.data = nullptr; }},
      {MHA_ERR_STRIDE, {"input.stride_b is -2"}, [](Args& a) { a.input.stride_b = -2; }},
      {MHA_ERR_STRIDE, {"output.stride_b, _t, _h are 24, 8, 3"}, [&](Args& a) { a.output = mut_view(output.data(), {24, 8, 3}); }},
      {MHA_ERR_UNSUPPORTED, {"input.dtype is MHA_F16"}, [](Args& a) { a.input.dtype = MHA_F16; }},
      {MHA_ERR_UNSUPPORTED, {"output.dtype is MHA_I8"}, [](Args& a) { a.output.dtype = MHA_I8; }},
      {MHA_ERR_ARGUMENT, {"input.reserved is not 0"}, [](Args& a) { a.input.reserved = 1; }},
      {MHA_ERR_ARGUMENT, {"output.reserved is not 0"}, [](Args& a) { a.output.reserved = 1; }},
      {MHA_ERR_STRIDE, {"output overlaps input"}, [&](Args& a) { a.input = view(output.data() + 1); }},
      {MHA_ERR_STRIDE, {"output overlaps input, whose place it is, with other strides"}, [&](Args& a) { a.input = view(output.data(), {4, 8, 4}); }},
      {MHA_ERR_ARGUMENT, {"positions is given", "rope"}, [&](Args& a) { a.positions = positions; }},
      {MHA_ERR_ARGUMENT, {"first_position is given", "rope"}, [](Args& a) { a.first_position = 3; }},
      {MHA_ERR_ARGUMENT, {"first_position is 3 beside positions"}, [&](Args& a) { a.rope = &rope, a.positions = positions, a.first_position = 3; }},
      {MHA_ERR_ARGUMENT, {"positions[4] is -4"}, [&](Args& a) { a.rope = &rope, a.positions = positions; }},
      {MHA_ERR_ARGUMENT, {"first_position is -1"}, [&](Args& a) { a.rope = &rope, a.first_position = -1; }},
      {MHA_ERR_ARGUMENT, {"the last position is 2147483648"}, [&](Args& a) { a.rope = &rope, a.first_position = (int64_t{1} << 31) - 2; }},
      {MHA_ERR_ARGUMENT, {"norm.epsilon is 0"}, [&](Args& a) { a.norm = &no_norm; }},
      {MHA_ERR_ARGUMENT, {"norm.reserved_int is not 0"}, [&](Args& a) { a.norm = &newer_norm; }},
      {MHA_ERR_ARGUMENT, {"args.reserved[0] is not 0"}, [](Args& a) { a.reserved[0] = 1; }},
      {MHA_ERR_ARGUMENT, {"args.reserved[3] is not 0"}, [](Args& a) { a.reserved[3] = 1; }}};
  check_mistakes<Args>(
      good, mistakes, [&](const Args& a, mha_error* e) { return mha_rows_prepare(context, &a, e); },
      [&] { return all_poison({&output}); });
  mha_error error = fresh_error();
  size_t bytes = 0;
  check_error(mha_rows_prepare(nullptr, &good, &error), MHA_ERR_NULL, error, {"context is NULL"});
  check_error(mha_rows_prepare(context, nullptr, &error), MHA_ERR_NULL, error, {"args is NULL"});
  check_error(mha_rows_workspace_bytes(nullptr, &good, &bytes, &error), MHA_ERR_NULL, error, {"context is NULL"});
  check_error(mha_rows_workspace_bytes(context, nullptr, &bytes, &error), MHA_ERR_NULL, error, {"args is NULL"});
  check_error(mha_rows_workspace_bytes(context, &good, nullptr, &error), MHA_ERR_NULL, error, {"bytes is NULL"});
}

TEST_CASE("status: partial results and their merge", "[status][partial]") {
  const mha_context* context = any_context();
  const AttentionProblem problem({1, 2, 2, 3, 5, 4, 4}, MaskKind::kNone, 145000);
  const AttentionCall call = problem.args();
  std::vector<float> partials = poisoned(2 * 3 * 6), output = poisoned(2 * 3 * 4 + 1), lse = poisoned(2 * 3);
  mha_results results = {}, weights = {};
  results.log_sum_exp = lse.data(), weights.weights_mode = MHA_WEIGHTS_PER_HEAD;
  mha_score_mods mods = {};
  mods.sink_logits = problem.query.data();
  const int64_t lengths[] = {3, 5};
  mha_items items = {};
  items.key_lengths = lengths;
  const mha_attention_args good = call.raw();
  using Args = mha_attention_args;
  const std::vector<Mistake<Args>> mistakes = {
      {MHA_ERR_ARGUMENT, {"output.data is given"}, [&](Args& a) { a.output = mut_view(output.data()); }},
      {MHA_ERR_ARGUMENT, {"results.log_sum_exp is given"}, [&](Args& a) { a.results = &results; }},
      {MHA_ERR_ARGUMENT, {"results.weights is given"}, [&](Args& a) { a.results = &weights; }},
      {MHA_ERR_ARGUMENT, {"score_mods.sink_logits is given"}, [&](Args& a) { a.score_mods = &mods; }},
      {MHA_ERR_UNSUPPORTED, {"batch is 2: partial results of items"}, [&](Args& a) { a.batch = 2, a.items = &items; }},
      {MHA_ERR_ARGUMENT, {"args.reserved[1] is not 0"}, [](Args& a) { a.reserved[1] = 1; }}};
  const size_t bytes = partials.size() * sizeof(float);
  const auto untouched = [&] { return all_poison({&partials, &output, &lse}); };
  const auto run = [&](const Args& a, mha_error* e) {
    return mha_attention_partial(context, &a, partials.data(), bytes, e);
  };
  check_mistakes<Args>(good, mistakes, run, untouched);
  size_t needed = 12345;
  check_mistakes<Args>(
      good, mistakes,
      [&](const Args& a, mha_error* e) { return mha_attention_partial_bytes(context, &a, &needed, e); },
      [&] { return needed == 12345; });
  mha_error error = fresh_error();
  REQUIRE(mha_attention_partial_bytes(context, &good, &needed, nullptr) == MHA_OK);
  CHECK(needed == bytes);
  check_error(mha_attention_partial_bytes(context, &good, nullptr, &error), MHA_ERR_NULL, error, {"bytes is NULL"});
  check_error(mha_attention_partial(context, &good, nullptr, bytes, &error), MHA_ERR_NULL, error, {"partials is NULL"});
  check_error(mha_attention_partial(context, &good, reinterpret_cast<char*>(partials.data()) + 1, bytes, &error),
              MHA_ERR_ARGUMENT, error, {"partials is at 0x"});
  check_error(mha_attention_partial(context, &good, partials.data(), bytes - 1, &error), MHA_ERR_BUFFER, error,
              {"bytes is " + std::to_string(bytes - 1), std::to_string(bytes)});
  check_error(mha_attention_partial(nullptr, &good, partials.data(), bytes, &error), MHA_ERR_NULL, error, {"context"});
  check_error(mha_attention_partial(context, nullptr, partials.data(), bytes, &error), MHA_ERR_NULL, error, {"args"});
  CHECK(untouched());

  const std::vector<float> parts(2 * 3 * 6);
  using Merge = mha_merge_partials_args;
  Merge merge = {};
  merge.batch = 1, merge.num_heads = 2, merge.query_len = 3, merge.value_head_dim = 4, merge.num_chunks = 1;
  merge.partials = parts.data(), merge.output = mut_view(output.data()), merge.log_sum_exp = lse.data();
  check_mistakes<Merge>(
      merge,
      {{MHA_ERR_ARGUMENT, {"batch is -1"}, [](Merge& m) { m.batch = -1; }},
       {MHA_ERR_ARGUMENT, {"num_heads is -2"}, [](Merge& m) { m.num_heads = -2; }},
       {MHA_ERR_ARGUMENT, {"query_len is -3"}, [](Merge& m) { m.query_len = -3; }},
       {MHA_ERR_ARGUMENT, {"value_head_dim is 0"}, [](Merge& m) { m.value_head_dim = 0; }},
       {MHA_ERR_ARGUMENT, {"num_chunks is -4"}, [](Merge& m) { m.num_chunks = -4; }},
       {MHA_ERR_OVERFLOW, {"num_chunks 4611686018427387904", "too large"}, [](Merge& m) { m.num_chunks = kFar - 1; }},
       {MHA_ERR_NULL, {"partials is NULL"}, [](Merge& m) { m.partials = nullptr; }},
       {MHA_ERR_ARGUMENT,
        {"partials is at 0x"},
        [](Merge& m) { m.partials = static_cast<const char*>(m.partials) + 1; }},
       {MHA_ERR_NULL, {"output.data is NULL"}, [](Merge& m) { m.output.data = nullptr; }},
       {MHA_ERR_STRIDE, {"output.stride_h is -1"}, [](Merge& m) { m.output.stride_h = MHA_BROADCAST; }},
       {MHA_ERR_STRIDE, {"output overlaps partials"}, [&](Merge& m) { m.partials = output.data(); }},
       {MHA_ERR_STRIDE, {"log_sum_exp overlaps output"}, [&](Merge& m) { m.log_sum_exp = output.data() + 3; }},
       {MHA_ERR_UNSUPPORTED, {"output.dtype is MHA_BF16"}, [](Merge& m) { m.output.dtype = MHA_BF16; }},
       {MHA_ERR_UNSUPPORTED,
        {"arithmetic is MHA_ARITHMETIC_BF16"},
        [](Merge& m) { m.arithmetic = MHA_ARITHMETIC_BF16; }},
       {MHA_ERR_ARGUMENT, {"args.reserved_int is not 0"}, [](Merge& m) { m.reserved_int = 1; }},
       {MHA_ERR_ARGUMENT, {"args.reserved[3] is not 0"}, [](Merge& m) { m.reserved[3] = 1; }}},
      [&](const Merge& m, mha_error* e) { return mha_attention_merge_partials(context, &m, e); }, untouched);
  check_error(mha_attention_merge_partials(nullptr, &merge, &error), MHA_ERR_NULL, error, {"context is NULL"});
  check_error(mha_attention_merge_partials(context, nullptr, &error), MHA_ERR_NULL, error, {"args is NULL"});
}

TEST_CASE("status: merge of finished results", "[status][merge]") {
  const mha_context* context = any_context();
  const std::vector<float> part(12);
  std::vector<float> output = poisoned(12), lse = poisoned(3);
  const float *outputs[] = {part.data(), part.data()}, *lses[] = {part.data(), part.data()};
  const float *no_outputs[] = {part.data(), nullptr}, *no_lses[] = {nullptr, part.data()};
  using Args = mha_merge_args;
  Args good = {};
  good.num_parts = 2, good.rows = 3, good.value_head_dim = 4, good.outputs = outputs, good.log_sum_exps = lses;
  good.output = output.data(), good.log_sum_exp = lse.data();
  check_mistakes<Args>(
      good,
      {{MHA_ERR_ARGUMENT, {"num_parts is -1"}, [](Args& a) { a.num_parts = -1; }},
       {MHA_ERR_ARGUMENT, {"rows is -2"}, [](Args& a) { a.rows = -2; }},
       {MHA_ERR_ARGUMENT, {"value_head_dim is 0"}, [](Args& a) { a.value_head_dim = 0; }},
       {MHA_ERR_OVERFLOW, {"rows 4611686018427387904 x value_head_dim 4"}, [](Args& a) { a.rows = kFar - 1; }},
       {MHA_ERR_OVERFLOW, {"num_parts is 4611686018427387905"}, [](Args& a) { a.num_parts = kFar; }},
       {MHA_ERR_NULL, {"output is NULL"}, [](Args& a) { a.output = nullptr; }},
       {MHA_ERR_NULL, {"outputs is NULL"}, [](Args& a) { a.outputs = nullptr; }},
       {MHA_ERR_NULL, {"log_sum_exps is NULL"}, [](Args& a) { a.log_sum_exps = nullptr; }},
       {MHA_ERR_NULL, {"outputs[1] is NULL"}, [&](Args& a) { a.outputs = no_outputs; }},
       {MHA_ERR_NULL, {"log_sum_exps[0] is NULL"}, [&](Args& a) { a.log_sum_exps = no_lses; }},
       {MHA_ERR_ARGUMENT, {"args.reserved[0] is not 0"}, [](Args& a) { a.reserved[0] = 1; }},
       {MHA_ERR_ARGUMENT, {"args.reserved[3] is not 0"}, [](Args& a) { a.reserved[3] = 1; }}},
      [&](const Args& a, mha_error* e) { return mha_attention_merge(context, &a, e); },
      [&] { return all_poison({&output, &lse}); });
  mha_error error = fresh_error();
  check_error(mha_attention_merge(nullptr, &good, &error), MHA_ERR_NULL, error, {"context is NULL"});
  check_error(mha_attention_merge(context, nullptr, &error), MHA_ERR_NULL, error, {"args is NULL"});
}

TEST_CASE("status: reserve", "[status][cache]") {
  CachePtr first = make_cache(cache_context(), cache_config(MHA_CACHE_PAGED, 32, 3, 4));
  CachePtr second = make_cache(cache_context(), cache_config(MHA_CACHE_PAGED, 16, 2, 4));
  mha_cache *const caches[] = {first.get(), second.get()}, *const with_null[] = {first.get(), nullptr};
  mha_cache* const twice[] = {first.get(), second.get(), first.get()};
  const int64_t sequences[] = {1, 0}, same[] = {1, 1}, beyond[] = {0, 2}, tokens[] = {8, 8}, negative[] = {8, -1};
  const int64_t many[] = {8, 9}, too_many[] = {8, 17}, far[] = {kFar, 0};
  using Args = mha_reserve_args;
  Args good = {};
  good.caches = caches, good.num_caches = 2, good.batch = 2, good.sequences = sequences, good.tokens = tokens;
  check_mistakes<Args>(
      good,
      {{MHA_ERR_NULL, {"caches is NULL"}, [](Args& a) { a.caches = nullptr; }},
       {MHA_ERR_NULL, {"tokens is NULL"}, [](Args& a) { a.tokens = nullptr; }},
       {MHA_ERR_NULL, {"caches[1] is NULL"}, [&](Args& a) { a.caches = with_null; }},
       {MHA_ERR_ARGUMENT, {"caches[2] is caches[0]"}, [&](Args& a) { a.caches = twice, a.num_caches = 3; }},
       {MHA_ERR_ARGUMENT, {"num_caches is -1"}, [](Args& a) { a.num_caches = -1; }},
       {MHA_ERR_ARGUMENT, {"batch is -2"}, [](Args& a) { a.batch = -2; }},
       {MHA_ERR_ARGUMENT, {"tokens", "-1"}, [&](Args& a) { a.tokens = negative; }},
       {MHA_ERR_OVERFLOW, {"tokens", "4611686018427387905"}, [&](Args& a) { a.tokens = far; }},
       {MHA_ERR_ARGUMENT, {"sequences[1]", "1"}, [&](Args& a) { a.sequences = same; }},
       {MHA_ERR_ARGUMENT, {"sequences[1] is 2"}, [&](Args& a) { a.sequences = beyond; }},
       {MHA_ERR_FULL, {"caches[1]: 5 pages of 4 tokens are needed: 4 of 4 are free"}, [&](Args& a) { a.tokens = many; }},
       {MHA_ERR_FULL, {"17 more do not fit"}, [&](Args& a) { a.tokens = too_many; }},
       {MHA_ERR_ARGUMENT, {"args.reserved[0] is not 0"}, [](Args& a) { a.reserved[0] = 1; }},
       {MHA_ERR_ARGUMENT, {"args.reserved[3] is not 0"}, [](Args& a) { a.reserved[3] = 1; }}},
      [&](const Args& a, mha_error* e) { return mha_cache_reserve(&a, e); },
      [&] { return mha_cache_used_bytes(first.get()) == 0 && mha_cache_used_bytes(second.get()) == 0; });
  mha_error error = fresh_error();
  check_error(mha_cache_reserve(nullptr, &error), MHA_ERR_NULL, error, {"args is NULL"});
  require_ok(mha_cache_reserve(&good, &error), error);
  CHECK(mha_cache_used_bytes(second.get()) > 0);
}

TEST_CASE("status: caches of later versions", "[status][cache]") {
  using Config = mha_cache_config;
  const auto create = [](const Config& config, mha_error* error) {
    mha_cache* cache = nullptr;
    const mha_status status = mha_cache_create(cache_context(), &config, &cache, error);
    CHECK(cache == nullptr);
    size_t bytes = 12345;
    CHECK(mha_cache_memory_bytes(&config, &bytes, nullptr) == status);
    CHECK(bytes == 12345);
    return status;
  };
  check_mistakes<Config>(
      cache_config(MHA_CACHE_CONTIGUOUS, 16),
      {{MHA_ERR_ARGUMENT, {"config.reserved[0] is not 0"}, [](Config& c) { c.reserved[0] = 1; }},
       {MHA_ERR_ARGUMENT, {"config.reserved[7] is not 0"}, [](Config& c) { c.reserved[7] = 1; }},
       {MHA_ERR_ARGUMENT, {"key.reserved[1] is not 0"}, [](Config& c) { c.key.reserved[1] = 1; }},
       {MHA_ERR_ARGUMENT, {"value.reserved[0] is not 0"}, [](Config& c) { c.value.reserved[0] = 1; }},
       {MHA_ERR_UNSUPPORTED, {"key.dtype is MHA_F16"}, [](Config& c) { c.key.dtype = MHA_F16; }},
       {MHA_ERR_UNSUPPORTED, {"value.dtype is MHA_I4"}, [](Config& c) { c.value.dtype = MHA_I4; }},
       {MHA_ERR_UNSUPPORTED, {"value_in_key is 1"}, [](Config& c) { c.value_in_key = 1; }}},
      create, [] { return true; });
  CachePtr cache = make_cache(cache_context(), cache_config(MHA_CACHE_CONTIGUOUS, 16));
  const Tokens tokens = random_tokens(config_of(cache.get()), 3, 146000);
  using Append = mha_append_args;
  Append append = {};
  append.batch = 1, append.length = 3, append.key = view(tokens.key.data()), append.value = view(tokens.value.data());
  mha_norm newer_norm = {};
  newer_norm.epsilon = 1, newer_norm.reserved[0] = 1;
  mha_rope newer_rope = {};
  newer_rope.reserved[7] = 1, newer_rope.dims = 2;
  check_mistakes<Append>(
      append,
      {{MHA_ERR_ARGUMENT, {"args.reserved[3] is not 0"}, [](Append& a) { a.reserved[3] = 1; }},
       {MHA_ERR_ARGUMENT, {"key_norm.reserved[0] is not 0"}, [&](Append& a) { a.key_norm = &newer_norm; }},
       {MHA_ERR_ARGUMENT, {"rope.reserved[7] is not 0"}, [&](Append& a) { a.rope = &newer_rope; }},
       {MHA_ERR_ARGUMENT, {"key.reserved is not 0"}, [](Append& a) { a.key.reserved = 1; }},
       {MHA_ERR_ARGUMENT, {"value.reserved is not 0"}, [](Append& a) { a.value.reserved = 1; }}},
      [&](const Append& a, mha_error* e) { return mha_cache_append(cache_context(), cache.get(), &a, e); },
      [&] { return mha_cache_length(cache.get(), 0) == 0; });
  require_append(cache.get(), 0, tokens);
  std::vector<float> key = poisoned(3 * 2 * 5), value = poisoned(3 * 2 * 3);
  using Export = mha_export_args;
  Export out = {};
  out.count = 3, out.key = mut_view(key.data()), out.value = mut_view(value.data());
  check_mistakes<Export>(
      out,
      {{MHA_ERR_ARGUMENT, {"args.reserved[0] is not 0"}, [](Export& a) { a.reserved[0] = 1; }},
       {MHA_ERR_ARGUMENT, {"key.reserved is not 0"}, [](Export& a) { a.key.reserved = 1; }},
       {MHA_ERR_ARGUMENT, {"value.reserved is not 0"}, [](Export& a) { a.value.reserved = 1; }}},
      [&](const Export& a, mha_error* e) { return mha_cache_export(cache.get(), &a, e); },
      [&] { return all_poison({&key, &value}); });
}
