// SPDX-License-Identifier: Apache-2.0
// Rows rounded to codes by mha_rows_prepare: codes, scales and zeros as the rule says, in every bit and on every target;
// what attention makes of them; the error that the call states.
#include <cfloat>
#include <cmath>

#include "tests/support/guard.h"
#include "tests/support/quantise.h"
#include "tests/support/random_typed.h"
#include "tests/support/seeds.h"

using namespace mha::test;

namespace {

/// Rows [B, T, heads, width] and where their codes go, dense or through slots.
struct Rows {
  Extent e;
  CodeStorage storage;
  Elements input;
  std::vector<float> floats;
  std::vector<int64_t> slots;  // empty: in order
  int64_t page_size = 0, num_pages = 0;

  explicit Rows(Random& random)
      : e{between(random, 1, 2), between(random, 1, 20), between(random, 1, 3),
          one_in(random, 3) ? 16 * between(random, 1, 9) : between(random, 1, 140)},
        storage(random, e.h, e.d),
        input(random_dtype(random), rows_of_all_kinds(random, e.b * e.t * e.h, e.d)),
        floats(input.widened()) {
    storage.draw_hadamard(random);
    if (one_in(random, 2)) return;
    page_size = between(random, 1, 7), num_pages = e.b * e.t / page_size + 3;
    std::vector<int64_t> free;
    for (int64_t s = 0; s < page_size * num_pages; ++s) free.push_back(s);
    for (size_t n = free.size(); n > 1; --n) std::swap(free[n - 1], free[random.below(static_cast<int64_t>(n))]);
    for (int64_t n = 0; n < e.b * e.t; ++n) slots.push_back(one_in(random, 6) ? -1 : free[static_cast<size_t>(n)]);
  }
  int64_t places() const { return slots.empty() ? e.b * e.t : page_size * num_pages; }
  int64_t place(int64_t token) const { return slots.empty() ? token : slots[static_cast<size_t>(token)]; }
  std::string describe() const {
    std::ostringstream text;
    text << e.b << " x " << e.t << " x " << e.h << " x " << e.d << " " << dtype_name(input.dtype()) << " to "
         << storage.describe() << " pages of " << page_size;
    return text.str();
  }
};

constexpr unsigned char kUntouched = 0xa5;

/// What the call wrote, byte by byte.
struct Written {
  std::vector<unsigned char> codes, scales, zeros;
  mha_storage_error error = {};
};

/// Codes in a layout of their own: so many bytes between rows that belong to none.
Written prepare(const mha_context* context, const Rows& r, int64_t gap, const mha_norm* norm) {
  const int64_t rows = r.places() * r.e.h, pitch = r.storage.row_bytes() + gap;
  Written w;
  w.codes.assign(static_cast<size_t>(rows * pitch), kUntouched);
  w.scales.assign(static_cast<size_t>(rows * r.storage.scale_bytes()), kUntouched);
  w.zeros.assign(static_cast<size_t>(rows * r.storage.zero_bytes()), kUntouched);
  const mha_storage storage = r.storage.storage();
  mha_rows_args args = {};
  args.batch = r.e.b, args.length = r.e.t, args.num_heads = r.e.h, args.head_dim = r.e.d;
  args.input = r.input.view(), args.norm = norm;
  args.output.data = w.codes.data(), args.output.dtype = r.storage.dtype, args.storage = &storage;
  const int64_t units = r.storage.nibbles() ? 2 : 1;
  args.output.stride_h = pitch * units, args.output.stride_t = r.e.h * args.output.stride_h;
  args.output.stride_b = args.output.stride_t * (r.slots.empty() ? r.e.t : r.page_size);
  if (!w.scales.empty()) args.scales = w.scales.data();
  if (!w.zeros.empty()) args.zeros = w.zeros.data();
  if (!r.slots.empty()) args.slots = r.slots.data(), args.page_size = r.page_size, args.num_pages = r.num_pages;
  args.storage_error = &w.error;
  mha_resources resources = {};
  mha_error error = {};
  require_ok(mha_rows_workspace_bytes(context, &args, &resources.workspace_bytes, &error), error);
  GuardedBuffer workspace(resources.workspace_bytes, Guard::kAfter);
  resources.workspace = workspace.data(), args.resources = &resources;
  require_ok(mha_rows_prepare(context, &args, &error), error);
  CHECK(workspace.slack_intact());
  return w;
}

/// The same by the rule.
Written wanted(const Rows& r, int64_t gap, const std::vector<float>& floats) {
  const int64_t rows = r.places() * r.e.h, pitch = r.storage.row_bytes() + gap;
  const int64_t scale_bytes = r.storage.scale_bytes(), zero_bytes = r.storage.zero_bytes();
  Written w;
  w.codes.assign(static_cast<size_t>(rows * pitch), kUntouched);
  w.scales.assign(static_cast<size_t>(rows * scale_bytes), kUntouched);
  w.zeros.assign(static_cast<size_t>(rows * zero_bytes), kUntouched);
  double squares = 0, given = 0;
  int64_t count = 0;
  for (int64_t n = 0; n < r.e.b * r.e.t; ++n) {
    for (int64_t h = 0; r.place(n) >= 0 && h < r.e.h; ++h) {
      const float* from = floats.data() + (n * r.e.h + h) * r.e.d;
      const QuantisedRow q = r.storage.round(from, h);
      const std::vector<float> row =
          r.storage.hadamard ? hadamard_row(from, r.e.d) : std::vector<float>(from, from + r.e.d);
      const int64_t at = r.place(n) * r.e.h + h;
      const std::vector<unsigned char> codes = r.storage.encode(q.codes);
      std::copy(codes.begin(), codes.end(), w.codes.begin() + at * pitch);
      const int64_t bytes = element_bytes(r.storage.scale_dtype);
      for (size_t g = 0; g < q.scale_bits.size(); ++g) {
        std::memcpy(w.scales.data() + at * scale_bytes + static_cast<int64_t>(g) * bytes, &q.scale_bits[g],
                    static_cast<size_t>(bytes));
      }
      for (size_t g = 0; g < q.zeros.size() && zero_bytes > 0; ++g)
        w.zeros[static_cast<size_t>(at * zero_bytes) + g] = static_cast<unsigned char>(q.zeros[g]);
      for (int64_t d = 0; d < r.e.d; ++d, ++count) {
        const float value = row[static_cast<size_t>(d)];
        const double x = std::fabs(value) < 0x1p-126f ? 0 : double{value};  // denormals count as 0
        const double lost = double{q.values[static_cast<size_t>(d)]} - x;
        squares += lost * lost, given += x * x;
        if (!(std::fabs(lost) <= w.error.max) && !std::isnan(w.error.max)) w.error.max = std::fabs(lost);
      }
    }
  }
  w.error.elements = count;
  if (count > 0) w.error.rms = std::sqrt(squares / double(count)), w.error.rms_given = std::sqrt(given / double(count));
  return w;
}

void check_same(const Written& got, const Written& want) {
  CHECK(got.codes == want.codes);
  CHECK(got.scales == want.scales);
  CHECK(got.zeros == want.zeros);
  CHECK(got.error.elements == want.error.elements);
  for (const auto part : {&mha_storage_error::max, &mha_storage_error::rms, &mha_storage_error::rms_given}) {
    const double a = got.error.*part, b = want.error.*part;
    // Inf - Inf is a NaN; a sum of squares that overflows where the other does not is not compared.
    CHECK((a == b || (std::isnan(a) && std::isnan(b)) || std::fabs(a - b) <= 1e-12 * std::fabs(b)));
  }
}

}  // namespace

TEST_CASE("quantise: rows of any kind become the codes, scales and zeros of the rule, on every target",
          "[codes][rows][properties][bits]") {
  int64_t paged = 0, fixed = 0, zeros = 0, grouped = 0, nibbles = 0, rotated = 0;
  for (const uint64_t seed : seeds(540000, 500)) {
    Random random(seed);
    const Rows rows(random);
    const int64_t gap = one_in(random, 2) ? 0 : random.below(4);
    INFO("seed " << seed << ": " << rows.describe());
    const Written want = wanted(rows, gap, rows.floats);
    for (const std::string& target : supported_targets()) {
      INFO(target);
      check_same(prepare(shared_context(target, one_of<int64_t>(random, {1, 3})), rows, gap, nullptr), want);
    }
    paged += !rows.slots.empty(), fixed += rows.storage.fixed, zeros += rows.storage.zero_points;
    grouped += rows.storage.group > 0 && rows.storage.groups() > 1, nibbles += rows.storage.nibbles(),
        rotated += rows.storage.hadamard;
  }
  for (const int64_t cases : {paged, fixed, zeros, grouped, nibbles, rotated}) CHECK(cases > share_of(60));
}

TEST_CASE("quantise: rows are normed in f32, then rounded", "[codes][rows]") {
  for (const uint64_t seed : seeds(541000, 100)) {
    Random random(seed);
    const Rows rows(random);
    INFO("seed " << seed << ": " << rows.describe());
    mha_norm norm = {};
    norm.epsilon = 1e-4f;
    for (const std::string& target : supported_targets()) {
      INFO(target);
      const mha_context* context = shared_context(target, 1);
      std::vector<float> normed = poisoned(static_cast<int64_t>(rows.floats.size()));
      mha_rows_args args = {};
      args.batch = rows.e.b, args.length = rows.e.t, args.num_heads = rows.e.h, args.head_dim = rows.e.d;
      args.input = rows.input.view(), args.output = mut_view(normed.data()), args.norm = &norm;
      mha_error error = {};
      require_ok(mha_rows_prepare(context, &args, &error), error);
      check_same(prepare(shared_context(target, 3), rows, 1, &norm), wanted(rows, 1, normed));
    }
  }
}

TEST_CASE("quantise: the rule on rows that are easily wrong", "[codes][rows]") {
  struct Case {
    mha_dtype dtype, scale_dtype;
    bool zeros;
    std::vector<float> row;
    uint32_t scale_bits;
    std::vector<int> codes;
    int zero;
  };
  const Case cases[] = {
      // Zero rows: a scale of 0, the code of 0.
      {MHA_I8, MHA_F32, false, {0, -0.0f}, 0, {0, 0}, 0},
      {MHA_U8, MHA_F16, false, {0, 0}, 0, {128, 128}, 0},
      {MHA_U8, MHA_F32, true, {0, 0}, 0, {0, 0}, 0},
      {MHA_I4, MHA_F32, true, {0, 0}, 0, {-8, -8}, -8},
      // Ties go to even codes: scale 1.
      {MHA_I8, MHA_F32, false, {127, 0.5f, 1.5f, -2.5f}, bits_of(1.0f), {127, 0, 2, -2}, 0},
      // 4 bits: the element of greatest magnitude becomes -8; of two the positive one.
      {MHA_I4, MHA_F32, false, {4, -4, 1}, bits_of(-0.5f), {-8, 7, -2}, 0},
      {MHA_I4, MHA_F32, false, {3, -4, 1}, bits_of(0.5f), {6, -8, 2}, 0},
      {MHA_U4, MHA_F32, false, {3, -4, 1}, bits_of(0.5f), {14, 0, 10}, 0},
      // Zeros: 0 is always one of the codes' values.
      {MHA_U8, MHA_F32, true, {1, 256}, bits_of(256.0f / 255), {1, 255}, 0},
      {MHA_U8, MHA_F32, true, {-255, 0}, bits_of(1.0f), {0, 255}, 255},
      {MHA_I8, MHA_F32, true, {-128, 127}, bits_of(1.0f), {-128, 127}, 0},
      {MHA_U4, MHA_F32, true, {-5, 10}, bits_of(1.0f), {0, 15}, 5},
      // Scales that would underflow: the least that the type holds.
      {MHA_I8, MHA_F32, false, {1e-37f, 0}, bits_of(0x1p-126f), {9, 0}, 0},
      {MHA_I8, MHA_F16, false, {2e-7f, 0}, 1, {3, 0}, 0},
      {MHA_I4, MHA_F16, false, {1e-8f, -1e-9f}, 0x8001, {0, 0}, 0},
      {MHA_I8, MHA_BF16, false, {1e-37f, 0}, 0x0080, {9, 0}, 0},
      {MHA_I8, MHA_F32, false, {1e-39f, 1e-40f}, 0, {0, 0}, 0},  // denormals count as 0
      // A row that is not finite, or whose scale its type does not reach: a NaN, codes of 0.
      {MHA_I8, MHA_F32, false, {1, kNan}, 0x7fc00000u, {0, 0}, 0},
      {MHA_U8, MHA_F16, false, {kInf, 1}, 0x7e00, {128, 128}, 0},
      {MHA_U4, MHA_BF16, true, {-kInf, 1}, 0x7fc0, {0, 0}, 0},
      {MHA_I8, MHA_F16, false, {1e7f, 1}, 0x7e00, {0, 0}, 0},
      {MHA_I8, MHA_F32, false, {FLT_MAX, -FLT_MAX}, bits_of(FLT_MAX / 127), {127, -127}, 0},
      {MHA_U8, MHA_F32, true, {FLT_MAX, -FLT_MAX}, bits_of(FLT_MAX / 127.5f), {255, 0}, 128},
  };
  for (const Case& c : cases) {
    CodeStorage storage(c.dtype, 1, static_cast<int64_t>(c.row.size()));
    storage.scale_dtype = c.scale_dtype, storage.zero_points = c.zeros;
    INFO(storage.describe() << ", row of " << c.row[0] << ", " << c.row[1]);
    const QuantisedRow rule = storage.round(c.row.data(), 0);  // the tests' own formula says the same
    CHECK(rule.codes == c.codes);
    CHECK(rule.scale_bits == std::vector<uint32_t>{c.scale_bits});
    for_each_target([&](const std::string& target, const mha_context* context) {
      INFO(target);
      std::vector<unsigned char> codes(static_cast<size_t>(storage.row_bytes()));
      uint32_t scale = 0;
      unsigned char zero = 0;
      const mha_storage s = storage.storage();
      mha_rows_args args = {};
      args.batch = args.length = args.num_heads = 1, args.head_dim = storage.width;
      args.input = view(c.row.data()), args.output.data = codes.data(), args.output.dtype = c.dtype;
      args.storage = &s, args.scales = &scale;
      if (c.zeros) args.zeros = &zero;
      mha_error error = {};
      require_ok(mha_rows_prepare(context, &args, &error), error);
      CHECK(codes == storage.encode(c.codes));
      CHECK(scale == c.scale_bits);
      CHECK(static_cast<int>(storage.is_signed() ? static_cast<int8_t>(zero) : zero) == c.zero);
    });
  }
}

TEST_CASE("quantise: attention over prepared pages has the bits of the call over what they stand for",
          "[codes][rows][pages][bits]") {
  for (const uint64_t seed : seeds(542000, 60)) {
    Random random(seed);
    const int64_t page_size = one_of<int64_t>(random, {4, 16, 64}), Tk = between(random, 1, 300), width = 64;
    const int64_t num_pages = (Tk + page_size - 1) / page_size + 2;
    const AttentionShape s = {1, 4, 2, between(random, 1, 4), Tk, width, width};
    const AttentionProblem p(s, MaskKind::kNone, seed);
    CodeStorage storage(random, s.Hkv, width);
    INFO("seed " << seed << " " << describe(s) << " " << storage.describe() << " pages of " << page_size);
    std::vector<int32_t> table;
    for (int64_t n = num_pages; n > 2; --n) table.push_back(static_cast<int32_t>(n - 1));
    std::vector<int64_t> slots;
    for (int64_t t = 0; t < Tk; ++t) slots.push_back(table[t / page_size] * page_size + t % page_size);
    const int64_t rows = num_pages * page_size * s.Hkv;
    std::vector<unsigned char> codes(static_cast<size_t>(rows * storage.row_bytes()), kUntouched);
    std::vector<float> scales(static_cast<size_t>(rows * storage.scale_bytes() / 4 + 1));
    std::vector<unsigned char> zeros(static_cast<size_t>(rows * storage.zero_bytes() + 1));
    const mha_storage stored_as = storage.storage();
    mha_rows_args args = {};
    args.batch = 1, args.length = Tk, args.num_heads = s.Hkv, args.head_dim = width;
    args.input = view(p.key.data()), args.output.data = codes.data(), args.output.dtype = storage.dtype;
    args.storage = &stored_as, args.slots = slots.data(), args.page_size = page_size, args.num_pages = num_pages;
    if (storage.scale_bytes() > 0) args.scales = scales.data();
    if (storage.zero_bytes() > 0) args.zeros = zeros.data();
    mha_error error = {};
    require_ok(mha_rows_prepare(cache_context(), &args, &error), error);
    mha_quant quant = {};
    if (storage.fixed) {
      quant = *stored_as.fixed;
    } else {
      const int64_t groups = storage.groups();
      quant.scales = scales.data(), quant.scale_dtype = storage.scale_dtype;
      if (storage.zero_points) quant.zeros = zeros.data(), quant.zero_dtype = storage.is_signed() ? MHA_I8 : MHA_U8;
      quant.group = storage.group, quant.stride_d = storage.group > 0 ? 1 : 0;
      quant.stride_h = groups, quant.stride_t = s.Hkv * groups, quant.stride_b = page_size * s.Hkv * groups;
    }
    mha_pages pages = {};
    pages.table = table.data(), pages.page_size = page_size, pages.num_pages = num_pages;
    AttentionCall plain = p.args(), paged = plain;
    const std::vector<float> values = storage.round_all(p.key);
    plain.key = plain.value = view(values.data());
    const int64_t lengths[] = {Tk};
    paged.pages = &pages, paged.items.key_lengths = lengths, paged.key.data = paged.value.data = codes.data();
    paged.key.dtype = paged.value.dtype = storage.dtype, paged.key.quant = paged.value.quant = &quant;
    paged.key.stride_h = paged.value.stride_h = width, paged.key.stride_t = paged.value.stride_t = s.Hkv * width;
    paged.key.stride_b = paged.value.stride_b = page_size * s.Hkv * width;
    const Extent e = s.output();
    for_each_target([&](const std::string& target, const mha_context* context) {
      INFO(target);
      const TypedResult want = run_typed(context, plain, Typed(MHA_F32, e, dense_bthd(e)), Tk);
      check_widened("pages", run_typed(context, paged, Typed(MHA_F32, e, dense_bthd(e)), Tk), want);
    });
  }
}
