// SPDX-License-Identifier: Apache-2.0
// BF16 on AMX's tiles, emulated in memory (tests/emulated): the bits of the target that emulates with multiply-adds. What
// hardware has shown of TDPBF16PS: core/README.md.
#include "core/base/context.h"
#include "core/kernels/kernel_table.h"
#include "tests/support/bf16_order.h"
#include "tests/support/element_linears.h"
#include "tests/support/random_typed.h"
#include "tests/support/row_codes.h"

namespace mha::amx_emulated {
extern const KernelTable table;
extern const LinearTable linear_table;
}  // namespace mha::amx_emulated

using namespace mha::test;

namespace {

bool runs_here() {
  const std::vector<std::string>& names = all_targets();
  if (std::find(names.begin(), names.end(), "avx512_bf16") != names.end()) return true;
  WARN("not run: the emulation of tiles needs AVX512-BF16");
  return false;
}

/// A context of the emulated target. It owns nothing; one thread.
mha_context emulated() {
  mha_context context = *shared_context("avx512", 1);
  context.table = &mha::amx_emulated::table;
  return context;
}

}  // namespace

TEST_CASE("tiles: attention over any types, with masks, score changes and weights", "[bf16][tiles][bits]") {
  if (!runs_here()) return;
  const mha_context tiles = emulated();
  for (const uint64_t seed : seeds(610000, 250)) {
    Random random(seed);
    TypedCall call(random);
    call.set_arithmetic(MHA_ARITHMETIC_BF16);
    if (call.shape.B * call.shape.H * call.shape.Tq * call.shape.Tk * (call.shape.D + call.shape.Dv) > 4000000)
      continue;
    INFO("seed " << seed << ": " << call.describe());
    const TypedResult want = run_typed(shared_context("avx512", 1), call.wide, call.wide_output(), call.longest_key);
    check_widened("tiles", run_typed(&tiles, call.stored, call.output(), call.longest_key), want);
  }
}

TEST_CASE("tiles: attention in the order of the rules", "[bf16][tiles][bits]") {
  if (!runs_here()) return;
  const mha_context tiles = emulated();
  for (const uint64_t seed : seeds(611000, 40)) {
    Random random(seed);
    const int64_t D = between(random, 1, 100), rows = one_of<int64_t>(random, {17, 31, 32, 33, 70});
    AttentionProblem p({1, 2, 1, rows, between(random, 1, 600), D, between(random, 1, 70)},
                       static_cast<MaskKind>(random.below(kMaskKinds)), seed);
    if (one_in(random, 4)) spoil(random, &p.key), spoil(random, &p.value);
    INFO("seed " << seed << ": " << describe(p.shape));
    AttentionCall args = p.args();
    args.arithmetic = MHA_ARITHMETIC_BF16;
    check_same_bits("output", run_attention(&tiles, args).output, bf16::attention(p));
  }
}

TEST_CASE("tiles: a NaN that no row of a group sees changes no bit", "[bf16][tiles][edges]") {
  if (!runs_here()) return;
  const mha_context tiles = emulated();
  for (const int64_t prefix : {33, 48}) {
    AttentionProblem p({1, 1, 1, 80, 80, 32, 40}, MaskKind::kCausal, 613000);
    p.masks.prefix_lengths = &prefix;
    for (int64_t d = 0; d < 40; ++d) p.value[static_cast<size_t>(prefix * 40 + d)] = kNan;
    AttentionCall args = p.args();
    args.arithmetic = MHA_ARITHMETIC_BF16;
    check_same_bits("output", run_attention(&tiles, args).output,
                    run_attention(shared_context("avx512", 1), args).output);
  }
}

TEST_CASE("tiles: INT8 attention in the order of the rules", "[int8][tiles][bits]") {
  if (!runs_here()) return;
  const mha_context tiles = emulated();
  for (const uint64_t seed : seeds(614000, 60)) {
    Random random(seed);
    const int64_t rows = one_of<int64_t>(random, {17, 31, 32, 33, 70});
    const AttentionShape s = {1, 2, 1, rows, between(random, 1, 600), between(random, 1, 150), between(random, 1, 70)};
    AttentionProblem p(s, static_cast<MaskKind>(random.below(kMaskKinds)), seed);
    RowCodes key(p.key, s.key()), value(p.value, s.value());
    if (one_in(random, 3)) value.negate_some(random);
    INFO("seed " << seed << ": " << describe(p.shape));
    AttentionCall args = p.args();
    args.arithmetic = MHA_ARITHMETIC_INT8, args.key = key.view(), args.value = value.view();
    check_same_bits("output", run_attention(&tiles, args).output,
                    run_attention(shared_context("avx512", 1), args).output);
  }
}

TEST_CASE("tiles: products of packed weights", "[bf16][tiles][linear][bits]") {
  if (!runs_here()) return;
  const mha::LinearKernels& kernels =
      *mha::amx_emulated::linear_table
           .kernels[static_cast<int>(mha::Arithmetic::kBf16)][static_cast<int>(mha::Element::kBf16)];
  for (const uint64_t seed : seeds(612000, 60)) {
    Random random(seed);
    const int64_t M = between(random, 1, 70), N = between(random, 1, 70), K = between(random, 1, 140);
    INFO("seed " << seed << " M " << M << " N " << N << " K " << K);
    const std::vector<float> input = random_floats(M * K, seed), weight = random_floats(N * K, seed + 1);
    std::vector<float> bias = random_floats(N, seed + 2);
    const mha_context* context = shared_context("avx512", 1);
    const std::vector<float> want = run_linear(
        context, make_linear(context, K, N, weight.data(), bias.data(), MHA_ARITHMETIC_BF16).get(), input, M);
    bias.resize(static_cast<size_t>((N + 15) / 16 * 16));
    // Panels, scratch and output have no room behind them.
    const GuardedFloats panels(poisoned((N + 15) / 16 * ((K + 1) / 2) * 16), Guard::kAfter);
    const GuardedFloats scratch(poisoned(kernels.gemm_scratch(M, K)), Guard::kAfter);
    const GuardedFloats output(poisoned(M * N), Guard::kAfter);
    mha::ConvertArgs pack = {};
    pack.src = reinterpret_cast<const char*>(weight.data()), pack.src_stride = K * 4;
    pack.dst = reinterpret_cast<char*>(panels.floats()), pack.dst_element = mha::Element::kBf16;
    pack.rows = N, pack.columns = K;
    kernels.pack_weights(&pack);
    mha::GemmArgs args = {};
    args.a = reinterpret_cast<const char*>(input.data()), args.a_stride = K * 4;
    args.panels = reinterpret_cast<const char*>(panels.floats()), args.panels_element = mha::Element::kBf16;
    args.bias = bias.data(), args.c = reinterpret_cast<char*>(output.floats()), args.c_stride = N * 4;
    args.m = M, args.n = N, args.k = K, args.scratch = scratch.floats();
    kernels.gemm(&args);
    check_same_bits("output", output.values(), want);
  }
}
