// SPDX-License-Identifier: Apache-2.0
// The widening law of codes: attention over keys and values that are integers with scales has the bits of the call over
// the floats that they stand for.
#include "tests/support/codes.h"
#include "tests/support/random_typed.h"
#include "tests/support/seeds.h"
#include "tests/support/shapes.h"

using namespace mha::test;

namespace {

/// A random call whose keys or values are codes, and the same over floats.
struct CodeCall {
  explicit CodeCall(Random& random) : call(random) {
    const AttentionShape& s = call.shape;
    key = draw_codes_for(random, call.ragged() ? Extent{1, s.Tk, s.Hkv, s.D} : s.key());
    value = draw_codes_for(random, call.ragged() ? Extent{1, s.Tk, s.Hkv, s.Dv} : s.value());
    if (key) call.stored.key = key->view(), call.wide.key = key->wide_view();
    if (value) call.stored.value = value->view(), call.wide.value = value->wide_view();
  }
  std::string describe() const {
    return call.describe() + ", key " + (key ? key->describe() : "as is") + ", value " +
           (value ? value->describe() : "as is");
  }

  TypedCall call;
  std::unique_ptr<CodeTensor> key, value;
};

TypedResult run(const mha_context* context, const CodeCall& c, const AttentionCall& args, Typed output) {
  return run_typed(context, args, std::move(output), c.call.longest_key);
}

}  // namespace

TEST_CASE("codes: attention over any codes is the call over what they stand for", "[codes][properties][bits]") {
  int64_t keys = 0, values = 0, both = 0, in_place = 0, packed = 0, weights = 0, ragged = 0;
  for (const auto& [arithmetic, seed] : seeds_of_both(530000, 300, 100)) {
    Random random(seed);
    CodeCall c(random);
    c.call.set_arithmetic(arithmetic);
    INFO("seed " << seed << " arithmetic " << arithmetic << ": " << c.describe());
    keys += c.key != nullptr, values += c.value != nullptr, both += c.key && c.value;
    in_place += c.call.shape.Tq * c.call.shape.H / c.call.shape.Hkv <= 16, packed += c.call.shape.Tq > 16;
    weights += c.call.wide.results.weights_mode > MHA_WEIGHTS_PER_HEAD, ragged += c.call.ragged();
    for (const std::string& target : targets_of(arithmetic)) {
      const TypedResult want = run(shared_context(target, 1), c, c.call.wide, c.call.wide_output());
      for (const int64_t threads : {int64_t{1}, one_of<int64_t>(random, {2, 3, 5})}) {
        INFO(target << ", " << threads << " threads");
        check_widened("codes", run(shared_context(target, threads), c, c.call.stored, c.call.output()), want);
      }
    }
  }
  for (const int64_t cases : {keys, values, both, in_place, packed, weights, ragged}) CHECK(cases > share_of(20));
}

TEST_CASE("codes: the reference reads them as they are defined", "[codes][reference]") {
  int64_t cases = 0;
  for (const uint64_t seed : seeds(531000, 80)) {
    Random random(seed);
    CodeCall c(random);
    if (c.call.ragged() || c.call.wide.results.weights_mode == MHA_WEIGHTS_KEY_SUMS) continue;
    INFO("seed " << seed << ": " << c.describe());
    const AttentionReference want = reference_attention(c.call.wide), got = reference_attention(c.call.stored);
    for (const auto part : {&AttentionReference::output, &AttentionReference::weights}) {
      REQUIRE((want.*part).size() == (got.*part).size());
      CHECK(std::equal((want.*part).begin(), (want.*part).end(), (got.*part).begin(),
                       [](double x, double y) { return x == y || (std::isnan(x) && std::isnan(y)); }));
    }
    cases += c.key && c.value && !want.output.empty();
  }
  CHECK(cases > share_of(10));
}

TEST_CASE("codes: every type alone, few rows and many, one head and several", "[codes][bits]") {
  for (const CodeType& type : kCodeTypes) {
    for (const AttentionShape& s :
         {AttentionShape{1, 4, 1, 1, 300, 128, 128}, AttentionShape{2, 8, 2, 1, 700, 64, 64},
          AttentionShape{1, 2, 2, 1, 513, 32, 96}, AttentionShape{1, 3, 1, 40, 290, 64, 32}}) {
      for (const uint64_t seed : seeds(532000, 16)) {
        Random random(seed);
        const AttentionProblem p(s, MaskKind::kNone, seed);
        const CodeTensor key(random, type, s.key()), value(random, type, s.value());
        AttentionCall stored = p.args(), wide = stored;
        stored.key = key.view(), stored.value = value.view();
        wide.key = key.wide_view(), wide.value = value.wide_view();
        INFO(describe(s) << " key " << key.describe() << ", value " << value.describe());
        const Extent e = s.output();
        for_each_target([&](const std::string& target, const mha_context* context) {
          INFO(target);
          const TypedResult want = run_typed(context, wide, Typed(MHA_F32, e, dense_bthd(e)), s.Tk);
          check_widened("codes", run_typed(context, stored, Typed(MHA_F32, e, dense_bthd(e)), s.Tk), want);
        });
      }
    }
  }
}

TEST_CASE("codes: scales down to the least normal float, beside queries that make up for them", "[codes][bits]") {
  for (const AttentionShape& s : {AttentionShape{1, 2, 2, 1, 70, 64, 64}, AttentionShape{1, 4, 1, 1, 300, 128, 128}}) {
    // 0, from the fourth on: a few of each, among ordinary ones.
    for (uint64_t n = 0; n < 16; ++n) {
      const float sizes[] = {2e-38f, 3e-34f, 2e-31f, 3e-30f}, size = n < 4 ? sizes[n] : 0;
      AttentionProblem p(s, MaskKind::kNone, 532500 + n);
      for (float& q : p.query) q *= size > 0 ? 0.01f / size : 1e29f;
      std::vector<int8_t> codes;
      std::vector<float> scales, wide;
      Random random(532600 + n);
      for (int64_t row = 0; row < s.Tk * s.Hkv; ++row) {
        const float mixed = one_in(random, 30) ? one_of(random, {2e-38f, 3e-33f, 1e-31f}) : 2e-30f;
        scales.push_back((size > 0 ? size : mixed) * (1.5f + random.uniform() / 2));
        for (int64_t d = 0; d < s.D; ++d) {
          codes.push_back(static_cast<int8_t>(random.below(256) - 128));
          wide.push_back(scales.back() * static_cast<float>(codes.back()));
        }
      }
      mha_quant quant = {};
      quant.scales = scales.data(), quant.stride_t = s.Hkv, quant.stride_h = 1;
      AttentionCall stored = p.args(), floats = stored;
      stored.key.data = codes.data(), stored.key.dtype = MHA_I8, stored.key.quant = &quant;
      floats.key = view(wide.data());
      for_each_target([&](const std::string& target, const mha_context* context) {
        INFO(target << " scales of " << size);
        const Extent e = s.output();
        const TypedResult want = run_typed(context, floats, Typed(MHA_F32, e, dense_bthd(e)), s.Tk);
        check_widened("codes", run_typed(context, stored, Typed(MHA_F32, e, dense_bthd(e)), s.Tk), want);
      });
    }
  }
}

TEST_CASE("codes: an integer zero of each token and head, one row a head and several", "[codes][bits]") {
  for (const AttentionShape& s : {AttentionShape{1, 2, 2, 1, 513, 32, 32}, AttentionShape{1, 4, 1, 1, 300, 64, 64}}) {
    for (const mha_dtype dtype : {MHA_I8, MHA_U8}) {
      for (const mha_dtype zero_dtype : {MHA_I8, MHA_U8}) {
        const AttentionProblem p(s, MaskKind::kNone, 532700);
        Random random(532800);
        const auto number = [](mha_dtype type, unsigned char byte) {
          return static_cast<float>(type == MHA_U8 ? byte : static_cast<signed char>(byte));
        };
        std::vector<unsigned char> codes, zeros;
        std::vector<float> scales, wide;
        for (int64_t row = 0; row < s.Tk * s.Hkv; ++row) {
          scales.push_back(0.01f + random.uniform() / 100);
          zeros.push_back(static_cast<unsigned char>(random.below(256)));
          for (int64_t d = 0; d < s.D; ++d) {
            codes.push_back(static_cast<unsigned char>(random.below(256)));
            wide.push_back(scales.back() * (number(dtype, codes.back()) - number(zero_dtype, zeros.back())));
          }
        }
        mha_quant quant = {};
        quant.scales = scales.data(), quant.zeros = zeros.data(), quant.zero_dtype = zero_dtype;
        quant.stride_t = s.Hkv, quant.stride_h = 1;
        AttentionCall stored = p.args(), floats = stored;
        stored.key.data = codes.data(), stored.key.dtype = dtype, stored.key.quant = &quant, stored.value = stored.key;
        floats.key = floats.value = view(wide.data());
        for_each_target([&](const std::string& target, const mha_context* context) {
          INFO(target << " codes " << dtype << " zeros " << zero_dtype << ", " << describe(s));
          const Extent e = s.output();
          const TypedResult want = run_typed(context, floats, Typed(MHA_F32, e, dense_bthd(e)), s.Tk);
          check_widened("codes", run_typed(context, stored, Typed(MHA_F32, e, dense_bthd(e)), s.Tk), want);
        });
      }
    }
  }
}

TEST_CASE("codes: in the caller's pages", "[codes][pages][bits]") {
  for (const uint64_t seed : seeds(533000, 200)) {
    Random random(seed);
    const int64_t page_size = one_of<int64_t>(random, {1, 5, 8, 16, 16, 24, 32, 32, 64}), Tk = between(random, 1, 400);
    const int64_t width = one_of<int64_t>(random, {32, 64, 20}), entries = (Tk + page_size - 1) / page_size;
    const int64_t Tq = one_in(random, 2) ? 1 : between(random, 1, 12);
    const AttentionShape s = {2, one_in(random, 2) ? 2 : 4, 2, Tq, Tk, width, width};
    const int64_t num_pages = entries + 3;
    const Extent pages_of = {num_pages, page_size, s.Hkv, width};
    const AttentionProblem p(s, MaskKind::kNone, seed);
    const CodeTensor key(random, CodeTensor::draw_type(random, width), pages_of);
    const CodeTensor value(random, CodeTensor::draw_type(random, width), pages_of);
    std::vector<int32_t> table;
    for (int64_t n = 0; n < s.B * entries; ++n) table.push_back(static_cast<int32_t>(random.below(num_pages)));
    const std::vector<int64_t> lengths = {Tk, random.below(Tk + 1)};
    mha_pages pages = {};
    pages.table = table.data(), pages.page_size = page_size, pages.num_pages = num_pages;
    AttentionCall stored = p.args();
    stored.pages = &pages, stored.items.key_lengths = lengths.data();
    if (one_in(random, 2)) stored.masks.window_left = between(random, 1, 150), stored.positions.align = MHA_ALIGN_END;
    AttentionCall wide = stored;
    stored.key = key.view(), stored.value = value.view();
    wide.key = key.wide_view(), wide.value = value.wide_view();
    INFO("seed " << seed << " " << describe(s) << " pages of " << page_size << ", key " << key.describe() << ", value "
                 << value.describe());
    const Extent e = s.output();
    for_each_target([&](const std::string& target, const mha_context* context) {
      INFO(target);
      const TypedResult want = run_typed(context, wide, Typed(MHA_F32, e, dense_bthd(e)), s.Tk);
      check_widened("codes", run_typed(context, stored, Typed(MHA_F32, e, dense_bthd(e)), s.Tk), want);
    });
  }
}

TEST_CASE("codes: explain says where their scales are", "[codes][explain]") {
  const AttentionShape s = {1, 2, 1, 1, 40, 64, 64};
  const AttentionProblem p(s, MaskKind::kNone, 534000);
  const std::vector<float> scales(40 * 2, 1.0f);
  const std::vector<unsigned char> codes(40 * 68, 1);
  mha_quant quant = {};
  quant.scales = scales.data(), quant.stride_t = 2, quant.group = 32, quant.stride_d = 1;
  AttentionCall args = p.args();
  std::vector<float> output(2 * 64);
  args.output = mut_view(output.data());
  args.key.data = args.value.data = codes.data();
  args.key.dtype = MHA_I8, args.key.quant = &quant;
  args.value.dtype = MHA_Q8_0;
  char text[4096];
  mha_error error = {};
  require_ok(attention_explain(shared_context(supported_targets()[0], 1), args, text, sizeof text, nullptr, &error),
             error);
  CHECK(std::string(text).find("codes of keys: MHA_F32 scales of 32 elements of a row, zeros: the type's own") !=
        std::string::npos);
  CHECK(std::string(text).find("codes of values: in blocks of 32 with their scale") != std::string::npos);
  CHECK(std::string(text).find("keys MHA_I8, values MHA_Q8_0") != std::string::npos);
}
