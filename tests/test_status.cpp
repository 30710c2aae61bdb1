// SPDX-License-Identifier: Apache-2.0
// Every status of the attention, linear and layer calls: which arguments give it, a message that names the argument and
// its value, and nothing written. (Contexts: test_context.cpp. Sizes that overflow: test_overflow.cpp.)
#include <functional>

#include "support/layers.h"

using namespace mha::test;

namespace {

const mha_context* any_context() { return shared_context(supported_targets()[0], 2); }

/// A failed call must say why: the status in the error too, and a message with each of these texts.
void check_error(mha_status got, mha_status want, const mha_error& error, const std::vector<std::string>& texts) {
  CHECK(std::string(mha_status_string(got)) == mha_status_string(want));
  CHECK(error.status == got);
  for (const std::string& text : texts) {
    if (!mentions(error, text)) FAIL_CHECK("\"" << error.message << "\" does not mention \"" << text << "\"");
  }
}

constexpr mha_status kNeverSet = MHA_ERR_UNSUPPORTED;  // no call of this version returns it

mha_error fresh_error() {
  mha_error error = {};
  error.status = kNeverSet;
  return error;
}

/// A valid call, with results that are watched.
struct AttentionCall {
  AttentionProblem problem{{2, 4, 2, 3, 5, 8, 6}, MaskKind::kNone, 140000};
  std::vector<float> output = poisoned(2 * 3 * 4 * 6), weights = poisoned(2 * 4 * 3 * 5), lse = poisoned(2 * 4 * 3);
  std::vector<int64_t> lengths = {5, 4};
  std::vector<uint8_t> open = std::vector<uint8_t>(2 * 4 * 3 * 5, 1);
  std::vector<float> add = std::vector<float>(2 * 4 * 3 * 5, 0.0f);
  AttentionCall args = problem.args();

  AttentionCall() {
    args.output = mut_view(output.data());
    args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
    args.results.weights.data = weights.data();
    args.results.log_sum_exp = lse.data();
  }
  bool untouched() const {
    for (const std::vector<float>* result : {&output, &weights, &lse})
      if (!std::all_of(result->begin(), result->end(), is_poison)) return false;
    return true;
  }
};

struct AttentionMistake {
  mha_status status;
  std::vector<std::string> texts;
  std::function<void(AttentionCall&)> make;
  bool seen_by_queries;  // mha_attention_workspace and _explain do not follow pointers, but check all else
};

#define MISTAKE(...) [](AttentionCall& call) { __VA_ARGS__; }

const AttentionMistake kAttentionMistakes[] = {
    {MHA_ERR_NULL, {"query.data is NULL"}, MISTAKE(call.args.query.data = nullptr), false},
    {MHA_ERR_NULL, {"key.data is NULL"}, MISTAKE(call.args.key.data = nullptr), false},
    {MHA_ERR_NULL, {"value.data is NULL"}, MISTAKE(call.args.value.data = nullptr), false},
    {MHA_ERR_NULL, {"output.data is NULL"}, MISTAKE(call.args.output.data = nullptr), false},
    {MHA_ERR_NULL, {"weights.data is NULL"}, MISTAKE(call.args.results.weights.data = nullptr), false},
    {MHA_ERR_ARGUMENT, {"batch", "-1"}, MISTAKE(call.args.batch = -1), true},
    {MHA_ERR_ARGUMENT, {"num_heads", "-2"}, MISTAKE(call.args.num_heads = -2), true},
    {MHA_ERR_ARGUMENT, {"num_kv_heads", "-3"}, MISTAKE(call.args.num_kv_heads = -3), true},
    {MHA_ERR_ARGUMENT, {"query_len", "-4"}, MISTAKE(call.args.query_len = -4), true},
    {MHA_ERR_ARGUMENT, {"key_len", "-5"}, MISTAKE(call.args.key_len = -5), true},
    {MHA_ERR_ARGUMENT, {"head_dim", "0"}, MISTAKE(call.args.head_dim = 0), true},
    {MHA_ERR_ARGUMENT, {"head_dim", "-6"}, MISTAKE(call.args.head_dim = -6), true},
    {MHA_ERR_ARGUMENT, {"value_head_dim", "-7"}, MISTAKE(call.args.value_head_dim = -7), true},
    {MHA_ERR_ARGUMENT, {"scale", "nan"}, MISTAKE(call.args.scale = kNan), true},
    {MHA_ERR_ARGUMENT, {"scale", "inf"}, MISTAKE(call.args.scale = kInf), true},
    {MHA_ERR_ARGUMENT, {"masks.causal", "9"}, MISTAKE(call.args.masks.causal = static_cast<mha_causal>(9)), true},
    {MHA_ERR_ARGUMENT, {"weights_mode", "8"}, MISTAKE(call.args.results.weights_mode = static_cast<mha_weights_mode>(8)), true},
    {MHA_ERR_ARGUMENT,
     {"key_lengths[1]", "-1"},
     MISTAKE(call.lengths[1] = -1; call.args.items.key_lengths = call.lengths.data()),
     false},
    {MHA_ERR_ARGUMENT,
     {"key_lengths[0]", "6", "5"},
     MISTAKE(call.lengths[0] = 6; call.args.items.key_lengths = call.lengths.data()),
     false},
    {MHA_ERR_SHAPE, {"num_heads", "4", "num_kv_heads", "3"}, MISTAKE(call.args.num_kv_heads = 3), true},
    {MHA_ERR_SHAPE, {"num_heads", "4", "num_kv_heads", "8"}, MISTAKE(call.args.num_kv_heads = 8), true},
    {MHA_ERR_STRIDE, {"query.stride_d", "2"}, MISTAKE(call.args.query = {call.problem.query.data(), 1, 1, 1, 2}), true},
    {MHA_ERR_STRIDE, {"key.stride_d", "-1"}, MISTAKE(call.args.key = {call.problem.key.data(), 1, 1, 1, -1}), true},
    {MHA_ERR_STRIDE,
     {"value.stride_t", "-6"},
     MISTAKE(call.args.value = view(call.problem.value.data(), {0, -6, 0})),
     true},
    {MHA_ERR_STRIDE,
     {"query.stride_b", "-96"},
     MISTAKE(call.args.query = view(call.problem.query.data(), {-96, 0, 0})),
     true},
    {MHA_ERR_STRIDE, {"key.stride_h", "-8"}, MISTAKE(call.args.key = view(call.problem.key.data(), {0, 0, -8})), true},
    {MHA_ERR_STRIDE,
     {"query.stride_h", "8", "stride_d"},
     MISTAKE(call.args.query = {call.problem.query.data(), 0, 0, 8, 0}),
     true},
    {MHA_ERR_STRIDE, {"output"}, MISTAKE(call.args.output = mut_view(call.output.data(), {72, 0, 6})), true},
    {MHA_ERR_STRIDE, {"output"}, MISTAKE(call.args.output = mut_view(call.output.data(), {72, 24, 5})), true},
    {MHA_ERR_STRIDE, {"output"}, MISTAKE(call.args.output = mut_view(call.output.data(), {71, 24, 6})), true},
    {MHA_ERR_STRIDE, {"output.stride_d", "3"}, MISTAKE(call.args.output = {call.output.data(), 72, 24, 6, 3}), true},
    {MHA_ERR_STRIDE, {"weights"}, MISTAKE(call.args.results.weights = {call.results.weights.data(), 60, 4, 15, 1}), true},
    {MHA_ERR_STRIDE, {"weights.stride_b", "9"}, MISTAKE(call.args.results.weights = {call.results.weights.data(), 9, 0, 0, 0}), true},
    {MHA_ERR_STRIDE,
     {"bool_mask.stride_b", "-60"},
     MISTAKE(call.args.masks.bool_mask = {call.open.data(), -60, 15, 5}),
     true},
    {MHA_ERR_STRIDE,
     {"bool_mask.stride_q", "-5"},
     MISTAKE(call.args.masks.bool_mask = {call.open.data(), 60, 15, -5}),
     true},
    {MHA_ERR_STRIDE,
     {"add_mask.stride_h", "-15"},
     MISTAKE(call.args.masks.add_mask = {call.add.data(), MHA_F32, 0, 60, -15, 5}),
     true},
};

#undef MISTAKE

}  // namespace

TEST_CASE("status: attention, every mistake is named and writes nothing", "[status]") {
  const mha_context* context = any_context();
  int number = 0;
  for (const AttentionMistake& mistake : kAttentionMistakes) {
    INFO("mistake " << number++ << ", expected to mention " << mistake.texts[0]);
    AttentionCall call;
    mistake.make(call);
    std::vector<float> workspace = poisoned(100000);
    call.args.resources.workspace = workspace.data();
    call.args.resources.workspace_bytes = workspace.size() * sizeof(float);
    mha_error error = fresh_error();
    check_error(attention(context, call.args, &error), mistake.status, error, mistake.texts);
    CHECK(attention(context, call.args, nullptr) == mistake.status);
    CHECK(call.untouched());
    CHECK(std::all_of(workspace.begin(), workspace.end(), is_poison));

    size_t bytes = 12345, needed = 12345;
    char text[8] = "same";
    error = fresh_error();
    const mha_status status = attention_workspace_bytes(context, call.args, &bytes, &error);
    if (mistake.seen_by_queries) {
      check_error(status, mistake.status, error, mistake.texts);
      CHECK(bytes == 12345);
      CHECK(attention_explain(context, call.args, text, sizeof text, &needed, nullptr) == mistake.status);
      CHECK(std::string(text) == "same");
      CHECK(needed == 12345);
    } else {
      CHECK(status == MHA_OK);
      CHECK(attention_explain(context, call.args, text, sizeof text, &needed, nullptr) == MHA_OK);
    }
  }
}

TEST_CASE("status: attention, NULL context, args and results of queries", "[status]") {
  AttentionCall call;
  mha_error error = fresh_error();
  check_error(attention(nullptr, call.args, &error), MHA_ERR_NULL, error, {"context is NULL"});
  check_error(attention(any_context(), nullptr, &error), MHA_ERR_NULL, error, {"args is NULL"});
  size_t bytes = 0;
  check_error(attention_workspace_bytes(nullptr, call.args, &bytes, &error), MHA_ERR_NULL, error, {"context is NULL"});
  check_error(attention_workspace_bytes(any_context(), nullptr, &bytes, &error), MHA_ERR_NULL, error, {"args is NULL"});
  check_error(attention_workspace_bytes(any_context(), call.args, nullptr, &error), MHA_ERR_NULL, error,
              {"bytes is NULL"});
  char text[100];
  check_error(attention_explain(nullptr, call.args, text, 100, nullptr, &error), MHA_ERR_NULL, error, {"context"});
  check_error(attention_explain(any_context(), nullptr, text, 100, nullptr, &error), MHA_ERR_NULL, error, {"args"});
  check_error(attention_explain(any_context(), call.args, nullptr, 100, nullptr, &error), MHA_ERR_NULL, error,
              {"text"});
}

TEST_CASE("status: success leaves the error untouched", "[status]") {
  AttentionCall call;
  mha_error error = fresh_error();
  std::strcpy(error.message, "untouched");
  CHECK(attention(any_context(), call.args, &error) == MHA_OK);
  CHECK(error.status == kNeverSet);
  CHECK(std::string(error.message) == "untouched");
  CHECK(none_poison(call.output));
}

TEST_CASE("status: a workspace one byte too small, and the pointers that a query may leave out", "[status]") {
  for_each_target([&](const std::string&, const mha_context* context) {
    AttentionCall call;
    size_t bytes = 0;
    REQUIRE(attention_workspace_bytes(context, call.args, &bytes, nullptr) == MHA_OK);
    REQUIRE(bytes > 0);
    AttentionCall without = call.args;
    without.query = view(without.key.data = without.value.data = nullptr);
    without.output = mut_view(without.weights.data = nullptr);
    size_t bytes_without = 0;
    REQUIRE(attention_workspace_bytes(context, without, &bytes_without, nullptr) == MHA_OK);
    CHECK(bytes_without == bytes);

    std::vector<unsigned char> workspace(bytes);
    call.args.resources.workspace = workspace.data();
    for (size_t small : {bytes - 1, size_t{1}, size_t{0}}) {
      call.args.resources.workspace_bytes = small;
      mha_error error = fresh_error();
      check_error(attention(context, call.args, &error), MHA_ERR_BUFFER, error,
                  {"workspace_bytes", std::to_string(small), std::to_string(bytes)});
      CHECK(call.untouched());
    }
    call.args.resources.workspace_bytes = bytes;
    CHECK(attention(context, call.args, nullptr) == MHA_OK);
  });
}

TEST_CASE("status: layer configurations that do not fit", "[status][layer]") {
  const mha_layer_config good = {24, 4, 2, 0, 0, 0, 0, 0, 0};
  const LayerProblem problem(good, 1, 1, 1, Biases::kAll, 141000);
  const mha_layer_weights weights = problem.separate_weights();
  struct Mistake {
    mha_status status;
    std::vector<std::string> texts;
    std::function<void(mha_layer_config&)> make;
  };
  const Mistake mistakes[] = {
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
      {MHA_ERR_ARGUMENT, {"scale", "nan"}, [](mha_layer_config& c) { c.scale = kNan; }},
      {MHA_ERR_SHAPE, {"embed_dim", "25", "4"}, [](mha_layer_config& c) { c.embed_dim = 25; }},
      {MHA_ERR_SHAPE, {"num_heads", "4", "3"}, [](mha_layer_config& c) { c.num_kv_heads = 3; }},
  };
  for (const Mistake& mistake : mistakes) {
    INFO("expected to mention " << mistake.texts[0]);
    mha_layer_config config = good;
    mistake.make(config);
    mha_layer* layer = reinterpret_cast<mha_layer*>(&config);
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
  weights.query_weight = view(weights.key_weight = nullptr);
  check_error(create(good, weights), MHA_ERR_SHAPE, error, {"in_proj_weight", "value_weight"});

  weights = problem.separate_weights();
  weights.in_proj_bias = problem.in_proj_bias.data();
  check_error(create(good, weights), MHA_ERR_SHAPE, error, {"in_proj_bias", "query_bias"});

  for (const float* mha_layer_weights::*missing :
       {&mha_layer_weights::query_weight, &mha_layer_weights::key_weight, &mha_layer_weights::value_weight,
        &mha_layer_weights::output_weight}) {
    weights = problem.separate_weights();
    weights.*missing = nullptr;
    check_error(create(good, weights), MHA_ERR_NULL, error, {"_weight is NULL"});
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
  const int64_t lengths[2] = {5, 7};
  struct Mistake {
    mha_status status;
    std::vector<std::string> texts;
    std::function<void(LayerCall&)> make;
  };
  const Mistake mistakes[] = {
      {MHA_ERR_NULL, {"query.data is NULL"}, [](LayerCall& a) { a.query = {}; }},
      {MHA_ERR_NULL, {"output.data is NULL"}, [](LayerCall& a) { a.output = {}; }},
      {MHA_ERR_NULL, {"weights.data is NULL"}, [](LayerCall& a) { a.results.weights.data = nullptr; }},
      {MHA_ERR_ARGUMENT, {"batch", "-1"}, [](LayerCall& a) { a.batch = -1; }},
      {MHA_ERR_ARGUMENT, {"query_len", "-2"}, [](LayerCall& a) { a.query_len = -2; }},
      {MHA_ERR_ARGUMENT, {"key_len", "-3"}, [](LayerCall& a) { a.key_len = -3; }},
      {MHA_ERR_ARGUMENT,
       {"weights_mode", "5"},
       [](LayerCall& a) { a.results.weights_mode = static_cast<mha_weights_mode>(5); }},
      {MHA_ERR_ARGUMENT,
       {"masks.causal", "6"},
       [](LayerCall& a) { a.masks.causal = static_cast<mha_causal>(6); }},
      {MHA_ERR_ARGUMENT, {"key_lengths[1]", "7", "5"}, [&](LayerCall& a) { a.items.key_lengths = lengths; }},
      {MHA_ERR_SHAPE, {"key_len", "5", "3"}, [](LayerCall& a) { a.key = {}; }},
      {MHA_ERR_SHAPE, {"kdim", "10", "24"}, [](LayerCall& a) { a.key = {}, a.key_len = 3; }},
      {MHA_ERR_SHAPE, {"vdim", "12", "10"}, [](LayerCall& a) { a.value = {}; }},
      {MHA_ERR_STRIDE,
       {"query.stride_h", "24"},
       [](LayerCall& a) {
         a.query = view(a.query.data, {72, 24, 24});
       }},
      {MHA_ERR_STRIDE,
       {"output.stride_h", "14"},
       [](LayerCall& a) {
         a.output = mut_view(a.output.data, {42, 14, 14});
       }},
      {MHA_ERR_STRIDE,
       {"key.stride_d", "2"},
       [](LayerCall& a) {
         a.key = {a.key.data, 50, 10, 0, 2};
       }},
      {MHA_ERR_STRIDE,
       {"value.stride_t", "-12"},
       [](LayerCall& a) {
         a.value = view(a.value.data, {60, -12, 0});
       }},
      {MHA_ERR_STRIDE,
       {"output"},
       [](LayerCall& a) {
         a.output = mut_view(a.output.data, {42, 13, 0});
       }},
  };
  for (const Mistake& mistake : mistakes) {
    INFO("expected to mention " << mistake.texts[0]);
    std::vector<float> output = poisoned(2 * 3 * 14), weights = poisoned(2 * 4 * 3 * 5), workspace = poisoned(100000);
    LayerCall args = problem.args();
    args.output = mut_view(output.data());
    args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
    args.results.weights.data = weights.data();
    args.resources.workspace = workspace.data();
    args.resources.workspace_bytes = workspace.size() * sizeof(float);
    mistake.make(args);
    mha_error error = fresh_error();
    check_error(layer_forward(context, layer.get(), args, &error), mistake.status, error, mistake.texts);
    CHECK(layer_forward(context, layer.get(), args, nullptr) == mistake.status);
    for (const std::vector<float>* buffer : {&output, &weights, &workspace})
      CHECK(std::all_of(buffer->begin(), buffer->end(), is_poison));
  }

  LayerCall args = problem.args();
  std::vector<float> output = poisoned(2 * 3 * 14);
  args.output = mut_view(output.data());
  mha_error error = fresh_error();
  check_error(layer_forward(nullptr, layer.get(), args, &error), MHA_ERR_NULL, error, {"context is NULL"});
  check_error(layer_forward(context, nullptr, args, &error), MHA_ERR_NULL, error, {"layer is NULL"});
  check_error(layer_forward(context, layer.get(), nullptr, &error), MHA_ERR_NULL, error, {"args is NULL"});
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

TEST_CASE("status: linear", "[status][linear]") {
  const mha_context* context = any_context();
  const std::vector<float> weight(12);
  mha_error error = fresh_error();
  mha_linear* linear = nullptr;
  const auto create = [&](const mha_context* with, int64_t in, int64_t out, const float* w) {
    linear = reinterpret_cast<mha_linear*>(&error);
    error = fresh_error();
    const mha_status status = mha_linear_create(with, in, out, w, nullptr, &linear, &error);
    CHECK(linear == nullptr);
    return status;
  };
  check_error(create(nullptr, 4, 3, weight.data()), MHA_ERR_NULL, error, {"context is NULL"});
  check_error(create(context, 4, 3, nullptr), MHA_ERR_NULL, error, {"weight is NULL"});
  check_error(create(context, 0, 3, weight.data()), MHA_ERR_ARGUMENT, error, {"in_features", "0"});
  check_error(create(context, 4, -3, weight.data()), MHA_ERR_ARGUMENT, error, {"out_features", "-3"});
  check_error(mha_linear_create(context, 4, 3, weight.data(), nullptr, nullptr, &error), MHA_ERR_NULL, error,
              {"linear is NULL"});
  mha_linear_destroy(nullptr);
  CHECK(mha_linear_in_features(nullptr) == 0);
  CHECK(mha_linear_out_features(nullptr) == 0);

  const LinearPtr good = make_linear(context, 4, 3, weight.data(), nullptr);
  std::vector<float> output = poisoned(6);
  const auto forward = [&](const mha_linear_args& args) {
    error = fresh_error();
    const mha_status status = mha_linear_forward(context, good.get(), &args, &error);
    CHECK(std::all_of(output.begin(), output.end(), is_poison));
    return status;
  };
  const float* input = weight.data();
  check_error(forward({-1, input, 0, output.data(), 0}), MHA_ERR_ARGUMENT, error, {"rows", "-1"});
  check_error(forward({2, nullptr, 0, output.data(), 0}), MHA_ERR_NULL, error, {"input is NULL"});
  check_error(forward({2, input, 0, nullptr, 0}), MHA_ERR_NULL, error, {"output is NULL"});
  check_error(forward({2, input, -4, output.data(), 0}), MHA_ERR_STRIDE, error, {"input_stride", "-4"});
  check_error(forward({2, input, 0, output.data(), 2}), MHA_ERR_STRIDE, error, {"output_stride", "2", "3"});
  check_error(forward({2, input, 0, output.data(), -3}), MHA_ERR_STRIDE, error, {"output_stride", "-3"});
  const mha_linear_args args = {2, input, 0, output.data(), 0};
  check_error(mha_linear_forward(nullptr, good.get(), &args, &error), MHA_ERR_NULL, error, {"context is NULL"});
  check_error(mha_linear_forward(context, nullptr, &args, &error), MHA_ERR_NULL, error, {"linear is NULL"});
  check_error(mha_linear_forward(context, good.get(), nullptr, &error), MHA_ERR_NULL, error, {"args is NULL"});
}

TEST_CASE("status: every value has its name, others have one too", "[status]") {
  const std::pair<mha_status, const char*> names[] = {{MHA_OK, "MHA_OK"},
                                                      {MHA_ERR_NULL, "MHA_ERR_NULL"},
                                                      {MHA_ERR_ARGUMENT, "MHA_ERR_ARGUMENT"},
                                                      {MHA_ERR_SHAPE, "MHA_ERR_SHAPE"},
                                                      {MHA_ERR_STRIDE, "MHA_ERR_STRIDE"},
                                                      {MHA_ERR_OVERFLOW, "MHA_ERR_OVERFLOW"},
                                                      {MHA_ERR_BUFFER, "MHA_ERR_BUFFER"},
                                                      {MHA_ERR_OUT_OF_MEMORY, "MHA_ERR_OUT_OF_MEMORY"},
                                                      {MHA_ERR_TARGET, "MHA_ERR_TARGET"},
                                                      {MHA_ERR_BLOB, "MHA_ERR_BLOB"},
                                                      {MHA_ERR_UNSUPPORTED, "MHA_ERR_UNSUPPORTED"},
                                                      {MHA_ERR_FULL, "MHA_ERR_FULL"}};
  for (const auto& [status, name] : names) CHECK(std::string(mha_status_string(status)) == name);
  for (int other : {-1, 12, 1000}) CHECK(std::string(mha_status_string(other)) == "unknown status");
}

TEST_CASE("status: the version is the header's", "[status]") {
  std::ostringstream version;
  version << MHA_VERSION_MAJOR << "." << MHA_VERSION_MINOR << "." << MHA_VERSION_PATCH;
  CHECK(version.str() == mha_version());
}
