// SPDX-License-Identifier: Apache-2.0
// Linears in INT8 arithmetic: every element by the rules, on every target, without FMA too.
#include "tests/support/int8_order.h"

#include <array>

#include "tests/support/element_linears.h"
#include "tests/support/layers.h"
#include "tests/support/numbers.h"

using namespace mha::test;

namespace {

LinearPtr make(const mha_context* context, const mha_linear_config& config) {
  mha_linear* linear = nullptr;
  mha_error error = {};
  require_ok(mha_linear_create(context, &config, &linear, &error), error);
  return LinearPtr(linear);
}

/// Rows of very different size, some numbers that are no numbers, zeros.
void vary(Random& random, std::vector<float>* input, int64_t K) {
  if (one_in(random, 4)) scale_rows(random, input, K);
  if (one_in(random, 6)) spoil(random, input);
  if (one_in(random, 6)) scale_all(input, one_of(random, {0x1p-99f, 0x1p-101f, 0x1p-126f, 0x1p120f}));
  if (one_in(random, 6)) std::fill_n(input->begin(), K, 0.0f);
}

mha_linear_config config_of(const WeightCodes& w, int64_t N, int64_t K, const float* bias) {
  mha_linear_config config = {};
  config.in_features = K, config.out_features = N, config.weight = w.view(), config.layout = w.layout();
  config.bias = bias, config.arithmetic = MHA_ARITHMETIC_INT8;
  return config;
}

}  // namespace

TEST_CASE("int8: linears over codes of every type and layout, every element by the rules",
          "[int8][codes][linear][bits]") {
  int64_t cases = 0;
  for (const uint64_t seed : seeds(620000, 300)) {
    Random random(seed);
    const int64_t M = one_of<int64_t>(random, {1, 2, 5, 7, 9, 33, 264});
    const int64_t N = one_of<int64_t>(random, {1, 8, 15, 16, 40, 64, 65, 136});
    const int64_t K = one_of<int64_t>(random, {1, 8, 31, 32, 64, 96, 129, 160, 520, 1032});
    const WeightCodes weight(random, N, K);
    std::vector<float> input = random_floats(M * K, seed * 4 + 1);
    const std::vector<float> bias = random_floats(N, seed * 4 + 2);
    vary(random, &input, K);
    const mha_linear_config config = config_of(weight, N, K, one_in(random, 2) ? bias.data() : nullptr);
    INFO("seed " << seed << " M " << M << " N " << N << " K " << K << " " << weight.describe());
    if (weight.has_float_zeros()) {
      mha_linear* linear = nullptr;
      mha_error error = {};
      CHECK(mha_linear_create(shared_context(targets_of(MHA_ARITHMETIC_INT8).front(), 1), &config, &linear, &error) ==
            MHA_ERR_UNSUPPORTED);
      CHECK(mentions(error, "weight.quant.zero_dtype is MHA_F"));
      continue;
    }
    ++cases;
    const std::vector<float> want = int8::linear(input, M, N, K, weight.parts(), weight.group(), config.bias);
    for (const std::string& target : targets_of(MHA_ARITHMETIC_INT8)) {
      for (const int64_t threads : {1, 3}) {
        INFO("target " << target << ", " << threads << " threads");
        const mha_context* context = shared_context(target, threads);
        check_same_bits("output", run_linear(context, make(context, config).get(), input, M), want);
      }
    }
  }
  CHECK(cases > 0);
}

TEST_CASE("int8: linears over inputs and outputs of any type, rows apart, rows on their own, mapped back",
          "[int8][linear][elements]") {
  for (const uint64_t seed : seeds(621000, 60)) {
    Random random(seed);
    const auto& [M, N, K] =
        one_of(random, {std::array<int64_t, 3>{9, 37, 70}, {1, 65, 33}, {70, 130, 600}, {33, 64, 1100}});
    const ElementLinear p(M, N, K, {random_dtype(random), MHA_F32, random_dtype(random), -1, MHA_ARITHMETIC_INT8}, true,
                          seed, 3);
    for (const std::string& target : targets_of(MHA_ARITHMETIC_INT8)) {
      const mha_context* context = shared_context(target, 3);
      INFO(target << " " << p.describe());
      const std::vector<float> want = p.oracle(context);
      check_rounded("output", run_rows(context, p.make(context).get(), p, 0, M, true, 2), want);
      check_rounded("last row", run_rows(context, p.make(context).get(), p, M - 1, 1, false),
                    std::vector<float>(want.end() - N, want.end()));
      size_t bytes = 0;
      mha_error error = {};
      const LinearPtr linear = p.make(context);
      require_ok(mha_linear_save_bytes(linear.get(), &bytes, &error), error);
      std::vector<uint64_t> blob((bytes + 7) / 8);
      require_ok(mha_linear_save(linear.get(), blob.data(), bytes, &error), error);
      mha_linear* mapped = nullptr;
      require_ok(mha_linear_map(context, blob.data(), bytes, &mapped, &error), error);
      check_rounded("mapped", run_rows(context, LinearPtr(mapped).get(), p, 0, M, true), want);
    }
  }
}

TEST_CASE("int8: a group of more than 32,768 inputs goes in parts", "[int8][linear][extremes]") {
  if (targets_of(MHA_ARITHMETIC_INT8).empty()) return;
  const int64_t K = 2 * 32768 + 48, N = 17;
  for (const int64_t M : {1, 10}) {
    std::vector<float> input(static_cast<size_t>(M * K), 1.0f);
    for (int64_t k = 2 * 32768; k < K; ++k) input[static_cast<size_t>(k)] = 0.25f;
    const std::vector<int8_t> codes(static_cast<size_t>(N * K), -128);
    const float scale = 0.5f;
    mha_quant quant = {};
    quant.scales = &scale;
    mha_linear_config config = {};
    config.in_features = K, config.out_features = N, config.arithmetic = MHA_ARITHMETIC_INT8;
    config.weight.data = codes.data(), config.weight.dtype = MHA_I8, config.weight.quant = &quant;
    const std::vector<float> want =
        int8::linear(input, M, N, K, std::vector<CodeParts>(codes.size(), {-128.0f, scale}), 0, nullptr);
    for (const std::string& target : targets_of(MHA_ARITHMETIC_INT8)) {
      INFO("target " << target << " M " << M);
      const mha_context* context = shared_context(target, 1);
      check_same_bits("output", run_linear(context, make(context, config).get(), input, M), want);
    }
  }
}

TEST_CASE("int8: codes and zeros as far apart as they can be, as many as are summed", "[int8][linear][extremes]") {
  if (targets_of(MHA_ARITHMETIC_INT8).empty()) return;
  constexpr int64_t K = 32768, N = 17;
  const float scale = 0.5f;
  const int8_t low[N] = {-128, -128, -128, -128, -128, -128, -128, -128, -128,
                         -128, -128, -128, -128, -128, -128, -128, -128};
  const std::vector<uint8_t> high(static_cast<size_t>(N * K), 255);
  const std::vector<int8_t> negative(high.size(), -128);
  for (const bool is_unsigned : {false, true}) {
    mha_quant quant = {};
    quant.scales = &scale, quant.zero_dtype = is_unsigned ? MHA_I8 : MHA_U8;
    quant.zeros = is_unsigned ? static_cast<const void*>(low) : high.data();
    mha_linear_config config = {};
    config.in_features = K, config.out_features = N, config.arithmetic = MHA_ARITHMETIC_INT8;
    config.weight.dtype = is_unsigned ? MHA_U8 : MHA_I8, config.weight.quant = &quant;
    config.weight.data = is_unsigned ? static_cast<const void*>(high.data()) : negative.data();
    for (const int64_t M : {1, 10}) {
      const std::vector<float> input(static_cast<size_t>(M * K), 1.0f);
      const float want = (is_unsigned ? 383.0f : -383.0f) * 127 * K * (1.0f / 127 * scale);
      for (const std::string& target : targets_of(MHA_ARITHMETIC_INT8)) {
        INFO("target " << target << " M " << M << " codes " << dtype_name(config.weight.dtype));
        const mha_context* context = shared_context(target, 1);
        const std::vector<float> got = run_linear(context, make(context, config).get(), input, M);
        for (const float value : got) CHECK(std::fabs(value - want) <= 1e-6f * std::fabs(want));
      }
    }
  }
}

TEST_CASE("int8: the greatest codes of 4 bits and inputs, whose sums fill 16 bits on some targets",
          "[int8][codes][linear][extremes]") {
  if (targets_of(MHA_ARITHMETIC_INT8).empty()) return;
  const int64_t K = 288, N = 33;
  const float scale = 0.5f;
  const std::vector<uint8_t> codes(static_cast<size_t>(N * K / 2), 0xff);
  for (const auto& [M, input_value] : {std::pair<int64_t, float>{1, 1.0f}, {10, -1.0f}, {264, 1.0f}, {264, -1.0f}}) {
    const std::vector<float> input(static_cast<size_t>(M * K), input_value);
    for (const mha_dtype dtype : {MHA_I4, MHA_U4}) {
      for (const int64_t group : {0, 32, 96}) {
        mha_quant quant = {};
        quant.scales = &scale, quant.group = group;
        mha_linear_config config = {};
        config.in_features = K, config.out_features = N, config.arithmetic = MHA_ARITHMETIC_INT8;
        config.weight.data = codes.data(), config.weight.dtype = dtype, config.weight.quant = &quant;
        const std::vector<float> want = int8::linear(
            input, M, N, K, std::vector<CodeParts>(static_cast<size_t>(N * K), {7.0f, scale}), group, nullptr);
        for (const std::string& target : targets_of(MHA_ARITHMETIC_INT8)) {
          INFO("target " << target << " M " << M << " group " << group);
          const mha_context* context = shared_context(target, 1);
          check_same_bits("output", run_linear(context, make(context, config).get(), input, M), want);
        }
      }
    }
  }
}

TEST_CASE("int8: weights that are not multiplied are refused by name", "[int8][linear][status]") {
  if (targets_of(MHA_ARITHMETIC_INT8).empty()) return;
  const mha_context* context = shared_context(targets_of(MHA_ARITHMETIC_INT8).front(), 1);
  const std::vector<float> weight = random_floats(64, 622000);
  mha_storage packed = {};
  mha_linear_config config = {};
  config.in_features = 16, config.out_features = 4, config.weight = view(weight.data());
  config.arithmetic = MHA_ARITHMETIC_INT8, config.packed = &packed;
  for (const mha_dtype dtype : {MHA_F32, MHA_F16, MHA_BF16}) {
    packed.dtype = dtype;
    mha_linear* linear = nullptr;
    mha_error error = {};
    CHECK(mha_linear_create(context, &config, &linear, &error) == MHA_ERR_UNSUPPORTED);
    CHECK(mentions(error, "MHA_ARITHMETIC_INT8 keeps weights as MHA_I8"));
    CHECK(linear == nullptr);
  }
}

TEST_CASE("int8: a layer's projections are those of its linears", "[int8][layer]") {
  if (targets_of(MHA_ARITHMETIC_INT8).empty()) return;
  constexpr int64_t E = 48, Tq = 9;
  std::vector<float> weights[4];
  for (size_t n = 0; n < 4; ++n) weights[n] = random_floats(E * E, 623000 + n);
  const std::vector<float> input = random_floats(Tq * E, 623010);
  for (const std::string& target : targets_of(MHA_ARITHMETIC_INT8)) {
    INFO("target " << target);
    const mha_context* context = shared_context(target, 2);
    mha_layer_config config = {};
    config.embed_dim = E, config.num_heads = 3, config.arithmetic = MHA_ARITHMETIC_INT8;
    mha_layer_weights given = {};
    given.query_weight = view(weights[0].data()), given.key_weight = view(weights[1].data());
    given.value_weight = view(weights[2].data()), given.output_weight = view(weights[3].data());
    mha_layer* layer = nullptr;
    mha_error error = {};
    require_ok(mha_layer_create(context, &config, &given, &layer, &error), error);
    const LayerPtr owned(layer);
    std::vector<float> projected[3], attended = poisoned(Tq * E), got = poisoned(Tq * E);
    for (size_t n = 0; n < 3; ++n) {
      projected[n] = run_linear(
          context, make_linear(context, E, E, weights[n].data(), nullptr, MHA_ARITHMETIC_INT8).get(), input, Tq);
    }
    AttentionCall attend = {};
    attend.batch = 1, attend.num_heads = 3, attend.query_len = attend.key_len = Tq, attend.head_dim = E / 3;
    attend.query = view(projected[0].data()), attend.key = view(projected[1].data());
    attend.value = view(projected[2].data()), attend.output = mut_view(attended.data());
    require_ok(attention(context, attend, &error), error);
    const std::vector<float> want = run_linear(
        context, make_linear(context, E, E, weights[3].data(), nullptr, MHA_ARITHMETIC_INT8).get(), attended, Tq);
    mha_layer_args args = {};
    args.batch = 1, args.query_len = Tq, args.query = view(input.data()), args.output = mut_view(got.data());
    require_ok(mha_layer_forward(context, layer, &args, &error), error);
    check_same_bits("output", got, want);
  }
}
