// SPDX-License-Identifier: Apache-2.0
// INT8 attention: every target, those without FMA too, computes what the rules of core/README.md say, bit by bit.
#include "tests/support/int8_order.h"
#include "tests/support/numbers.h"

using namespace mha::test;

namespace {

/// Codes of keys or values such as INT8 multiplies: signed bytes with a scale for each row, no zeros.
std::unique_ptr<CodeTensor> row_codes(Random& random, const Extent& extent) {
  const CodeType* type = std::find_if(std::begin(kCodeTypes), std::end(kCodeTypes),
                                      [](const CodeType& t) { return t.dtype == MHA_I8; });
  for (;;) {
    auto codes = std::make_unique<CodeTensor>(random, *type, extent);
    if (codes->view().quant->zeros == nullptr && (codes->group() == 0 || codes->group() >= extent.d)) return codes;
  }
}

AttentionShape random_shape(Random& random) {
  AttentionShape s = {};
  s.B = between(random, 1, 2), s.Hkv = between(random, 1, 3), s.H = s.Hkv * one_of<int64_t>(random, {1, 1, 2, 4, 7});
  s.Tq = one_of<int64_t>(random, {1, 1, 2, 3, 7, 24, 25, 49}),
  s.Tk = one_of<int64_t>(random, {1, 15, 16, 17, 31, 33, 255, 257, 300, 530});
  s.D = one_of<int64_t>(random, {1, 2, 5, 15, 31, 32, 33, 40, 64, 65, 80, 96, 128});
  s.Dv = one_in(random, 2) ? s.D : between(random, 1, 130);
  return s;
}

void vary(Random& random, AttentionProblem* p) {
  if (one_in(random, 6)) scale_all(&p->query, 30);
  if (one_in(random, 6)) scale_rows(random, &p->query, p->shape.D);
  if (one_in(random, 6)) scale_all(&p->query, one_of(random, {0x1p-99f, 0x1p-101f, 0x1p-127f, 0x1p60f}));
  if (!one_in(random, 8)) return;
  for (float& q : p->query)
    if (one_in(random, 300)) q = one_of(random, {kInf, -kInf, kNan});
}

}  // namespace

TEST_CASE("int8: attention, every element in the order of the rules", "[int8][bits]") {
  for (const uint64_t seed : seeds(630000, 300)) {
    Random random(seed);
    const AttentionShape s = random_shape(random);
    const auto kind = static_cast<MaskKind>(random.below(kMaskKinds));
    AttentionProblem p(s, kind, seed);
    vary(random, &p);
    const auto key = row_codes(random, {s.B, s.Tk, s.Hkv, s.D}), value = row_codes(random, {s.B, s.Tk, s.Hkv, s.Dv});
    INFO("seed " << seed << ", " << describe(s, kind) << ", " << key->describe() << ", " << value->describe());
    const std::vector<float> want = int8::attention(p, key->parts(), value->parts());
    AttentionCall args = p.args();
    args.arithmetic = MHA_ARITHMETIC_INT8, args.key = key->view(), args.value = value->view();
    for (const std::string& target : targets_of(MHA_ARITHMETIC_INT8)) {
      for (const int64_t threads : {1, 3}) {
        INFO("target " << target << ", " << threads << " threads");
        check_same_bits("output", run_attention(shared_context(target, threads), args).output, want);
      }
    }
  }
}
