// SPDX-License-Identifier: Apache-2.0
// Work that a mask rules out is not done: chunks of keys that no query sees lie in pages without access, where any read
// is a fault. Skipped or computed, the bits are the same.
#include "tests/support/guard.h"
#include "tests/support/shapes.h"

using namespace mha::test;

namespace {

constexpr int64_t kKeys = 768, kFirst = 256, kCount = 256, kWidth = 4;  // a chunk of keys is a page of 4096 bytes

/// Masks that show all queries keys within [256, 512) only.
struct ChunkMasks {
  std::vector<int32_t> queries, keys;
  std::vector<uint8_t> bits, bools;
  std::vector<int64_t> pairs = {0, 1};
  std::vector<float> adds;

  explicit ChunkMasks(int64_t Tq)
      : queries(static_cast<size_t>(Tq), 1), keys(kKeys), bits(kKeys / 8), bools(kKeys), adds(kKeys, -kInf) {
    for (size_t j = kFirst; j < kFirst + kCount; ++j) keys[j] = 1, bits[j / 8] = 255, bools[j] = 1, adds[j] = 0.5f;
  }
  static constexpr int kKinds = 9;
  Masks get(int kind, int64_t Tq) const {
    Masks m;
    if (kind == 0) m.causal = 1, m.set_offset(kFirst + kCount - Tq), m.window_left = 200;
    if (kind == 1) m.query_segments = queries.data(), m.key_segments = keys.data();
    if (kind == 2) m.bit_mask = {bits.data(), 0, 0, 0};
    if (kind == 3) m.bool_mask = {bools.data(), 0, 0, 0};
    if (kind == 4) m.block_mask = {1000, 256, pairs.data(), 1};
    // The first query's window begins with the chunk, the last query is at its end.
    if (kind == 6) m.causal = 1, m.set_offset(kFirst + kCount - Tq), m.window_left = kCount + 1 - Tq;
    if (kind == 5) {  // queries at [512, 512 + Tq) without causality
      m.window_left = kKeys, m.window_right = 1;
      m.block_mask = {1000, 256, pairs.data(), 1};
    }
    if (kind == 7) m.add_mask.data = adds.data();
    if (kind == 8) m.add_mask2.data = adds.data();
    return m;
  }
};

}  // namespace

TEST_CASE("skipping: keys and values that no query sees are not read", "[masks][skipping]") {
  REQUIRE(sysconf(_SC_PAGESIZE) == 4096);
  for (int64_t Tq : {1, 3, 50}) {
    const AttentionProblem problem({1, 2, 1, Tq, kKeys, kWidth, kWidth}, MaskKind::kNone, 170000);
    const ChunkMasks masks(Tq);
    const auto chunk_of = [](const std::vector<float>& all) {
      return std::vector<float>(all.begin() + kFirst * kWidth, all.begin() + (kFirst + kCount) * kWidth);
    };
    const GuardedFloats key(chunk_of(problem.key), Guard::kBefore), value(chunk_of(problem.value), Guard::kBefore);
    for_each_target([&](const std::string&, const mha_context* context) {
      for (int kind = 0; kind < ChunkMasks::kKinds; ++kind) {
        for (mha_weights_mode mode : {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED}) {
          INFO("Tq " << Tq << " kind " << kind << " weights " << mode);
          AttentionCall args = problem.args();
          masks.get(kind, Tq).put_into(&args);
          args.results.weights_mode = mode;
          const AttentionResult want = run_attention(context, args);
          args.key = view(key.floats() - kFirst * kWidth);
          args.value = view(value.floats() - kFirst * kWidth);
          check_same_results("guarded", run_attention(context, args), want);
        }
      }
    });
  }
}

TEST_CASE("skipping: a hidden chunk between others is not read", "[masks][skipping]") {
  for (int64_t Tq : {1, 3, 50}) {
    const AttentionProblem problem({1, 2, 1, Tq, kKeys, kWidth, kWidth}, MaskKind::kNone, 170002);
    const std::vector<int64_t> pairs = {0, 0, 0, 2};
    std::vector<float> hidden(kKeys);
    for (size_t j = kFirst; j < kFirst + kCount; ++j) hidden[j] = -kInf;
    const GuardedFloats key(problem.key, Guard::kBefore), value(problem.value, Guard::kBefore);
    for_each_target([&](const std::string&, const mha_context* context) {
      for (int kind = 0; kind < 6; ++kind) {
        constexpr mha_weights_mode kModes[] = {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED};
        const mha_weights_mode mode = kModes[kind % 3];
        INFO("Tq " << Tq << " kind " << kind);
        AttentionCall args = problem.args();
        if (kind < 3) args.masks.block_mask = {1000, 256, pairs.data(), 2};
        if (kind >= 3) args.masks.add_mask.data = hidden.data();
        args.results.weights_mode = mode;
        const AttentionResult want = run_attention(context, args);
        args.key = view(key.floats()), args.value = view(value.floats());
        for (const GuardedFloats* middle : {&key, &value})
          REQUIRE(mprotect(middle->floats() + kFirst * kWidth, 4096, PROT_NONE) == 0);
        const AttentionResult got = run_attention(context, args);
        for (const GuardedFloats* middle : {&key, &value})
          REQUIRE(mprotect(middle->floats() + kFirst * kWidth, 4096, PROT_READ | PROT_WRITE) == 0);
        check_same_results("guarded", got, want);
      }
    });
  }
}

TEST_CASE("skipping: a hidden chunk between others changes no bit", "[masks][skipping][bits]") {
  // Queries see chunks 0 and 2 of three: by a list of blocks, which skips the middle, and by two additive masks of which each
  // hides a half of it, which do not. Of 600 queries under a causal mask some end in the middle.
  for (int64_t Tq : {1, 3, 50, 600}) {
    const AttentionProblem problem({1, 2, 1, Tq, kKeys, 40, 40}, MaskKind::kCausal, 170001);
    const std::vector<int64_t> pairs = {0, 0, 0, 2};
    std::vector<float> one(kKeys), other(kKeys);
    for (size_t j = kFirst; j < kFirst + kCount; ++j) (j < kFirst + kCount / 2 ? one : other)[j] = -kInf;
    const std::vector<float> sinks = {1.0f, -2.0f};
    for_each_target([&](const std::string&, const mha_context* context) {
      for (bool with_sinks : {false, true}) {
        AttentionCall skipped = problem.args();
        if (with_sinks) skipped.score_mods.sink_logits = sinks.data();
        skipped.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
        AttentionCall computed = skipped;
        skipped.masks.block_mask = {1000, 256, pairs.data(), 2};
        computed.masks.add_mask = {one.data()}, computed.masks.add_mask2 = {other.data()};
        check_same_results("skipped", run_attention(context, skipped), run_attention(context, computed));
      }
    });
  }
}
