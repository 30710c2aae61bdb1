// SPDX-License-Identifier: Apache-2.0
// Weights of linears and layers that are codes, as quantised models have them: the bits of the call over the floats that
// they stand for; and floats that are rounded to codes on request.
#include "tests/support/weight_codes.h"

#include "tests/support/counting.h"
#include "tests/support/element_linears.h"
#include "tests/support/layers.h"
#include "tests/support/quantise.h"

using namespace mha::test;

namespace {

mha_linear_config config_of(const WeightCodes& w, int64_t N, int64_t K, const float* bias) {
  mha_linear_config config = {};
  config.in_features = K, config.out_features = N, config.weight = w.view(), config.layout = w.layout();
  config.bias = bias;
  return config;
}

LinearPtr make(const mha_context* context, const mha_linear_config& config) {
  mha_linear* linear = nullptr;
  mha_error error = {};
  require_ok(mha_linear_create(context, &config, &linear, &error), error);
  return LinearPtr(linear);
}

/// Saved and mapped back; `blob` is where to.
LinearPtr mapped(const mha_context* context, const mha_linear* linear, std::vector<uint64_t>* blob) {
  size_t bytes = 0;
  mha_error error = {};
  require_ok(mha_linear_save_bytes(linear, &bytes, &error), error);
  blob->assign((bytes + 7) / 8, 0);
  require_ok(mha_linear_save(linear, blob->data(), bytes, &error), error);
  mha_linear* made = nullptr;
  require_ok(mha_linear_map(context, blob->data(), bytes, &made, &error), error);
  return LinearPtr(made);
}

}  // namespace

TEST_CASE("weight codes: a linear has the bits of the linear over the floats that they stand for",
          "[codes][linear][bits]") {
  for (const uint64_t seed : seeds(610000, 250)) {
    Random random(seed);
    const int64_t M = one_of<int64_t>(random, {1, 2, 7, 33});
    const int64_t N = one_of<int64_t>(random, {1, 8, 15, 16, 40, 64, 65, 136});
    const int64_t K = one_of<int64_t>(random, {1, 8, 31, 32, 64, 96, 129, 160, 520, 1032});
    const WeightCodes weight(random, N, K);
    const std::vector<float> input = random_floats(M * K, seed * 4 + 1), bias = random_floats(N, seed * 4 + 2);
    mha_linear_config config = config_of(weight, N, K, one_in(random, 2) ? bias.data() : nullptr);
    mha_storage packed = {};
    std::vector<float> wide = weight.widened();
    if (one_in(random, 3)) {
      packed.dtype = random_dtype(random), config.packed = &packed;
      wide = through(packed.dtype, wide);
    }
    INFO("seed " << seed << " M " << M << " N " << N << " K " << K << " " << weight.describe() << ", packed "
                 << (config.packed != nullptr ? dtype_name(packed.dtype) : "as given"));
    for (const std::string& target : supported_targets()) {
      INFO("target " << target);
      const mha_context* context = shared_context(target, one_of<int64_t>(random, {1, 3}));
      const LinearPtr linear = make(context, config);
      const std::vector<float> want =
          run_linear(context, make_linear(context, K, N, wide.data(), config.bias).get(), input, M);
      check_same_bits("output", run_linear(context, linear.get(), input, M), want);
      std::vector<uint64_t> blob;
      check_same_bits("mapped", run_linear(context, mapped(context, linear.get(), &blob).get(), input, M), want);
    }
    if (config.packed != nullptr && packed.dtype != MHA_BF16) continue;
    config.arithmetic = MHA_ARITHMETIC_BF16;
    for (const std::string& target : targets_of(MHA_ARITHMETIC_BF16)) {
      INFO("BF16, target " << target);
      const mha_context* context = shared_context(target, 1);
      const LinearPtr floats = make_linear(context, K, N, weight.widened().data(), config.bias, MHA_ARITHMETIC_BF16);
      check_same_bits("output", run_linear(context, make(context, config).get(), input, M),
                      run_linear(context, floats.get(), input, M));
    }
  }
}

TEST_CASE("weight codes: one packed form on every target", "[codes][linear]") {
  for (const uint64_t seed : seeds(611000, 20)) {
    Random random(seed);
    const WeightCodes weight(random, 40, 96);
    std::vector<uint64_t> first;
    for (const std::string& target : supported_targets()) {
      CountingAllocator memory;  // what is not written shows
      for (const ContextPtr& context : {make_context(target, 1), make_context(memory.options(target, 1))}) {
        std::vector<uint64_t> blob;
        mapped(context.get(), make(context.get(), config_of(weight, 40, 96, nullptr)).get(), &blob);
        if (first.empty()) first = blob;
        CHECK(blob == first);
      }
    }
  }
}

TEST_CASE("weight codes: without memory for rounding nothing is made and nothing lost", "[codes][linear][memory]") {
  CountingAllocator memory;
  const ContextPtr context = make_context(memory.options(supported_targets().front(), 1));
  const std::vector<float> weight = random_floats(40 * 64, 615000);
  mha_storage packed = {};
  packed.dtype = MHA_I4, packed.group = 32, packed.scale_dtype = MHA_F16;
  mha_linear_config config = {};
  config.in_features = 64, config.out_features = 40, config.weight = view(weight.data()), config.packed = &packed;
  const size_t live = memory.live.size();
  for (int failing = 0; failing < 2; ++failing) {
    memory.calls = 0, memory.fail_at = failing;
    mha_linear* linear = nullptr;
    mha_error error = {};
    CHECK(mha_linear_create(context.get(), &config, &linear, &error) == MHA_ERR_OUT_OF_MEMORY);
    CHECK(linear == nullptr);
    CHECK(mentions(error, "bytes"));
    CHECK(memory.live.size() == live);
  }
  memory.calls = 0, memory.fail_at = -1;
  CHECK(make(context.get(), config).get() != nullptr);
  CHECK(memory.calls == 2);
  CHECK(memory.live.size() == live);
  mha_layer_config layer_config = {};
  layer_config.embed_dim = 24, layer_config.num_heads = 4, layer_config.packed = &packed;
  const LayerProblem p(layer_config, 1, 1, 1, Biases::kNone, 615001);
  const mha_layer_weights weights = p.separate_weights();
  for (int failing = 0; failing < 3; ++failing) {
    memory.calls = 0, memory.fail_at = failing < 2 ? failing : -1;
    mha_layer* layer = nullptr;
    CHECK(mha_layer_create(context.get(), &layer_config, &weights, &layer, nullptr) ==
          (failing < 2 ? MHA_ERR_OUT_OF_MEMORY : MHA_OK));
    CHECK((layer != nullptr) == (failing == 2));
    mha_layer_destroy(layer);
    CHECK(memory.live.size() == live);
  }
  CHECK_FALSE(memory.misuse);
}

TEST_CASE("weight codes: explain says how they are stored, and what is kept as given costs nothing",
          "[codes][linear][explain]") {
  Random random(617000);
  const mha_context* context = shared_context(supported_targets().front(), 1);
  const std::vector<float> input = random_floats(64, 617001);
  std::vector<float> output(16);
  const auto explained = [&](const mha_linear_config& config) {
    const LinearPtr linear = make(context, config);
    const mha_linear_args args = linear_args(1, input.data(), output.data());
    char text[4096];
    mha_error error = {};
    require_ok(mha_linear_explain(context, linear.get(), &args, text, sizeof text, nullptr, &error), error);
    return std::string(text);
  };
  const WeightCodes gptq(random, 16, 64, Nibbles::kGptq);
  mha_linear_config config = config_of(gptq, 16, 64, nullptr);
  mha_quant quant = gptq.quant();  // with zeros, whether these codes have them or not
  const std::vector<uint32_t> zeros(64);
  quant.zeros = zeros.data(), quant.zero_dtype = MHA_U4, quant.group = 16;
  const std::vector<float> scales(64, 0.5f);
  quant.scales = scales.data(), quant.scale_dtype = MHA_F32;
  config.weight.quant = &quant;
  mha_storage_error lost = {};
  config.packed_error = &lost;
  CHECK(explained(config).find("weights MHA_U4") != std::string::npos);
  CHECK(explained(config).find("a scale of MHA_F32 and a zero for each output and 16 inputs") != std::string::npos);
  CHECK((lost.max == 0 && lost.rms == 0 && lost.elements == 16 * 64));
  quant.zeros = nullptr, quant.zero_dtype = MHA_F32, quant.group = 0;
  CHECK(explained(config).find("a scale of MHA_F32 for each output\n") != std::string::npos);
}

TEST_CASE("weight codes: floats are rounded on request, as rows of a cache are", "[codes][linear][quantise]") {
  for (const uint64_t seed : seeds(612000, 80)) {
    Random random(seed);
    const int64_t M = 3, N = one_of<int64_t>(random, {1, 15, 16, 33}),
                  K = one_of<int64_t>(random, {1, 16, 31, 64, 200});
    CodeStorage storage(random, 1, K);
    if (storage.fixed) continue;
    const std::vector<float> weight = random_floats(N * K, seed * 4 + 1), input = random_floats(M * K, seed * 4 + 2);
    const Elements given(random_dtype(random), weight);
    const std::vector<float> given_floats = given.widened();
    const std::vector<float> want_floats = storage.round_all(given_floats);
    mha_linear_config config = {};
    config.in_features = K, config.out_features = N, config.weight = given.view();
    const mha_storage packed = storage.storage();
    mha_storage_error lost = {};
    config.packed = &packed, config.packed_error = &lost;
    INFO("seed " << seed << " N " << N << " K " << K << " " << storage.describe());
    for (const std::string& target : supported_targets()) {
      INFO("target " << target);
      const mha_context* context = shared_context(target, 1);
      const LinearPtr floats = make_linear(context, K, N, want_floats.data(), nullptr);
      check_same_bits("output", run_linear(context, make(context, config).get(), input, M),
                      run_linear(context, floats.get(), input, M));
      double worst = 0, squares = 0, given_squares = 0;
      for (size_t n = 0; n < want_floats.size(); ++n) {
        const double value = static_cast<double>(given_floats[n]), apart = static_cast<double>(want_floats[n]) - value;
        worst = std::max(worst, std::abs(apart));
        squares += apart * apart, given_squares += value * value;
      }
      const auto count = static_cast<double>(N * K);
      CHECK(lost.max == worst);
      CHECK(lost.rms == std::sqrt(squares / count));
      CHECK(lost.rms_given == std::sqrt(given_squares / count));
      CHECK(lost.elements == N * K);
    }
  }
}

TEST_CASE("weight codes: a layer has the bits of the layer over floats, its weights fused or apart",
          "[codes][layer][bits]") {
  for (const uint64_t seed : seeds(613000, 24)) {
    Random random(seed);
    mha_layer_config config = {};
    config.embed_dim = 48, config.num_heads = 4, config.num_kv_heads = 2, config.head_dim = 16;
    const LayerProblem p(config, 2, 9, 9, Biases::kAll, seed);
    const int64_t rows[4] = {64, 32, 32, 48}, columns[4] = {48, 48, 48, 64};
    const bool fused = one_in(random, 2);
    const Nibbles layout = one_of(random, {Nibbles::kRows, Nibbles::kGptq, Nibbles::kGptqV2, Nibbles::kAwq});
    std::vector<std::unique_ptr<WeightCodes>> parts;
    if (fused) parts.push_back(std::make_unique<WeightCodes>(random, 128, 48, layout));
    for (int i = fused ? 3 : 0; i < 4; ++i)
      parts.push_back(std::make_unique<WeightCodes>(random, rows[i], columns[i], layout));
    INFO("seed " << seed << " " << parts[0]->describe() << (fused ? ", fused" : ""));
    mha_layer_weights coded = p.separate_weights(), floats = coded;
    mha_view* const codes_of[4] = {&coded.query_weight, &coded.key_weight, &coded.value_weight, &coded.output_weight};
    mha_view* const floats_of[4] = {&floats.query_weight, &floats.key_weight, &floats.value_weight,
                                    &floats.output_weight};
    if (fused) {
      const float* wide = parts[0]->widened().data();  // given apart
      for (int i = 0; i < 3; wide += rows[i] * columns[i], ++i) *codes_of[i] = mha_view{}, *floats_of[i] = view(wide);
      coded.in_proj_weight = parts[0]->view();
      *codes_of[3] = parts[1]->view(), *floats_of[3] = view(parts[1]->widened().data());
    }
    for (int i = 0; i < 4 && !fused; ++i) {
      const auto& part = parts[static_cast<size_t>(i)];
      *codes_of[i] = part->view(), *floats_of[i] = view(part->widened().data());
    }
    for (const std::string& target : supported_targets()) {
      INFO("target " << target);
      const mha_context* context = shared_context(target, 2);
      mha_layer_config of_codes = config;
      of_codes.layout = parts[0]->layout();
      const auto forward = [&](const mha_layer_config& c, const mha_layer_weights& weights, bool map) {
        mha_layer* layer = nullptr;
        mha_error error = {};
        require_ok(mha_layer_create(context, &c, &weights, &layer, &error), error);
        LayerPtr made(layer);
        std::vector<uint64_t> blob;
        if (map) {
          size_t bytes = 0;
          require_ok(mha_layer_save_bytes(layer, &bytes, &error), error);
          blob.resize((bytes + 7) / 8);
          require_ok(mha_layer_save(layer, blob.data(), bytes, &error), error);
          require_ok(mha_layer_map(context, blob.data(), bytes, &layer, &error), error);
          made = LayerPtr(layer);
        }
        std::vector<float> output = poisoned(2 * 9 * 48);
        mha_layer_args args = {};
        args.batch = 2, args.query_len = 9, args.query = view(p.query.data()), args.output = mut_view(output.data());
        require_ok(mha_layer_forward(context, layer, &args, &error), error);
        return output;
      };
      const std::vector<float> want = forward(config, floats, false);
      check_same_bits("output", forward(of_codes, coded, false), want);
      check_same_bits("mapped", forward(of_codes, coded, true), want);
    }
  }
}

TEST_CASE("weight codes: a blob whose header says what cannot be is refused", "[codes][linear][blob]") {
  Random random(616000);
  const WeightCodes weight(random, 16, 64, Nibbles::kAwq);
  const mha_context* context = shared_context(supported_targets().front(), 1);
  std::vector<uint64_t> blob;
  const LinearPtr good = mapped(context, make(context, config_of(weight, 16, 64, nullptr)).get(), &blob);
  CHECK(good.get() != nullptr);
  constexpr size_t kStorage = 48;  // dtype, scale_dtype, flags, group, of 32 bits each
  const auto refused = [&](size_t word, uint32_t value) {
    INFO("word " << word << " becomes " << value);
    std::vector<uint64_t> bad = blob;
    auto* bytes = reinterpret_cast<unsigned char*>(bad.data());
    std::memcpy(bytes + kStorage + 4 * word, &value, sizeof value);
    uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a, as core/math/checksum.cpp has it
    for (size_t n = 0; n < 120; ++n) hash = (hash ^ bytes[n]) * 0x100000001b3u;
    std::memcpy(bytes + 120, &hash, sizeof hash);
    mha_linear* linear = nullptr;
    mha_error error = {};
    CHECK(mha_linear_map(context, bad.data(), bad.size() * 8, &linear, &error) == MHA_ERR_BLOB);
    CHECK(linear == nullptr);
    CHECK(mentions(error, "weight as dtype"));
  };
  for (const uint32_t dtype : {7u, 16u, 17u, 255u}) refused(0, dtype);
  for (const uint32_t dtype : {3u, 4u, 9u}) refused(1, dtype);
  for (const uint32_t flags : {2u, 0x201u, 0x501u, 0x10001u, 0x400u}) refused(2, flags);
  for (const uint32_t group : {8u, 17u}) refused(3, group);
}

TEST_CASE("weight codes: what cannot be is refused by name", "[codes][linear][status]") {
  Random random(614000);
  const WeightCodes rows(random, 16, 64, Nibbles::kRows), gptq(random, 16, 64, Nibbles::kGptq);
  const mha_context* context = shared_context(supported_targets().front(), 1);
  const auto refused = [&](const char* what, const mha_linear_config& config, mha_status status, const char* text) {
    INFO(what);
    mha_linear* linear = nullptr;
    mha_error error = {};
    CHECK(mha_linear_create(context, &config, &linear, &error) == status);
    INFO(error.message);
    CHECK(linear == nullptr);
    CHECK(mentions(error, text));
  };
  const auto with_quant = [](mha_linear_config config, const mha_quant& quant) {
    config.weight.quant = &quant;
    return config;
  };
  const mha_linear_config by_rows = config_of(rows, 16, 64, nullptr), by_words = config_of(gptq, 16, 64, nullptr);
  mha_linear_config c = by_rows;
  c.weight.quant = nullptr;
  refused("no scales", c, MHA_ERR_NULL, "weight.quant is NULL");
  mha_quant q = rows.quant();
  const int32_t index = 0;
  q.group_index = &index;
  refused("act-order", with_quant(by_rows, q), MHA_ERR_UNSUPPORTED, "weight.quant.group_index");
  q = rows.quant(), q.hadamard = 1;
  refused("rotated", with_quant(by_rows, q), MHA_ERR_UNSUPPORTED, "weight.quant.hadamard");
  q = rows.quant(), q.group = 24, q.stride_d = 1, q.zeros = nullptr, q.zero_dtype = MHA_F32;
  refused("a group of 24", with_quant(by_rows, q), MHA_ERR_UNSUPPORTED, "weight.quant.group is 24");
  q = rows.quant(), q.zeros = q.scales, q.zero_dtype = MHA_U4, q.group = 16, q.stride_t = 8, q.stride_d = 2;
  refused("zeros apart", with_quant(by_rows, q), MHA_ERR_STRIDE, "weight.quant.stride_d is 2");
  c = by_words, c.layout = static_cast<mha_weight_layout>(7);
  refused("no layout", c, MHA_ERR_ARGUMENT, "layout is 7");
  c = by_words, c.weight.dtype = MHA_I8;
  refused("words of bytes", c, MHA_ERR_UNSUPPORTED, "weight.dtype is MHA_I8");
  c = by_words, c.weight.stride_t = 16;
  refused("strides of words", c, MHA_ERR_STRIDE, "weight.stride_b, _t, _h are 0, 16, 0");
  c = by_words, c.out_features = 12;
  refused("half a word of outputs", c, MHA_ERR_SHAPE, "weight is of 12 outputs");
  c = by_words, c.in_features = 60;
  refused("half a word of inputs", c, MHA_ERR_SHAPE, "and 60 inputs");
  q = gptq.quant(), q.stride_t = 1;
  refused("strides of scales", with_quant(by_words, q), MHA_ERR_ARGUMENT, "weight.quant.stride_b, _t, _h, _d are 0, 1");
  q = gptq.quant(), q.zeros = nullptr, q.zero_dtype = MHA_U4;
  refused("a type of no zeros", with_quant(by_words, q), MHA_ERR_ARGUMENT, "zero_dtype is 6, but zeros is NULL");
  q = gptq.quant(), q.zeros = q.scales, q.zero_dtype = MHA_U8;
  refused("zeros of bytes", with_quant(by_words, q), MHA_ERR_ARGUMENT, "weight.quant.zero_dtype");
  mha_storage packed = {};
  packed.dtype = MHA_I8;
  c = by_rows, c.packed = &packed, c.arithmetic = MHA_ARITHMETIC_BF16;
  if (has_arithmetic(supported_targets().front(), MHA_ARITHMETIC_BF16))
    refused("BF16 in bytes", c, MHA_ERR_UNSUPPORTED, "packed.dtype is MHA_I8");
  c.arithmetic = MHA_ARITHMETIC_F32, packed.hadamard = 1;
  refused("rotated when packed", c, MHA_ERR_UNSUPPORTED, "packed.hadamard");
  packed.hadamard = 0, packed.group = 24;
  refused("packed in groups of 24", c, MHA_ERR_UNSUPPORTED, "packed.group is 24");
  packed.group = 0, packed.fixed = &q;
  refused("packed with fixed scales", c, MHA_ERR_UNSUPPORTED, "packed.fixed");
  packed = {}, packed.dtype = MHA_Q8_0;
  refused("packed as blocks", c, MHA_ERR_UNSUPPORTED, "packed.dtype is MHA_Q8_0");
}
