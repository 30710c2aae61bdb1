// SPDX-License-Identifier: Apache-2.0
// The canonical order on random attention problems: sizes, masks, values and layouts are drawn from a seed, and the
// same numbers come another way (threads, targets, batch items, heads and queries on their own, other strides) to equal
// bits.
#include "tests/support/random_cases.h"
#include "tests/support/row_codes.h"
#include "tests/support/seeds.h"

using namespace mha::test;

namespace {

// Enough for five threads (one for each million multiply-adds), small enough for hundreds of cases.
constexpr int64_t kMostMultiplyAdds = 8000000;

AttentionShape random_shape(Random& random) {
  AttentionShape s = {};
  s.Hkv = between(random, 1, 3);
  s.H = s.Hkv * one_of<int64_t>(random, {1, 1, 2, 3, 4});
  s.B = one_in(random, 20) ? 0 : between(random, 1, 3);
  s.Tq = random_length(random, 1000);
  s.Tk = random_length(random, 1300);
  if (s.Tq <= 40 && one_in(random, 4)) s.Tk = between(random, 2000, 9000);
  s.D = between(random, 1, 160);
  s.Dv = one_in(random, 2) ? s.D : between(random, 1, 160);
  if (s.Tq * s.Tk > 200000) s.B = s.B == 0 ? 0 : 1, s.H /= s.Hkv, s.Hkv = 1;
  const int64_t scores = std::max<int64_t>(s.B * s.H * s.Tq * s.Tk, 1);
  const int64_t widest = std::max<int64_t>(kMostMultiplyAdds / scores / 2, 1);
  s.D = std::min(s.D, widest);
  s.Dv = std::min(s.Dv, widest);
  return s;
}

/// One problem; args() has explicit strides, dense ones.
struct Drawn {
  AttentionShape shape;
  AttentionProblem problem;
  RandomMasks masks;
  mha_weights_mode mode;
  mha_arithmetic arithmetic;
  RowCodes key, value;  // what INT8 multiplies

  Drawn(Random& random, mha_arithmetic of)
      : shape(random_shape(random)),
        problem(shape, MaskKind::kNone, random.bits() >> 8),
        masks(random, shape.B, shape.H, shape.Tq, shape.Tk),
        mode(one_of(random, {MHA_WEIGHTS_NONE, MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED})),
        arithmetic(of) {
    const float magnitude = one_of(random, {1.0f, 4.0f, 30.0f});
    for (float& value : problem.query) value *= magnitude;
    if (one_in(random, 4)) spoil(random, &problem.query);
    if (one_in(random, 4)) spoil(random, &problem.key);
    if (one_in(random, 4)) spoil(random, &problem.value);
    if (one_in(random, 4)) problem.scale = 0.3f;
    if (arithmetic != MHA_ARITHMETIC_INT8) return;
    key = RowCodes(problem.key, shape.key()), value = RowCodes(problem.value, shape.value());
    if (one_in(random, 3)) value.negate_some(random);
  }

  AttentionCall args() const {
    AttentionCall args = problem.args();
    args.query = view(problem.query.data(), dense_bthd(shape.query()));
    args.key = view(problem.key.data(), dense_bthd(shape.key()));
    args.value = view(problem.value.data(), dense_bthd(shape.value()));
    if (arithmetic == MHA_ARITHMETIC_INT8) args.key = key.view(), args.value = value.view();
    masks.get().put_into(&args);
    args.score_mods = masks.mods();
    args.arithmetic = arithmetic;
    args.results.weights_mode = mode;
    return args;
  }
  std::string describe() const {
    static const char* const kModes[] = {"none", "per head", "averaged"};
    return mha::test::describe(shape) + ":" + masks.describe() + ", weights " + kModes[mode];
  }
};

/// Items [b, b + B), heads [h, h + H) and queries [q, q + Tq) of a problem; H is all heads or 1.
struct Part {
  int64_t b, B, h, H, q, Tq;
};

Part whole_of(const AttentionShape& s) { return {0, s.B, 0, s.H, 0, s.Tq}; }

/// Where the scales of a part's codes are.
struct PartQuants {
  mha_quant key, value;
};

AttentionCall part_args(AttentionCall args, const Masks& masks, const AttentionShape& s, const Part& part,
                        PartQuants* quants) {
  const int64_t kv_head = part.h / (s.H / s.Hkv);
  const auto move = [](mha_view& view, int64_t elements) {
    if (view.data) view.data = static_cast<const float*>(view.data) + elements;  // null: an empty tensor
  };
  const auto move_keys = [&](mha_view& view, mha_quant* quant) {
    const int64_t elements = part.b * view.stride_b + kv_head * view.stride_h;
    if (view.quant == nullptr) return move(view, elements);
    if (view.data) view.data = static_cast<const int8_t*>(view.data) + elements;
    *quant = *view.quant;
    quant->scales = static_cast<const float*>(quant->scales) + part.b * quant->stride_b + kv_head * quant->stride_h;
    view.quant = quant;
  };
  move(args.query, part.b * args.query.stride_b + part.h * args.query.stride_h + part.q * args.query.stride_t);
  move_keys(args.key, &quants->key), move_keys(args.value, &quants->value);
  masks_from(masks, {part.b, part.B, part.h, part.H, part.q, part.Tq, s.H, s.Tq, s.Tk}).put_into(&args);
  args.score_mods = mods_from(args.score_mods, part.h);
  args.batch = part.B, args.num_heads = part.H, args.query_len = part.Tq;
  if (part.H != s.H) args.num_kv_heads = 1;
  if (part.H != s.H && args.results.weights_mode == MHA_WEIGHTS_AVERAGED) args.results.weights_mode = MHA_WEIGHTS_NONE;
  return args;
}

/// Where a row of a part's result lies, in the part's dense result and in the whole's.
struct Row {
  const char* what;
  int64_t item, query, at, want_at, count;
};

/// Fails and returns false where the row differs.
bool check_row(const Row& row, const std::vector<float>& got, const std::vector<float>& want) {
  const float* a = got.data() + row.at;
  const float* b = want.data() + row.want_at;
  const int64_t n = first_bit_difference(a, b, static_cast<size_t>(row.count));
  if (n < 0) return true;
  std::ostringstream text;
  text.precision(9);
  text << row.what << " of item " << row.item << " query " << row.query << ": element " << n << " of " << row.count
       << " is " << a[n] << ", not " << b[n];
  FAIL_CHECK(text.str());
  return false;
}

/// Fails at the first row that differs.
void check_part(const AttentionShape& s, const Part& part, mha_weights_mode mode, const AttentionResult& got,
                const AttentionResult& want) {
  for (int64_t b = 0; b < part.B; ++b) {
    for (int64_t i = 0; i < part.Tq; ++i) {
      const int64_t item = part.b + b, query = part.q + i;
      const int64_t row = b * part.Tq + i, want_row = item * s.Tq + query;
      bool same =
          check_row({"output", item, query, row * part.H * s.Dv, (want_row * s.H + part.h) * s.Dv, part.H * s.Dv},
                    got.output, want.output);
      if (mode == MHA_WEIGHTS_AVERAGED)
        same &= check_row({"weights", item, query, row * s.Tk, want_row * s.Tk, s.Tk}, got.weights, want.weights);
      for (int64_t h = 0; h < part.H; ++h) {
        const int64_t at = (b * part.H + h) * part.Tq + i;
        const int64_t want_at = (item * s.H + part.h + h) * s.Tq + query;
        same &= check_row({"log-sum-exp", item, query, at, want_at, 1}, got.log_sum_exp, want.log_sum_exp);
        if (mode == MHA_WEIGHTS_PER_HEAD)
          same &= check_row({"weights", item, query, at * s.Tk, want_at * s.Tk, s.Tk}, got.weights, want.weights);
      }
      if (!same) return;
    }
  }
  SUCCEED();
}

/// The inputs in random layouts.
struct Elsewhere {
  Placed query, key, value;

  Elsewhere(Random& random, const AttentionProblem& p)
      : query(random_placed(random, p.shape.query())),
        key(random_placed(random, p.shape.key())),
        value(random_placed(random, p.shape.value())) {
    query.fill(p.query);
    key.fill(p.key);
    value.fill(p.value);
  }
  AttentionCall args(AttentionCall args) const {
    args.query = query.view();
    if (args.arithmetic == MHA_ARITHMETIC_INT8) return args;  // codes stay
    args.key = key.view();
    args.value = value.view();
    return args;
  }
};

/// As run_attention, with results in random layouts and workspace from the context's allocator.
AttentionResult run_into_layouts(Random& random, const mha_context* context, AttentionCall args,
                                 const AttentionShape& s) {
  Placed output = random_placed(random, s.output());
  args.output = output.mut_view();
  // [B, H, Tq, Tk]: heads are the second dimension.
  Placed weights = random_placed(random, s.weights(args.results.weights_mode));
  if (args.results.weights_mode != MHA_WEIGHTS_NONE) {
    args.results.weights = weights.mut_view();
    std::swap(args.results.weights.stride_t, args.results.weights.stride_h);
  }
  AttentionResult result;
  result.log_sum_exp = poisoned(s.B * s.H * s.Tq);
  args.results.log_sum_exp = result.log_sum_exp.data();
  mha_error error = {};
  require_ok(attention(context, args, &error), error);
  CHECK(output.gaps_intact());
  result.output = output.dense();
  if (args.results.weights_mode == MHA_WEIGHTS_NONE) return result;
  CHECK(weights.gaps_intact());
  result.weights = weights.dense();
  return result;
}

/// One problem with the result of each target on one thread, to which every other way must come.
class Property {
 public:
  Property(Random& random, mha_arithmetic arithmetic)
      : random_(random), drawn_(random, arithmetic), moved_(random, drawn_.problem) {}

  std::string describe() const { return drawn_.describe(); }
  const AttentionShape& shape() const { return drawn_.shape; }

  void check() {
    check_targets();
    for (int64_t threads : {2, 3, 5}) check_part_on({any_context().target, threads}, whole_of(shape()));
    for (int64_t b = 0; b < shape().B; ++b) check_anywhere({b, 1, 0, shape().H, 0, shape().Tq});
    for (const auto& [first, count] : random_pieces(random_, shape().Tq))
      check_anywhere({0, shape().B, 0, shape().H, first, count});
    if (shape().B > 0 && shape().Tq > 0) {
      check_anywhere({0, shape().B, random_.below(shape().H), 1, 0, shape().Tq});
      const int64_t b = random_.below(shape().B), q = random_.below(shape().Tq);
      check_anywhere({b, between(random_, 1, shape().B - b), 0, shape().H, q, between(random_, 1, shape().Tq - q)});
    }
    const RandomContext context = any_context();
    INFO(context.describe() << ", inputs and results in other layouts");
    check_part(shape(), whole_of(shape()), drawn_.mode,
               run_into_layouts(random_, context.get(), moved_.args(drawn_.args()), shape()), wants_[context.target]);
  }

 private:
  RandomContext any_context() { return random_context(random_, drawn_.arithmetic); }
  void check_targets() {
    const std::string first = targets_of(drawn_.arithmetic)[0];  // with FMA, if one has it
    for (const std::string& target : targets_of(drawn_.arithmetic)) {
      wants_[target] = run_attention(shared_context(target, 1), drawn_.args());
      INFO("target " << target << ", one thread");
      CHECK(none_poison(wants_[target].output));
      const bool same = drawn_.arithmetic == MHA_ARITHMETIC_INT8 || has_fma(target);
      if (same) check_part(shape(), whole_of(shape()), drawn_.mode, wants_[target], wants_[first]);
    }
  }
  void check_anywhere(const Part& part) { check_part_on(any_context(), part); }
  void check_part_on(const RandomContext& context, const Part& part) {
    const bool moved = one_in(random_, 2);
    INFO(context.describe() << (moved ? ", other strides" : "") << ": items " << part.b << " + " << part.B << ", heads "
                            << part.h << " + " << part.H << ", queries " << part.q << " + " << part.Tq);
    PartQuants quants = {};
    const AttentionCall args =
        part_args(moved ? moved_.args(drawn_.args()) : drawn_.args(), drawn_.masks.get(), shape(), part, &quants);
    check_part(shape(), part, args.results.weights_mode, run_attention(context.get(), args), wants_[context.target]);
  }

  Random& random_;
  Drawn drawn_;
  Elsewhere moved_;
  std::map<std::string, AttentionResult> wants_;
};

}  // namespace

TEST_CASE("properties: attention in BF16 comes to the same bits by every way", "[properties][bits][bf16]") {
  if (targets_of(MHA_ARITHMETIC_BF16).empty()) return;  // no target has it
  for (const uint64_t seed : seeds(205000, 200)) {
    Random random(seed);
    Property property(random, MHA_ARITHMETIC_BF16);
    INFO("seed " << seed << ": " << property.describe());
    property.check();
  }
}

TEST_CASE("properties: attention in INT8 comes to the same bits by every way", "[properties][bits][int8]") {
  if (targets_of(MHA_ARITHMETIC_INT8).empty()) return;  // no target has it
  for (const uint64_t seed : seeds(207000, 250)) {
    Random random(seed);
    Property property(random, MHA_ARITHMETIC_INT8);
    INFO("seed " << seed << ": " << property.describe());
    property.check();
  }
}

TEST_CASE("properties: attention comes to the same bits by every way", "[properties][bits]") {
  int64_t nothing = 0, no_keys = 0, many_rows = 0, many_chunks = 0, few_rows_many_chunks = 0, five_threads = 0;
  for (const uint64_t seed : seeds(200000, 300)) {
    Random random(seed);
    Property property(random, MHA_ARITHMETIC_F32);
    INFO("seed " << seed << ": " << property.describe());
    property.check();
    const AttentionShape& s = property.shape();
    const int64_t rows = s.B * s.Tq * s.H / s.Hkv, work = s.B * s.H * s.Tq * s.Tk * (s.D + s.Dv);
    nothing += rows == 0;
    no_keys += rows > 0 && s.Tk == 0;
    many_rows += rows > 768;
    many_chunks += rows > 0 && s.Tk > 768;
    few_rows_many_chunks += rows > 0 && rows < 40 && s.Tk > 768;
    five_threads += work > 5000000;
  }
  // What the draw is to contain; the seeds are fixed, so this changes only with the code above.
  for (int64_t cases : {nothing, no_keys, many_rows, many_chunks, few_rows_many_chunks, five_threads})
    CHECK(cases > share_of(5));
}
