// SPDX-License-Identifier: Apache-2.0
// BF16 arithmetic: every FMA target computes what the rules of core/README.md say, bit by bit.
#include "tests/support/bf16_order.h"
#include "tests/support/element_linears.h"
#include "tests/support/numbers.h"

#include <array>
#include <cstdio>
#include <cstdlib>

using namespace mha::test;

namespace {

/// What magnitudes and special numbers a problem has.
enum class Numbers { kGaussian, kSteep, kRows, kTiny, kDenormal, kHiddenNan, kVisibleNan, kOverflow, kRepeated };
constexpr int kNumbers = 9;

AttentionCall in_bf16(AttentionCall args) {
  args.arithmetic = MHA_ARITHMETIC_BF16;
  return args;
}

void put_numbers(Random& random, Numbers numbers, AttentionProblem* p) {
  const AttentionShape& s = p->shape;
  switch (numbers) {
    case Numbers::kGaussian:
      break;
    case Numbers::kSteep:
      scale_all(&p->query, 30);
      break;
    case Numbers::kRows:
      scale_rows(random, &p->query, s.D), scale_rows(random, &p->key, s.D), scale_rows(random, &p->value, s.Dv);
      break;
    case Numbers::kTiny:  // products near 2^-126
      scale_all(&p->query, 0x1p-60f), scale_all(&p->key, 0x1p-64f), scale_all(&p->value, 0x1p-122f);
      p->scale = 0x1p60f;
      break;
    case Numbers::kDenormal:
      for (std::vector<float>* all : {&p->query, &p->key, &p->value})
        for (float& value : *all)
          if (one_in(random, 3)) value *= 0x1p-127f;
      break;
    case Numbers::kHiddenNan:
    case Numbers::kVisibleNan:
      for (std::vector<float>* all : {&p->key, &p->value})
        for (float& value : *all)
          if (one_in(random, 400)) value = one_of(random, {kInf, -kInf, kNan, 3.402823466e+38f, -3.402823466e+38f});
      break;
    case Numbers::kOverflow:
      scale_all(&p->query, 1e19f), scale_all(&p->key, 3e18f);
      p->scale = 1e-37f;
      break;
    case Numbers::kRepeated:
      for (size_t n = static_cast<size_t>(s.Hkv * s.D); n < p->key.size(); ++n) {
        p->key[n] = p->key[n - static_cast<size_t>(s.Hkv * s.D)];
      }
      break;
  }
}

AttentionShape random_shape(Random& random) {
  AttentionShape s = {};
  s.B = between(random, 1, 2), s.Hkv = between(random, 1, 2), s.H = s.Hkv * one_of<int64_t>(random, {1, 1, 2, 5});
  s.Tq = one_of<int64_t>(random, {1, 2, 3, 7, 24, 25, 49}),
  s.Tk = one_of<int64_t>(random, {1, 15, 16, 17, 31, 33, 255, 257, 300, 530});
  s.D = one_of<int64_t>(random, {1, 2, 15, 31, 32, 33, 40, 64, 65, 80, 96, 128});
  s.Dv = one_in(random, 2) ? s.D : between(random, 1, 130);
  return s;
}

}  // namespace

TEST_CASE("bf16: every element in the order of the rules", "[bf16][bits]") {
  const std::vector<std::string>& targets = targets_of(MHA_ARITHMETIC_BF16);
  for (const uint64_t seed : seeds(600000, 450)) {
    Random random(seed);
    const AttentionShape s = random_shape(random);
    const auto kind = static_cast<MaskKind>(random.below(kMaskKinds));
    AttentionProblem p(s, kind, seed);
    const auto numbers = static_cast<Numbers>(seed % kNumbers);
    put_numbers(random, numbers, &p);
    INFO("seed " << seed << ", " << describe(s, kind) << ", numbers " << static_cast<int>(numbers));
    const std::vector<float> want = bf16::attention(p);
    for (const std::string& target : targets) {
      INFO("target " << target);
      check_same_bits("output", run_attention(shared_context(target, 1), in_bf16(p.args())).output, want);
    }
  }
}

TEST_CASE("bf16: outputs are within 4.5e-3 of the largest value", "[bf16][accuracy]") {
  if (targets_of(MHA_ARITHMETIC_BF16).empty()) return;
  const mha_context* context = shared_context(targets_of(MHA_ARITHMETIC_BF16).front(), 2);
  for (const float magnitude : {1.0f, 3.0f}) {
    for (const AttentionShape& s : {AttentionShape{1, 2, 2, 512, 512, 64, 64}, {1, 4, 1, 200, 300, 128, 128}}) {
      for (const MaskKind kind : {MaskKind::kNone, MaskKind::kCausal}) {
        AttentionProblem p(s, kind, 605000);
        const float unit = 1.7320508f;  // variance 1
        scale_all(&p.query, unit * magnitude), scale_all(&p.key, unit), scale_all(&p.value, unit);
        for (std::vector<float>* values : {&p.query, &p.key, &p.value})
          for (float& value : *values) value = bf16::rounded(value);
        const std::vector<double> want = reference_attention(p.args()).output;
        const std::vector<float> got = run_attention(context, in_bf16(p.args())).output;
        double worst = 0, largest = 0;
        for (size_t n = 0; n < want.size(); ++n) {
          worst = std::max(worst, std::abs(static_cast<double>(bf16::rounded(got[n])) - want[n]));
          largest = std::max(largest, std::abs(want[n]));
        }
        INFO(describe(s, kind) << ", magnitude " << magnitude);
        if (std::getenv("MHA_TEST_MEASURE"))
          std::printf("measured bf16 %s magnitude %g: %.2g\n", describe(s, kind).c_str(),
                      static_cast<double>(magnitude), worst / largest);
        CHECK(worst <= 4.5e-3 * largest);
      }
    }
  }
}

TEST_CASE("bf16: a NaN that no row of a group sees, beside one that the next group sees, changes no bit",
          "[bf16][edges]") {
  const AttentionShape s = {1, 1, 1, 80, 80, 32, 40};
  for (const int64_t prefix : {33, 34, 48}) {
    AttentionProblem p(s, MaskKind::kCausal, 604000);
    p.masks.prefix_lengths = &prefix;  // the first rows see so many keys
    AttentionCall args = in_bf16(p.args());
    for (const std::string& target : targets_of(MHA_ARITHMETIC_BF16)) {
      INFO("target " << target << " prefix " << prefix);
      const std::vector<float> want = run_attention(shared_context(target, 1), args).output;
      const std::vector<float> before = p.value;
      std::fill_n(p.value.begin() + prefix * s.Dv, s.Dv, kNan);
      const std::vector<float> got = run_attention(shared_context(target, 1), args).output;
      const auto rows = static_cast<std::ptrdiff_t>(prefix * s.Dv);
      check_same_bits("rows before it", {got.begin(), got.begin() + rows}, {want.begin(), want.begin() + rows});
      p.value = before;
      args.value = view(p.value.data());
    }
  }
}

TEST_CASE("bf16: linears, every element in the order of the rules", "[bf16][linear][bits]") {
  for (const uint64_t seed : seeds(601000, 150)) {
    Random random(seed);
    const int64_t M = one_of<int64_t>(random, {1, 2, 7, 8, 9, 33, 100}),
                  N = one_of<int64_t>(random, {1, 15, 16, 17, 64, 65, 130});
    const int64_t K = one_of<int64_t>(random, {1, 2, 3, 4, 5, 31, 32, 33, 63, 64, 65, 127, 200, 511, 513, 1030});
    std::vector<float> input = random_floats(M * K, seed * 4 + 1), weight = random_floats(N * K, seed * 4 + 2);
    const std::vector<float> bias = random_floats(N, seed * 4 + 3);
    if (one_in(random, 4)) scale_rows(random, &input, K), scale_rows(random, &weight, K);
    if (one_in(random, 4)) scale_all(&input, 0x1p-60f), scale_all(&weight, 0x1p-64f);
    if (one_in(random, 4)) spoil(random, &input), spoil(random, &weight);
    INFO("seed " << seed << " M " << M << " N " << N << " K " << K);
    std::vector<float> want;
    for (int64_t m = 0; m < M; ++m) {
      for (int64_t n = 0; n < N; ++n) {
        const float sum = bf16::product(
            K, [&](int64_t k) { return bf16::rounded(input[static_cast<size_t>(m * K + k)]); },
            [&](int64_t k) { return bf16::rounded(weight[static_cast<size_t>(n * K + k)]); },
            [](int64_t k) { return k % 2 == 0; });
        want.push_back(bf16::added(sum, bias[static_cast<size_t>(n)]));
      }
    }
    std::vector<float> first;
    for (const std::string& target : targets_of(MHA_ARITHMETIC_BF16)) {
      const LinearPtr linear =
          make_linear(shared_context(target, 1), K, N, weight.data(), bias.data(), MHA_ARITHMETIC_BF16);
      size_t bytes = 0;
      mha_error error = {};
      require_ok(mha_linear_save_bytes(linear.get(), &bytes, &error), error);
      std::vector<float> blob = poisoned(static_cast<int64_t>(bytes / sizeof(float)));
      require_ok(mha_linear_save(linear.get(), blob.data(), bytes, &error), error);
      if (first.empty()) first = blob;
      CHECK(std::memcmp(blob.data(), first.data(), bytes) == 0);  // one packed form on every target
      mha_linear* handle = nullptr;
      require_ok(mha_linear_map(shared_context(target, 1), first.data(), bytes, &handle, &error), error);
      const LinearPtr mapped(handle);
      for (const int64_t threads : {1, 3}) {
        INFO("target " << target << ", " << threads << " threads");
        check_same_bits("output", run_linear(shared_context(target, threads), mapped.get(), input, M), want);
      }
    }
  }
}

TEST_CASE("bf16: linears over any types, rows apart, with their own workspace", "[bf16][linear][elements]") {
  uint64_t seed = 602000;
  for (mha_dtype input : {MHA_F32, MHA_F16, MHA_BF16}) {
    for (mha_dtype weight : {MHA_F32, MHA_F16, MHA_BF16}) {
      for (mha_dtype output : {MHA_F32, MHA_F16, MHA_BF16}) {
        for (const auto& [M, N, K] : {std::array<int64_t, 3>{9, 37, 70}, {1, 65, 33}, {200, 130, 600}}) {
          const ElementLinear p(M, N, K, {input, weight, output, -1, MHA_ARITHMETIC_BF16}, true, ++seed, 3);
          for (const std::string& target : targets_of(MHA_ARITHMETIC_BF16)) {
            const mha_context* context = shared_context(target, 3);
            INFO(target << " " << p.describe());
            const std::vector<float> want = p.oracle(context);
            check_rounded("output", run_rows(context, p.make(context).get(), p, 0, M, true, 2), want);
            check_rounded("one row", run_rows(context, p.make(context).get(), p, M - 1, 1, false),
                          std::vector<float>(want.end() - N, want.end()));
          }
        }
      }
    }
  }
}

TEST_CASE("bf16: a layer has the bits of its parts", "[bf16][layer][bits]") {
  const int64_t B = 2, length = 37, E = 50, H = 4, Hkv = 2, D = 12, Dv = 20;
  mha_layer_config config = {};
  config.embed_dim = E, config.num_heads = H, config.num_kv_heads = Hkv, config.head_dim = D,
  config.value_head_dim = Dv;
  config.arithmetic = MHA_ARITHMETIC_BF16;
  const LayerProblem p(config, B, length, length, Biases::kAll, 603000);
  for (const std::string& target : targets_of(MHA_ARITHMETIC_BF16)) {
    INFO("target " << target);
    const mha_context* context = shared_context(target, 3);
    const auto project = [&](int64_t in, int64_t out, const std::vector<float>& weight, const std::vector<float>& bias,
                             const std::vector<float>& input) {
      return run_linear(context, make_linear(context, in, out, weight.data(), bias.data(), MHA_ARITHMETIC_BF16).get(),
                        input, B * length);
    };
    const std::vector<float> query = project(E, H * D, p.query_weight, p.query_bias, p.query);
    const std::vector<float> key = project(E, Hkv * D, p.key_weight, p.key_bias, p.key);
    const std::vector<float> value = project(E, Hkv * Dv, p.value_weight, p.value_bias, p.value);
    for (const mha_arithmetic arithmetic : {MHA_ARITHMETIC_F32, MHA_ARITHMETIC_BF16}) {
      AttentionCall parts;
      parts.batch = B, parts.num_heads = H, parts.num_kv_heads = Hkv, parts.query_len = parts.key_len = length;
      parts.head_dim = D, parts.value_head_dim = Dv, parts.arithmetic = arithmetic;
      parts.query = view(query.data()), parts.key = view(key.data()), parts.value = view(value.data());
      const std::vector<float> attended = run_attention(context, parts).output;
      LayerCall args = p.args();
      args.arithmetic = arithmetic;
      const LayerPtr layer = p.make(context);
      check_same_bits("output", run_layer(context, layer.get(), args).output,
                      project(H * Dv, E, p.output_weight, p.output_bias, attended));
      mha_layer_config got = {};
      mha_layer_get_config(layer.get(), &got);
      CHECK(got.arithmetic == MHA_ARITHMETIC_BF16);
    }
  }
}

TEST_CASE("bf16: packed weights are bf16, and nothing else", "[bf16][status]") {
  if (targets_of(MHA_ARITHMETIC_BF16).empty()) return;  // no target has it
  const mha_context* context = shared_context(targets_of(MHA_ARITHMETIC_BF16)[0], 1);
  const std::vector<float> weight(12, 1.0f);
  mha_storage storage = {};
  mha_linear_config config = {};
  config.in_features = 4, config.out_features = 3, config.weight = view(weight.data()), config.packed = &storage;
  config.arithmetic = MHA_ARITHMETIC_BF16;
  for (const mha_dtype dtype : {MHA_F32, MHA_F16, MHA_BF16}) {
    storage.dtype = dtype;
    mha_linear* linear = nullptr;
    mha_error error = {};
    const mha_status status = mha_linear_create(context, &config, &linear, &error);
    const LinearPtr owned(linear);
    CHECK(status == (dtype == MHA_BF16 ? MHA_OK : MHA_ERR_UNSUPPORTED));
    if (status != MHA_OK) CHECK(mentions(error, "MHA_ARITHMETIC_BF16 keeps weights as MHA_BF16"));
  }
}

TEST_CASE("bf16: a blob of pairs of another type, or of an unknown arithmetic, is refused", "[bf16][blob]") {
  if (targets_of(MHA_ARITHMETIC_BF16).empty()) return;  // no target has it
  const mha_context* context = shared_context(targets_of(MHA_ARITHMETIC_BF16)[0], 1);
  const std::vector<float> weight(12, 1.0f);
  const LinearPtr linear = make_linear(context, 4, 3, weight.data(), nullptr, MHA_ARITHMETIC_BF16);
  mha_error error = {};
  size_t bytes = 0;
  require_ok(mha_linear_save_bytes(linear.get(), &bytes, &error), error);
  std::vector<uint64_t> blob(bytes / 8);  // aligned
  require_ok(mha_linear_save(linear.get(), blob.data(), bytes, &error), error);
  // Arithmetic at byte 28, the weights' dtype at 48, the FNV-1a of all before at 120.
  const auto maps = [&](size_t at, uint32_t value) {
    std::vector<uint64_t> changed = blob;
    auto* header = reinterpret_cast<unsigned char*>(changed.data());
    std::memcpy(header + at, &value, sizeof value);
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t n = 0; n < 120; ++n) hash = (hash ^ header[n]) * 0x100000001b3u;
    std::memcpy(header + 120, &hash, sizeof hash);
    mha_linear* mapped = nullptr;
    const mha_status status = mha_linear_map(context, changed.data(), bytes, &mapped, &error);
    const LinearPtr owned(mapped);
    return status;
  };
  CHECK(maps(28, MHA_ARITHMETIC_BF16) == MHA_OK);
  CHECK(maps(28, MHA_ARITHMETIC_INT8) == MHA_ERR_BLOB);
  CHECK(maps(48, MHA_F16) == MHA_ERR_BLOB);
  CHECK(maps(48, MHA_F32) == MHA_ERR_BLOB);
}

TEST_CASE("bf16: a target without fused multiply-add, and a library built without it, refuse", "[bf16][status]") {
  for (const std::string& target : supported_targets()) {
    AttentionProblem p({1, 1, 1, 2, 3, 4, 4}, MaskKind::kNone, 1);
    AttentionCall args = in_bf16(p.args());
    std::vector<float> output = poisoned(8);
    args.output = mut_view(output.data());
    mha_error error = {};
    const mha_status status = attention(shared_context(target, 1), args, &error);
    CHECK(status == (has_arithmetic(target, MHA_ARITHMETIC_BF16) ? MHA_OK : MHA_ERR_UNSUPPORTED));
    if (status == MHA_OK) continue;
    CHECK((mentions(error, "MHA_ARITHMETIC_BF16: target " + target) || mentions(error, "-DMHA_BF16=OFF")));
    CHECK(std::all_of(output.begin(), output.end(), is_poison));
  }
}
