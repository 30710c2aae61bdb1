// SPDX-License-Identifier: Apache-2.0
// Keys and values in pages of the caller's: the bits of plain tensors and of a cache in any layout, page size and order of
// pages; tables that are refused; mha_rows_prepare, which writes such pages.
#include <numeric>

#include "tests/support/caches.h"
#include "tests/support/catch.h"
#include "tests/support/random_cases.h"

using namespace mha::test;

namespace {

/// How a page holds its tokens: [page_size, Hkv, width] or [Hkv, page_size, width].
enum class PageOrder { kTokens, kHeads };

/// The caller's pages of one tensor [B, Tk, Hkv, width], in random order, with a page of poison behind each.
struct Pages {
  int64_t page_size, heads, width, num_pages = 0;
  PageOrder order;
  std::vector<int32_t> table;
  int64_t stride;
  std::vector<float> data;

  Pages(Random& random, int64_t size, PageOrder o, const AttentionShape& s, const std::vector<int64_t>& lengths,
        int64_t columns)
      : page_size(size), heads(s.Hkv), width(columns), order(o) {
    stride = (s.Tk + size - 1) / size + random.below(3);
    table.assign(static_cast<size_t>(s.B * stride + 1), -7);  // entries that must not be read
    for (const int64_t length : lengths) num_pages += 2 * ((length + size - 1) / size);
    std::vector<int32_t> free(static_cast<size_t>(num_pages));
    std::iota(free.begin(), free.end(), 0);
    for (size_t n = free.size(); n > 1; --n) std::swap(free[n - 1], free[static_cast<size_t>(random.below(n))]);
    for (int64_t b = 0; b < s.B; ++b) {
      for (int64_t n = 0; n * size < lengths[b]; ++n) table[b * stride + n] = free.back(), free.pop_back();
    }
    data = poisoned(num_pages * page_floats() + 1);
  }

  int64_t page_floats() const { return page_size * heads * width; }
  int64_t stride_t() const { return order == PageOrder::kTokens ? heads * width : width; }
  int64_t stride_h() const { return order == PageOrder::kTokens ? width : page_size * width; }
  float* at(int64_t b, int64_t t, int64_t h) {
    return data.data() + table[b * stride + t / page_size] * page_floats() + t % page_size * stride_t() +
           h * stride_h();
  }
  mha_view view() const { return mha::view(data.data(), {page_floats(), stride_t(), stride_h()}); }
  mha_pages pages() const {
    mha_pages pages = {};
    pages.table = table.data(), pages.stride = stride, pages.page_size = page_size, pages.num_pages = num_pages;
    return pages;
  }
  /// Copies the first lengths[b] tokens of each item of a dense tensor in.
  void fill(const std::vector<float>& dense, const std::vector<int64_t>& lengths, int64_t Tk) {
    for (size_t b = 0; b < lengths.size(); ++b)
      for (int64_t t = 0; t < lengths[b]; ++t)
        for (int64_t h = 0; h < heads; ++h) {
          const float* from = dense.data() + ((static_cast<int64_t>(b) * Tk + t) * heads + h) * width;
          std::copy_n(from, width, at(static_cast<int64_t>(b), t, h));
        }
  }
};

}  // namespace

TEST_CASE("pages: the bits of plain tensors in any page size, order and layout", "[pages]") {
  for_each_target([](const std::string& target, const mha_context* one_thread) {
    for (uint64_t seed = 0; seed < 40; ++seed) {
      Random random(seed * 31 + 5);
      const AttentionShape s = {between(random, 1, 4),
                                4,
                                one_of<int64_t>(random, {1, 2, 4}),
                                one_of<int64_t>(random, {1, 1, 2, 5, 40}),
                                between(random, 1, 700),
                                between(random, 1, 40),
                                between(random, 1, 40)};
      AttentionProblem p(s, MaskKind::kNone, seed);
      std::vector<int64_t> lengths;
      for (int64_t b = 0; b < s.B; ++b) lengths.push_back(one_in(random, 5) ? 0 : between(random, 1, s.Tk));
      const RandomMasks masks(random, s.B, s.H, s.Tq, s.Tk, RandomMasks::Lengths::kKnown);
      AttentionCall call = p.args();
      masks.get().put_into(&call);
      if (call.positions.align == MHA_ALIGN_DEFAULT) call.positions.align = MHA_ALIGN_END;
      call.score_mods = masks.mods();
      call.items.key_lengths = lengths.data();
      call.results.weights_mode =
          one_of(random, {MHA_WEIGHTS_NONE, MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED});
      const AttentionResult want = run_attention(one_thread, call);

      const int64_t size = one_of<int64_t>(random, {1, 3, 15, 16, 24, 64, 256, 300});
      const PageOrder order = one_of(random, {PageOrder::kTokens, PageOrder::kHeads});
      Pages key(random, size, order, s, lengths, s.D);
      Pages value = key;
      value.width = s.Dv, value.data = poisoned(value.num_pages * value.page_floats() + 1);
      key.fill(p.key, lengths, s.Tk), value.fill(p.value, lengths, s.Tk);
      const mha_pages pages = key.pages();
      call.pages = &pages, call.key = key.view(), call.value = value.view();
      INFO(target << " seed " << seed << ": " << describe(s) << " page " << size << masks.describe());
      for (const int64_t threads : {1, 3}) {
        check_same_results(std::to_string(threads) + " threads", run_attention(shared_context(target, threads), call),
                           want);
      }
    }
  });
}

TEST_CASE("pages: the bits of a paged cache, and rows_prepare fills them like append", "[pages]") {
  for_each_target([](const std::string&, const mha_context* context) {
    const AttentionShape s = {2, 4, 2, 3, 90, 16, 16};
    AttentionProblem p(s, MaskKind::kNone, 3);
    const std::vector<int64_t> lengths = {90, 33};
    mha_cache_config config = cache_config(MHA_CACHE_PAGED, 500, 2, 16);
    config.num_kv_heads = s.Hkv, config.head_dim = s.D, config.value_head_dim = s.Dv;
    const CachePtr cache = make_cache(context, config);
    mha_rope rope = {};
    mha_norm norm = {};
    norm.epsilon = 1e-5f;
    Random random(4);
    Pages key(random, 24, PageOrder::kTokens, s, lengths, s.D), value = key;
    value.data = poisoned(value.num_pages * value.page_floats() + 1);
    mha_error error = {};
    for (int64_t b = 0; b < 2; ++b) {
      mha_append_args append = {};
      append.batch = 1, append.sequences = &b, append.length = lengths[b];
      append.key = view(p.key.data() + b * s.Tk * s.Hkv * s.D);
      append.value = view(p.value.data() + b * s.Tk * s.Hkv * s.Dv);
      append.rope = &rope, append.key_norm = &norm;
      require_ok(mha_cache_append(context, cache.get(), &append, &error), error);

      std::vector<int64_t> slots;
      for (int64_t t = 0; t < lengths[b]; ++t) slots.push_back(key.table[b * key.stride + t / 24] * 24 + t % 24);
      mha_rows_args rows = {};
      rows.batch = 1, rows.length = lengths[b], rows.num_heads = s.Hkv, rows.head_dim = s.D;
      rows.slots = slots.data(), rows.page_size = 24, rows.num_pages = key.num_pages;
      rows.input = append.key, rows.output = mut_view(key.data.data());
      rows.rope = &rope, rows.norm = &norm;
      require_ok(mha_rows_prepare(context, &rows, &error), error);
      rows.input = append.value, rows.output = mut_view(value.data.data());
      rows.rope = nullptr, rows.norm = nullptr;
      require_ok(mha_rows_prepare(context, &rows, &error), error);
    }
    AttentionCall call = p.args();
    call.causal = 1, call.rope = &rope, call.query_norm = &norm;
    AttentionCall cached = call;
    cached.cache = cache.get(), cached.key = cached.value = {}, cached.key_len = 0;
    const mha_pages pages = key.pages();
    call.pages = &pages, call.key = view(key.data.data()), call.value = view(value.data.data());
    call.items.key_lengths = lengths.data(), call.positions.align = MHA_ALIGN_END;
    check_same_results("pages and cache", run_attention(context, call), run_attention(context, cached));
    const auto untouched = [](const Pages& all) {
      std::vector<bool> used(static_cast<size_t>(all.num_pages));
      for (const int32_t page : all.table)
        if (page >= 0) used[static_cast<size_t>(page)] = true;
      for (int64_t n = 0; n < all.num_pages; ++n)
        for (int64_t i = 0; i < all.page_floats() && !used[static_cast<size_t>(n)]; ++i)
          if (!is_poison(all.data[static_cast<size_t>(n * all.page_floats() + i)])) return false;
      return true;
    };
    CHECK(untouched(key));
    CHECK(untouched(value));
  });
}

TEST_CASE("pages: items that begin with the same pages meet them once", "[pages]") {
  for_each_target([](const std::string&, const mha_context* context) {
    for (const int64_t of_last : {512, 256}) {
      INFO("the last item shares " << of_last);
      const AttentionShape s = {3, 4, 2, 1, 700, 16, 16};
      AttentionProblem p(s, MaskKind::kNone, 5);
      const int64_t shared[] = {0, 512, of_last};  // the first tokens of an item are those of the first
      for (int64_t b = 1; b < 3; ++b) {
        std::copy_n(p.key.begin(), shared[b] * 32, p.key.begin() + b * 700 * 32);
        std::copy_n(p.value.begin(), shared[b] * 32, p.value.begin() + b * 700 * 32);
      }
      const std::vector<int64_t> lengths = {700, 600, 513};
      Random random(6);
      Pages key(random, 64, PageOrder::kTokens, s, lengths, s.D), value = key;
      value.data = poisoned(value.num_pages * value.page_floats() + 1);
      for (int64_t b = 1; b < 3; ++b)
        for (int64_t n = 0; n < shared[b] / 64; ++n) key.table[b * key.stride + n] = key.table[n];
      value.table = key.table;
      key.fill(p.key, lengths, s.Tk), value.fill(p.value, lengths, s.Tk);
      AttentionCall call = p.args();
      call.items.key_lengths = lengths.data(), call.causal = 1, call.positions.align = MHA_ALIGN_END;
      const AttentionResult want = run_attention(context, call);
      const mha_pages pages = key.pages();
      call.pages = &pages, call.key = key.view(), call.value = value.view();
      check_same_results("shared", run_attention(context, call), want);
      std::vector<char> text(8192);
      mha_error error = {};
      require_ok(attention_explain(context, call, text.data(), text.size(), nullptr, &error), error);
      CHECK(std::string(text.data()).find("shared prefixes: 3 sequences in 1 groups") != std::string::npos);
      CHECK(std::string(text.data()).find("in the caller's pages of 64 tokens") != std::string::npos);
    }
  });
}

TEST_CASE("pages: tables and slots that are refused, nothing written", "[pages]") {
  const mha_context* context = shared_context(supported_targets()[0], 1);
  AttentionProblem p({2, 2, 2, 1, 40, 8, 8}, MaskKind::kNone, 5);
  int64_t lengths[] = {40, 17};
  std::vector<int32_t> table = {0, 1, 2, 3, 4, 99};  // of item 1 the third entry is beyond its length
  std::vector<float> key(5 * 16 * 2 * 8), value(key), output = poisoned(2 * 2 * 8);
  mha_pages pages = {};
  pages.table = table.data(), pages.page_size = 16, pages.num_pages = 5;
  AttentionCall call = p.args();
  call.items.key_lengths = lengths, call.pages = &pages;
  call.key = view(key.data()), call.value = view(value.data()), call.output = mut_view(output.data());
  mha_error error = {};
  const auto refused = [&](mha_status status, const char* text) {
    std::fill(output.begin(), output.end(), float_of_bits(kPoisonBits));
    CHECK(attention(context, call, &error) == status);
    INFO(error.message);
    CHECK(mentions(error, text));
    CHECK(std::all_of(output.begin(), output.end(), is_poison));
  };
  require_ok(attention(context, call, &error), error);
  table[4] = 5;
  refused(MHA_ERR_ARGUMENT, "pages.table[4] (page 1 of item 1) is 5: must be 0 to 4");
  table[4] = -1;
  refused(MHA_ERR_ARGUMENT, "is -1");
  table[4] = 4, pages.page_size = 0;
  refused(MHA_ERR_ARGUMENT, "pages.page_size");
  pages.page_size = 16, pages.table = nullptr;
  refused(MHA_ERR_NULL, "pages.table");
  pages.table = table.data(), call.items.key_lengths = nullptr;
  refused(MHA_ERR_NULL, "items.key_lengths");
  const int64_t offsets[] = {0, 20, 40};
  call.items.key_offsets = offsets;
  refused(MHA_ERR_ARGUMENT, "items.key_offsets is given, but keys are in pages");
  call.items.key_offsets = nullptr, call.items.key_lengths = lengths, lengths[1] = 41;
  refused(MHA_ERR_ARGUMENT, "items.key_lengths[1] is 41");
  lengths[1] = 17, pages.reserved[1] = 1;
  refused(MHA_ERR_ARGUMENT, "pages.reserved[1]");
  pages.reserved[1] = 0;

  int64_t slots[] = {3, -1, 80};
  std::vector<float> pool = poisoned((1 + 5) * 16 * 2 * 8);  // a page before the first, where slot -1 would be
  mha_rows_args rows = {};
  rows.batch = 1, rows.length = 3, rows.num_heads = 2, rows.head_dim = 8;
  rows.input = view(p.key.data()), rows.output = mut_view(pool.data() + 16 * 2 * 8);
  rows.slots = slots, rows.page_size = 16, rows.num_pages = 5;
  CHECK(mha_rows_prepare(context, &rows, &error) == MHA_ERR_ARGUMENT);
  CHECK(mentions(error, "slots[2] is 80: must be < num_pages * page_size (80)"));
  CHECK(std::all_of(pool.begin(), pool.end(), is_poison));
  slots[2] = 79;
  require_ok(mha_rows_prepare(context, &rows, &error), error);
  CHECK(std::count_if(pool.begin(), pool.end(), is_poison) == static_cast<int64_t>(pool.size()) - 2 * 16);
  rows.slots = nullptr;
  CHECK(mha_rows_prepare(context, &rows, &error) == MHA_ERR_ARGUMENT);
  CHECK(mentions(error, "slots is NULL"));
}
