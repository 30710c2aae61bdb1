// SPDX-License-Identifier: Apache-2.0
// The caller's pages in any types: mha_rows_prepare fills them from any type, normed and rotated in f32 and rounded once,
// and nothing else of them; attention over them is the f32 call over the pages widened. And rows without slots.
#include <numeric>

#include "tests/support/random_typed.h"
#include "tests/support/seeds.h"

using namespace mha::test;

namespace {

/// Pages [num_pages, page_size, heads, width] of one tensor in a layout of its own, poison where no token is.
struct TypedPages {
  int64_t page_size, num_pages, width;
  Strides strides;  // of pages, tokens of a page, heads
  Elements stored;
  std::vector<float> wide;

  TypedPages(Random& random, mha_dtype dtype, int64_t size, int64_t pages, int64_t heads, int64_t columns)
      : page_size(size), num_pages(pages), width(columns) {
    const Extent e = {num_pages, page_size, heads, width};
    strides = random_strides(random, e);
    const int64_t last = (e.b - 1) * strides.b + (e.t - 1) * strides.t + (e.h - 1) * strides.h + e.d;
    stored = Elements(dtype, last + 3);
  }
  int64_t at(int64_t slot, int64_t head) const {
    return slot / page_size * strides.b + slot % page_size * strides.t + head * strides.h;
  }
  void widen() { wide = stored.widened(); }
};

/// Tokens of items with a page table, and the slot of each.
struct Table {
  std::vector<int64_t> lengths;
  std::vector<int32_t> pages;
  int64_t page_size, stride, num_pages = 0;

  Table(Random& random, int64_t B, int64_t Tk, int64_t size) : page_size(size), stride((Tk + size - 1) / size) {
    for (int64_t b = 0; b < B; ++b) {
      lengths.push_back(one_in(random, 5) ? Tk : random.below(Tk + 1));
      num_pages += (lengths.back() + size - 1) / size;
    }
    num_pages += 2;
    std::vector<int32_t> free(static_cast<size_t>(num_pages));
    std::iota(free.begin(), free.end(), 0);
    for (size_t n = free.size(); n > 1; --n) std::swap(free[n - 1], free[static_cast<size_t>(random.below(n))]);
    pages.assign(static_cast<size_t>(B * stride + 1), -7);  // entries that must not be read
    for (int64_t b = 0; b < B; ++b)
      for (int64_t n = 0; n * size < lengths[b]; ++n) pages[b * stride + n] = free.back(), free.pop_back();
  }
  /// -1: not stored.
  int64_t slot(int64_t b, int64_t t) const {
    return t < lengths[b] ? pages[b * stride + t / page_size] * page_size + t % page_size : -1;
  }
  mha_pages view() const {
    mha_pages p = {};
    p.table = pages.data(), p.stride = stride, p.page_size = page_size, p.num_pages = num_pages;
    return p;
  }
};

/// Norm and rotation of rows, or none.
struct Preparation {
  mha_rope rope = {};
  mha_norm norm = {};
  bool rotated, normed;
  std::vector<int64_t> positions;

  Preparation(Random& random, int64_t tokens, int64_t width)
      : rotated(width > 1 && one_in(random, 2)), normed(one_in(random, 3)) {
    rope.style = one_of(random, {MHA_ROPE_HALF, MHA_ROPE_INTERLEAVED});
    rope.dims = 2 * between(random, 1, std::max<int64_t>(width / 2, 1));
    norm.epsilon = 1e-5f;
    for (int64_t n = 0; n <= tokens; ++n) positions.push_back(random.below(6000));
  }
  void put_into(mha_rows_args* args) const {
    if (rotated) args->rope = &rope, args->positions = positions.data();
    if (normed) args->norm = &norm;
  }
};

void prepare(const mha_context* context, const mha_rows_args& args) {
  mha_error error = {};
  require_ok(mha_rows_prepare(context, &args, &error), error);
}

mha_rows_args rows_args(const Extent& e, const Preparation& p) {
  mha_rows_args args = {};
  args.batch = e.b, args.length = e.t, args.num_heads = e.h, args.head_dim = e.d;
  p.put_into(&args);
  return args;
}

/// The same call on floats alone, dense.
std::vector<float> prepared_floats(const mha_context* context, const Typed& from, const Preparation& p) {
  std::vector<float> result = poisoned(from.extent().count());
  mha_rows_args args = rows_args(from.extent(), p);
  args.input = from.wide_view(), args.output = mut_view(result.data());
  prepare(context, args);
  return result;
}

/// Fills pages through slots and checks every element of them.
void fill(const mha_context* context, const Typed& from, const Preparation& p, const Table& table, TypedPages* pages) {
  const Extent& e = from.extent();
  std::vector<int64_t> slots;
  for (int64_t n = 0; n < e.b * e.t; ++n) slots.push_back(table.slot(n / e.t, n % e.t));
  mha_rows_args args = rows_args(e, p);
  args.input = from.view(), args.output = pages->stored.mut_view(pages->strides);
  args.slots = slots.data(), args.page_size = table.page_size, args.num_pages = table.num_pages;
  Elements want = pages->stored;
  prepare(context, args);
  const std::vector<float> rows = prepared_floats(context, from, p);
  std::vector<float> wide = want.widened();
  for (int64_t n = 0; n < e.b * e.t; ++n) {
    for (int64_t h = 0; slots[n] >= 0 && h < e.h; ++h) {
      const float* row = rows.data() + (n * e.h + h) * e.d;
      for (int64_t d = 0; d < e.d; ++d) {
        const int64_t at = pages->at(slots[n], h) + d;
        wide[at] = row[d], want.set_bits(at, stored_bits(want.dtype(), row[d]));
      }
    }
  }
  for (int64_t n = 0; n < want.count(); ++n) {  // poison must be exactly as it was
    if (pages->stored.bits(n) == want.bits(n) || std::isnan(wide[n])) continue;
    FAIL_CHECK("element " << n << " of the pages has other bits");
    break;
  }
  pages->widen();
}

}  // namespace

TEST_CASE("widening: the caller's pages in any types, filled from any types", "[widening][properties][pages][bits]") {
  int64_t prepared = 0;
  for (const uint64_t seed : seeds(700000, 400)) {
    Random random(seed);
    AttentionShape s = {between(random, 1, 3),   0,
                        between(random, 1, 2),   one_of<int64_t>(random, {1, 1, 2, 5, 40}),
                        between(random, 1, 600), between(random, 1, 40),
                        between(random, 1, 80)};
    s.H = s.Hkv * one_of<int64_t>(random, {1, 2, 4});
    if (s.Tq > 5) s.Tk = std::min<int64_t>(s.Tk, 300);
    const Table table(random, s.B, s.Tk, one_of<int64_t>(random, {1, 3, 16, 24, 64, 256, 300}));
    const auto typed = [&](const Extent& e) {
      Typed tensor(random_dtype(random), e, random_strides(random, e), random.below(4));
      return tensor.fill(random_floats(e.count(), random.bits() >> 8, 2));
    };
    const Typed query = typed(s.query()), key = typed(s.key()), value = typed(s.value());
    const Preparation keys(random, s.B * s.Tk, s.D), values(random, s.B * s.Tk, s.Dv);
    prepared += keys.rotated || keys.normed;
    TypedPages key_pages(random, random_dtype(random), table.page_size, table.num_pages, s.Hkv, s.D);
    TypedPages value_pages(random, random_dtype(random), table.page_size, table.num_pages, s.Hkv, s.Dv);
    const RandomMasks masks(random, s.B, s.H, s.Tq, s.Tk, RandomMasks::Lengths::kKnown);
    AttentionCall stored = AttentionProblem({1, 1, 1, 1, 1, 1, 1}, MaskKind::kNone, 0).args();
    stored.batch = s.B, stored.num_heads = s.H, stored.num_kv_heads = s.Hkv, stored.query_len = s.Tq;
    stored.key_len = s.Tk, stored.head_dim = s.D, stored.value_head_dim = s.Dv;
    masks.get().put_into(&stored);
    if (stored.positions.align == MHA_ALIGN_DEFAULT) stored.positions.align = MHA_ALIGN_END;
    stored.score_mods = masks.mods();
    const mha_pages pages = table.view();
    stored.items.key_lengths = table.lengths.data(), stored.pages = &pages;
    stored.results.weights_mode = one_of(random, {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_KEY_SUMS});
    const mha_dtype output = random_dtype(random);
    const Extent e = s.output();
    INFO("seed " << seed << ": " << describe(s) << " page " << table.page_size << " " << dtype_name(key.dtype())
                 << " to " << dtype_name(key_pages.stored.dtype()) << ", " << dtype_name(value.dtype()) << " to "
                 << dtype_name(value_pages.stored.dtype()) << masks.describe());
    for (const std::string& target : supported_targets()) {
      const mha_context *one = shared_context(target, 1), *some = shared_context(target, 3);
      INFO(target);
      TypedPages k = key_pages, v = value_pages;
      fill(some, key, keys, table, &k), fill(one, value, values, table, &v);
      AttentionCall wide = stored;
      stored.query = query.view(), wide.query = query.wide_view();
      stored.key = k.stored.view(k.strides), stored.value = v.stored.view(v.strides);
      wide.key = view(k.wide.data(), k.strides), wide.value = view(v.wide.data(), v.strides);
      const TypedResult want = run_typed(one, wide, Typed(MHA_F32, e, dense_bthd(e)), s.Tk);
      check_widened("pages", run_typed(some, stored, Typed(output, e, dense_bhtd(e)), s.Tk), want);
    }
  }
  CHECK(prepared > share_of(100));
}

TEST_CASE("widening: rows in order from any type to any type, in place too", "[widening][prepare][bits]") {
  for (const uint64_t seed : seeds(710000, 200)) {
    Random random(seed);
    const Extent e = {between(random, 1, 3), between(random, 1, 30), between(random, 1, 3), between(random, 1, 70)};
    Typed from(random_dtype(random), e, random_strides(random, e), random.below(4));
    std::vector<float> values = random_floats(e.count(), random.bits() >> 8, one_of(random, {1.0f, 1e5f, 1e-7f}));
    if (one_in(random, 3)) spoil(random, &values);
    from.fill(values);
    const Preparation p(random, e.b * e.t, e.d);
    const mha_dtype to = random_dtype(random);
    INFO("seed " << seed << ": " << dtype_name(from.dtype()) << " to " << dtype_name(to) << (p.rotated ? " rope" : "")
                 << (p.normed ? " norm" : ""));
    for (const std::string& target : supported_targets()) {
      const mha_context* context = shared_context(target, one_of<int64_t>(random, {1, 3}));
      const std::vector<float> want = prepared_floats(context, from, p);
      Typed output(to, e, random_strides(random, e), random.below(4)), both = from;
      mha_rows_args args = rows_args(e, p);
      args.input = from.view(), args.output = output.mut_view();
      prepare(context, args);
      check_rounded("rows", output.dense(), want);
      CHECK(output.gaps_intact());
      args.input = both.view(), args.output = both.mut_view();
      args.input.stride_b = args.output.stride_b, args.input.stride_t = args.output.stride_t;
      args.input.stride_h = args.output.stride_h;
      prepare(context, args);
      check_rounded("rows in their place", both.dense(), want);
      CHECK(both.gaps_intact());
    }
  }
}
