// SPDX-License-Identifier: Apache-2.0
// The widening law of attention on random problems: a call over tensors and masks of any types has the bits of the same
// call over the widened ones, a 16-bit output being that result rounded once. And the conversions, one by one.
#include "tests/support/random_typed.h"
#include "tests/support/seeds.h"
#include "tests/support/shapes.h"

using namespace mha::test;

namespace {

/// How many of the drawn problems took each way; the seeds are fixed, so these change only with the draw.
struct Ways {
  int64_t few_keys = 0, in_place = 0, packed = 0, split = 0, ragged = 0, running = 0, chunks = 0, output_in_place = 0;
  int64_t weights = 0, masks = 0, types = 0, no_rows = 0;

  void count(const TypedCall& call, const std::string& explained) {
    const auto says = [&](const char* text) { return explained.find(text) != std::string::npos ? 1 : 0; };
    few_keys += says("kernel: few keys"), in_place += says("kernel: in place"), packed += says("kernel: packed");
    split += says("merged afterwards");
    ragged += call.ragged();
    running += says("kernel: packed") && call.shape.Dv > 64 && call.longest_key > 256 && call.output_dtype != MHA_F32;
    chunks += call.longest_query > 1 && call.longest_key > 512;
    weights += call.wide.results.weights_mode != MHA_WEIGHTS_NONE;
    masks += call.stored.masks.add_mask2.dtype != MHA_F32;
    types += call.query->dtype() != call.key->dtype() && call.key->dtype() != call.value->dtype();
    no_rows += call.shape.B * call.shape.Tq == 0;
  }
  void check() const {
    for (const int64_t cases :
         {few_keys, in_place, packed, split, ragged, running, chunks, output_in_place, weights, masks, types, no_rows})
      CHECK(cases > share_of(5));
  }
};

std::string explained(const mha_context* context, TypedCall& call) {
  AttentionCall args = call.stored;
  Typed output = call.output();
  args.output = output.mut_view();
  std::vector<float> any(1);
  if (args.results.weights_mode != MHA_WEIGHTS_NONE) args.results.weights = mut_view(any.data());
  char text[8192];
  mha_error error = {};
  require_ok(attention_explain(context, args, text, sizeof text, nullptr, &error), error);
  return text;
}

/// The output in the place of the query, whose type and strides it has.
void check_in_place(const mha_context* context, const TypedCall& call, const TypedResult& want) {
  Typed both = *call.query;
  AttentionCall args = call.stored;
  std::vector<float> weights = poisoned(static_cast<int64_t>(want.weights.size()));
  if (args.results.weights_mode != MHA_WEIGHTS_NONE) args.results.weights = mut_view(weights.data());
  args.output = both.mut_view();
  args.query = {args.output.data,     args.output.dtype,    0,      args.output.stride_b,
                args.output.stride_t, args.output.stride_h, nullptr};
  mha_error error = {};
  require_ok(attention(context, args, &error), error);
  CHECK(both.gaps_intact());
  check_rounded("in the query's place", both.dense(), want.output.widened());
  check_same_bits("weights, output in the query's place", weights, want.weights);
}

std::vector<float> partials_of(const mha_context* context, AttentionCall args) {
  args.results = {}, args.score_mods.sink_logits = nullptr;
  mha_error error = {};
  size_t bytes = 0;
  require_ok(attention_partial_bytes(context, args, &bytes, &error), error);
  std::vector<float> partials = poisoned(static_cast<int64_t>(bytes / sizeof(float)));
  std::unique_ptr<GuardedBuffer> workspace;
  guarded_workspace(&workspace, &args,
                    [&](size_t* size, mha_error* e) { return attention_workspace_bytes(context, args, size, e); });
  require_ok(attention_partial(context, args, partials.data(), bytes, &error), error);
  return partials;
}

/// Partial results are those of the widened call, and merge to its output, rounded once.
void check_partials(const mha_context* context, const TypedCall& call, const TypedResult& want) {
  const std::vector<float> partials = partials_of(context, call.stored);
  check_same_bits("partial results", partials, partials_of(context, call.wide));
  const AttentionShape& s = call.shape;
  Typed output = call.output();
  std::vector<float> lse = poisoned(s.B * s.H * s.Tq);
  mha_merge_partials_args args = {};
  args.batch = s.B, args.num_heads = s.H, args.query_len = s.Tq, args.value_head_dim = s.Dv;
  args.num_chunks = static_cast<int64_t>(partials.size()) / (s.B * s.H * s.Tq * (s.Dv + 2));
  args.arithmetic = call.wide.arithmetic;
  args.partials = partials.data(), args.sink_logits = call.wide.score_mods.sink_logits;
  args.output = output.mut_view(), args.log_sum_exp = lse.data();
  mha_error error = {};
  require_ok(mha_attention_merge_partials(context, &args, &error), error);
  CHECK(output.gaps_intact());
  check_rounded("merged output", output.dense(), want.output.widened());
  check_same_bits("merged log-sum-exp", lse, want.log_sum_exp);
}

void check_on(const std::string& target, Random& random, TypedCall& call, bool output_in_place) {
  const TypedResult want = run_typed(shared_context(target, 1), call.wide, call.wide_output(), call.longest_key);
  for (const int64_t threads : {int64_t{1}, one_of<int64_t>(random, {2, 3, 5})}) {
    INFO(target << ", " << threads << " threads");
    const mha_context* context = shared_context(target, threads);
    check_widened("widening", run_typed(context, call.stored, call.output(), call.longest_key), want);
  }
  const mha_context* context = shared_context(target, one_of<int64_t>(random, {1, 3}));
  if (output_in_place) check_in_place(context, call, want);
  if (call.alike() && call.shape.B * call.shape.Tq > 0 && one_in(random, 3)) check_partials(context, call, want);
}

}  // namespace

TEST_CASE("widening: attention over any types is the call over floats, rounded once", "[widening][properties][bits]") {
  Ways ways;
  for (const auto& [arithmetic, seed] : seeds_of_both(500000, 420, 200)) {
    Random random(seed);
    TypedCall call(random);
    call.set_arithmetic(arithmetic);
    INFO("seed " << seed << " arithmetic " << arithmetic << ": " << call.describe());
    const bool output_in_place = call.shape.D == call.shape.Dv && call.shape.Tq > 0 && call.shape.B > 0;
    ways.output_in_place += output_in_place && call.query->dtype() != MHA_F32;
    ways.count(call, explained(shared_context(supported_targets()[0], 3), call));
    for (const std::string& target : targets_of(arithmetic)) check_on(target, random, call, output_in_place);
  }
  ways.check();
}

TEST_CASE("widening: the reference over any types is the reference over floats", "[widening][reference]") {
  int64_t cases = 0;
  for (const uint64_t seed : seeds(505000, 60)) {
    Random random(seed);
    TypedCall call(random);
    if (call.ragged() || call.wide.results.weights_mode == MHA_WEIGHTS_KEY_SUMS) continue;
    INFO("seed " << seed << ": " << call.describe());
    const AttentionReference want = reference_attention(call.wide), got = reference_attention(call.stored);
    for (const auto part :
         {&AttentionReference::output, &AttentionReference::weights, &AttentionReference::log_sum_exp}) {
      REQUIRE((want.*part).size() == (got.*part).size());
      CHECK(std::equal((want.*part).begin(), (want.*part).end(), (got.*part).begin(),
                       [](double x, double y) { return x == y || (std::isnan(x) && std::isnan(y)); }));
    }
    cases += call.query->dtype() != MHA_F32 && call.value->dtype() != MHA_F32 && !want.output.empty();
  }
  CHECK(cases > share_of(10));
}

TEST_CASE("widening: query, key, value, output, masks, one type at a time", "[widening][bits]") {
  const AttentionShape s = {2, 4, 2, 33, 300, 20, 70};
  const AttentionProblem p(s, MaskKind::kAdd, 510000);
  const std::vector<float> second = random_floats(s.Tk, 510001, 2);
  for (const ElementType& type : kElementTypes) {
    for (int which = 0; which < 6; ++which) {
      const auto dtype = [&](int n) { return n == which ? type.dtype : MHA_F32; };
      const Elements query(dtype(0), p.query), key(dtype(1), p.key), value(dtype(2), p.value);
      const Elements add(dtype(3), p.add_mask), add2(dtype(4), second);
      AttentionCall stored = p.args();
      stored.masks.add_mask2.stride_k = 1;
      AttentionCall wide = stored;
      const auto put = [](const Elements& e, mha_view* view) { *view = e.view(); };
      const auto put_mask = [](const Elements& e, mha_add_mask* m) { m->data = e.data(), m->dtype = e.dtype(); };
      put(query, &stored.query), put(key, &stored.key), put(value, &stored.value);
      put_mask(add, &stored.masks.add_mask), put_mask(add2, &stored.masks.add_mask2);
      const std::vector<float> q = query.widened(), k = key.widened(), v = value.widened(), m = add.widened(),
                               m2 = add2.widened();
      wide.query = view(q.data()), wide.key = view(k.data()), wide.value = view(v.data());
      wide.masks.add_mask.data = m.data(), wide.masks.add_mask2.data = m2.data();
      INFO("argument " << which << " is " << type.name);
      for_each_target([&](const std::string&, const mha_context* context) {
        const Extent e = s.output();
        const TypedResult want = run_typed(context, wide, Typed(MHA_F32, e, dense_bthd(e)), s.Tk);
        check_widened("alone", run_typed(context, stored, Typed(dtype(5), e, dense_bthd(e)), s.Tk), want);
      });
    }
  }
}

TEST_CASE("widening: wide outputs of a call that threads share", "[widening][bits]") {
  for (const int64_t Dv : {255, 256, 257, 300, 513}) {
    const AttentionShape s = {1, 1, 1, 2, 3000, 20, Dv};
    const AttentionProblem p(s, MaskKind::kNone, 511000);
    const Extent e = s.output();
    for_each_target([&](const std::string& target, const mha_context* one) {
      INFO(target << " Dv " << Dv);
      const mha_context* three = shared_context(target, 3);
      char text[4096];
      mha_error error = {};
      require_ok(attention_explain(three, p.args(), text, sizeof(text), nullptr, &error), error);
      REQUIRE(std::string(text).find("merged afterwards") != std::string::npos);
      const TypedResult want = run_typed(one, p.args(), Typed(MHA_F32, e, dense_bthd(e)), s.Tk);
      for (const ElementType& type : kElementTypes)
        check_widened(type.name, run_typed(three, p.args(), Typed(type.dtype, e, dense_bthd(e)), s.Tk), want);
    });
  }
}

namespace {

/// mha_rows_prepare as a copy of elements from one type to another.
Elements converted(const mha_context* context, const Elements& from, mha_dtype to) {
  Elements result(to, from.count());
  mha_rows_args args = {};
  args.batch = 1, args.length = 1, args.num_heads = 1, args.head_dim = from.count();
  args.input = from.view(), args.output = result.mut_view();
  mha_error error = {};
  require_ok(mha_rows_prepare(context, &args, &error), error);
  return result;
}

/// Fails where bits differ, of NaNs too.
void check_bits(const std::string& what, const Elements& got, const std::vector<uint32_t>& want) {
  REQUIRE(got.count() == static_cast<int64_t>(want.size()));
  for (int64_t n = 0; n < got.count(); ++n) {
    if (got.bits(n) == want[static_cast<size_t>(n)]) continue;
    FAIL_CHECK(what << ": element " << n << " is 0x" << std::hex << got.bits(n) << ", not 0x"
                    << want[static_cast<size_t>(n)]);
    return;
  }
  SUCCEED();
}

/// Every pattern of 16 bits.
Elements all_patterns(mha_dtype dtype) {
  Elements all(dtype, 65536);
  for (int64_t n = 0; n < all.count(); ++n) all.set_bits(n, static_cast<uint32_t>(n));
  return all;
}

/// Floats at, below and above every value of the type and every middle of two, NaNs, and any bits.
std::vector<float> floats_around(mha_dtype dtype) {
  std::vector<float> values;
  for (uint32_t n = 0; n < 65536; ++n) {
    const uint32_t at = bits_of(widened(dtype, n)), next = bits_of(widened(dtype, n + 1 & 0xffffu));
    const uint32_t middle = at + (next - at) / 2;
    for (const uint32_t bits : {at - 1, at, at + 1, middle - 1, middle, middle + 1})
      values.push_back(float_of_bits(bits));
  }
  Random random(520000);
  for (int n = 0; n < 100000; ++n) values.push_back(float_of_bits(static_cast<uint32_t>(random.bits())));
  return values;
}

}  // namespace

TEST_CASE("widening: conversions of every 16-bit pattern, and of floats around each", "[widening][bits]") {
  CHECK(round_to_f16_bits(bits_of(65519.99f)) == 0x7bff);
  CHECK(round_to_f16_bits(bits_of(65520.0f)) == 0x7c00);
  CHECK(round_to_f16_bits(bits_of(0x1p-25f)) == 0);
  CHECK(round_to_f16_bits(bits_of(0x1.8p-24f)) == 2);
  CHECK(round_to_f16_bits(0xff800001u) == 0xfe00);
  CHECK(round_to_bf16_bits(0x7f800001u) == 0x7fc0);
  CHECK(round_to_bf16_bits(0x3f808000u) == 0x3f80);
  CHECK(round_to_bf16_bits(0x3f818000u) == 0x3f82);
  for_each_target([&](const std::string&, const mha_context* context) {
    for (const mha_dtype from : {MHA_F16, MHA_BF16}) {
      const Elements all = all_patterns(from);
      for (const ElementType& to : kElementTypes) {
        std::vector<uint32_t> want;
        for (int64_t n = 0; n < all.count(); ++n)
          want.push_back(to.dtype == from ? all.bits(n) : stored_bits(to.dtype, widened(from, all.bits(n))));
        check_bits(dtype_name(from) + " to " + to.name, converted(context, all, to.dtype), want);
      }
      const std::vector<float> values = floats_around(from);
      std::vector<uint32_t> want;
      want.reserve(values.size());
      for (const float value : values) want.push_back(stored_bits(from, value));
      check_bits("MHA_F32 to " + dtype_name(from), converted(context, Elements(MHA_F32, values), from), want);
    }
  });
}
