// SPDX-License-Identifier: Apache-2.0
// The bits of results across machines: hashes that every FMA target (avx512, avx2, neon) must reproduce. Inputs are
// drawn by integer arithmetic and exact conversions, so they are the same everywhere. tests/README.md says when the
// hashes may change.
#include "tests/support/layers.h"
#include "tests/support/row_codes.h"

using namespace mha::test;

namespace {

/// FNV-1a over the bits, with one NaN as good as another.
class Hash {
 public:
  void add(const std::vector<float>& values) {
    for (float value : values) {
      const uint32_t bits = std::isnan(value) ? 0x7fc00000u : bits_of(value);
      for (int shift = 0; shift < 32; shift += 8) hash_ = (hash_ ^ (bits >> shift & 0xff)) * 0x100000001b3u;
    }
  }
  uint64_t value() const { return hash_; }

 private:
  uint64_t hash_ = 0xcbf29ce484222325u;
};

void check_hash(const std::string& what, const Hash& hash, uint64_t want) {
  std::ostringstream text;
  text << what << " has hash 0x" << std::hex << hash.value() << ", not 0x" << want;
  if (hash.value() == want)
    SUCCEED();
  else
    FAIL_CHECK(text.str());
}

struct AttentionHash {
  AttentionShape shape;
  MaskKind kind;
  mha_weights_mode mode;
  float magnitude;  // of the query
  uint64_t hash;
};

const AttentionHash kAttention[] = {
    {{1, 1, 1, 1, 1, 1, 1}, MaskKind::kNone, MHA_WEIGHTS_NONE, 1, 0xc92725308108d864},
    {{1, 4, 4, 1, 10, 5, 5}, MaskKind::kNone, MHA_WEIGHTS_PER_HEAD, 1, 0x36db11fd8e77f8c1},
    {{2, 3, 1, 7, 37, 33, 17}, MaskKind::kCausal, MHA_WEIGHTS_PER_HEAD, 4, 0x71d93223e4c0b967},
    {{1, 2, 2, 65, 257, 64, 64}, MaskKind::kNone, MHA_WEIGHTS_NONE, 8, 0x56dd33adde4f4c0c},
    {{1, 8, 2, 6, 700, 80, 80}, MaskKind::kBool, MHA_WEIGHTS_AVERAGED, 8, 0x3f79fa24136793fd},
    {{2, 2, 2, 25, 513, 20, 20}, MaskKind::kAll, MHA_WEIGHTS_AVERAGED, 40, 0x4f0e9f1bf958a278},
    {{1, 1, 1, 3, 5000, 128, 7}, MaskKind::kAdd, MHA_WEIGHTS_PER_HEAD, 40, 0xe1bdf8ac73949858},
    {{3, 2, 1, 30, 20, 16, 64}, MaskKind::kOffsetNegative, MHA_WEIGHTS_NONE, 1, 0x164ed3806ae07be1},
    {{1, 1, 1, 12, 300, 576, 512}, MaskKind::kLengths, MHA_WEIGHTS_NONE, 4, 0xaaff09b92f2870b4},
};

struct LinearHash {
  int64_t M, N, K;
  uint64_t hash;
};

const LinearHash kLinear[] = {{1, 1, 1, 0x30f459324876d02d},
                              {7, 33, 20, 0x7a3438596930f72f},
                              {64, 100, 1000, 0xfe00755b8baa6e02},
                              {13, 257, 65, 0x7584beab895303d2}};

}  // namespace

TEST_CASE("golden bits: attention", "[bits][golden]") {
  uint64_t seed = 170000;
  for (const AttentionHash& c : kAttention) {
    AttentionProblem problem(c.shape, c.kind, ++seed);
    for (float& value : problem.query) value *= c.magnitude;
    AttentionCall args = problem.args();
    args.results.weights_mode = c.mode;
    for (const std::string& target : fma_targets()) {
      const AttentionResult got = run_attention(shared_context(target, 1), args);
      Hash hash;
      hash.add(got.output);
      hash.add(got.weights);
      hash.add(got.log_sum_exp);
      check_hash(target + " " + describe(c.shape, c.kind), hash, c.hash);
    }
  }
}

TEST_CASE("golden bits: attention and linear in BF16", "[bits][golden][bf16]") {
  constexpr uint64_t kHashes[] = {0xef39f6202d5a4a83, 0x2685b89c4a5c778b, 0xffe889e808c36729,
                                  0xb2fe051a5d5a5566, 0xdabfe58a92a3f55c, 0x5b9a539ca7f0289,
                                  0xaa9f3a78d5933b3e, 0x99ac2c3707275011, 0xf1e978017c0be5ec};
  constexpr uint64_t kLinearHashes[] = {0xd52b6a16675f62a5, 0x70636d8b3992ba24, 0x98da9e102a220d1d, 0x4bbdadd065232879};
  for (const std::string& target : targets_of(MHA_ARITHMETIC_BF16)) {
    const mha_context* context = shared_context(target, 1);
    uint64_t seed = 170000;
    for (const AttentionHash& c : kAttention) {
      AttentionProblem problem(c.shape, c.kind, ++seed);
      for (float& value : problem.query) value *= c.magnitude;
      AttentionCall args = problem.args();
      args.results.weights_mode = c.mode, args.arithmetic = MHA_ARITHMETIC_BF16;
      const AttentionResult got = run_attention(context, args);
      Hash hash;
      hash.add(got.output);
      hash.add(got.weights);
      hash.add(got.log_sum_exp);
      check_hash(target + " " + describe(c.shape, c.kind), hash, kHashes[&c - kAttention]);
    }
    for (const LinearHash& c : kLinear) {
      const std::vector<float> input = random_floats(c.M * c.K, 171000), weight = random_floats(c.N * c.K, 171001);
      const std::vector<float> bias = random_floats(c.N, 171002);
      const LinearPtr linear = make_linear(context, c.K, c.N, weight.data(), bias.data(), MHA_ARITHMETIC_BF16);
      Hash hash;
      hash.add(run_linear(context, linear.get(), input, c.M));
      check_hash(target + " linear N " + std::to_string(c.N), hash, kLinearHashes[&c - kLinear]);
    }
  }
}

TEST_CASE("golden bits: attention and linear in INT8, on every target", "[bits][golden][int8]") {
  constexpr uint64_t kHashes[] = {0x3f0850f00f1c800,  0xc79c42e7bdf892e6, 0x109f27b1391b3620,
                                  0x58196929c24c4511, 0x6a882cbb75eb3659, 0x8094e672f9016f8e,
                                  0x74990d0a007fc184, 0x9b50a6e6a44c863c, 0xe3742dd1844d3bd2};
  constexpr uint64_t kLinearHashes[] = {0x30f459324876d02d, 0x6226ef3e5bef0b83, 0x9793e6ac895df906, 0x59bbe00490fe2ae8};
  for (const std::string& target : targets_of(MHA_ARITHMETIC_INT8)) {
    const mha_context* context = shared_context(target, 1);
    uint64_t seed = 170000;
    for (const AttentionHash& c : kAttention) {
      AttentionProblem problem(c.shape, c.kind, ++seed);
      for (float& value : problem.query) value *= c.magnitude;
      const RowCodes key(problem.key, c.shape.key()), value(problem.value, c.shape.value());
      AttentionCall args = problem.args();
      args.results.weights_mode = c.mode, args.arithmetic = MHA_ARITHMETIC_INT8;
      args.key = key.view(), args.value = value.view();
      const AttentionResult got = run_attention(context, args);
      Hash hash;
      hash.add(got.output);
      hash.add(got.weights);
      hash.add(got.log_sum_exp);
      check_hash(target + " " + describe(c.shape, c.kind), hash, kHashes[&c - kAttention]);
    }
    for (const LinearHash& c : kLinear) {
      const std::vector<float> input = random_floats(c.M * c.K, 171000), weight = random_floats(c.N * c.K, 171001);
      const std::vector<float> bias = random_floats(c.N, 171002);
      const LinearPtr linear = make_linear(context, c.K, c.N, weight.data(), bias.data(), MHA_ARITHMETIC_INT8);
      Hash hash;
      hash.add(run_linear(context, linear.get(), input, c.M));
      check_hash(target + " linear N " + std::to_string(c.N), hash, kLinearHashes[&c - kLinear]);
    }
  }
}

TEST_CASE("golden bits: linear", "[bits][golden]") {
  for (const LinearHash& c : kLinear) {
    const std::vector<float> input = random_floats(c.M * c.K, 171000), weight = random_floats(c.N * c.K, 171001);
    const std::vector<float> bias = random_floats(c.N, 171002);
    for (const std::string& target : fma_targets()) {
      const mha_context* context = shared_context(target, 1);
      const LinearPtr linear = make_linear(context, c.K, c.N, weight.data(), bias.data());
      Hash hash;
      hash.add(run_linear(context, linear.get(), input, c.M));
      check_hash(target + " linear N " + std::to_string(c.N), hash, c.hash);
    }
  }
}

TEST_CASE("golden bits: layer", "[bits][golden]") {
  const LayerProblem problem({40, 4, 2, 12, 20, 30, 50, 50, 0}, 2, 9, 300, Biases::kAll, 172000);
  LayerCall args = problem.args();
  args.results.weights_mode = MHA_WEIGHTS_AVERAGED;
  args.causal = 1;
  for (const std::string& target : fma_targets()) {
    const mha_context* context = shared_context(target, 1);
    const LayerResult got = run_layer(context, problem.make(context).get(), args);
    Hash hash;
    hash.add(got.output);
    hash.add(got.weights);
    check_hash(target + " layer", hash, 0x43472c326d0c402b);
  }
}

TEST_CASE("golden bits: rope, norm, merge", "[bits][golden]") {
  const int64_t length = 7, H = 3, D = 52;
  const std::vector<float> input = random_floats(length * H * D, 173000, 20), weight = random_floats(D, 173001);
  const std::vector<int64_t> positions = {0, 1, 2, 4095, 131071, 1000000, 2147483647};
  for (const std::string& target : fma_targets()) {
    const mha_context* context = shared_context(target, 1);
    mha_error error = {};
    Hash hash;
    for (int style = 0; style < 2; ++style) {
      for (int scaling = 0; scaling < 4; ++scaling) {
        mha_rope rope = {};
        rope.style = static_cast<mha_rope_style>(style);
        rope.scaling = static_cast<mha_rope_scaling>(scaling);
        rope.dims = 46;
        if (scaling != MHA_ROPE_SCALING_NONE) rope.factor = 3;
        if (scaling >= MHA_ROPE_SCALING_LLAMA3) rope.original_positions = 8192;
        std::vector<float> output = poisoned(length * H * D);
        mha_norm norm = {};
        norm.epsilon = 1e-5f, norm.weight = weight.data();
        mha_rows_args args = {};
        args.batch = 1, args.length = length, args.num_heads = H, args.head_dim = D;
        args.input = view(input.data()), args.output = mut_view(output.data());
        args.positions = positions.data();
        args.rope = &rope, args.norm = &norm;
        require_ok(mha_rows_prepare(context, &args, &error), error);
        hash.add(output);
      }
    }
    const float* outputs[] = {input.data(), input.data() + 500};
    const float* log_sum_exps[] = {weight.data(), weight.data() + 10};
    std::vector<float> output = poisoned(10 * 50), log_sum_exp = poisoned(10);
    mha_merge_args merge = {};
    merge.num_parts = 2, merge.rows = 10, merge.value_head_dim = 50;
    merge.outputs = outputs, merge.log_sum_exps = log_sum_exps;
    merge.output = output.data(), merge.log_sum_exp = log_sum_exp.data();
    require_ok(mha_attention_merge(context, &merge, &error), error);
    hash.add(output);
    hash.add(log_sum_exp);
    check_hash(target + " rope and merge", hash, 0x2d058ccdc5f4f558);
  }
}
