// SPDX-License-Identifier: Apache-2.0
// Items of unequal length in one call: prefill and decode mixed, packed one after the other, give each item's own bits.
#include "tests/support/ragged.h"
#include "tests/support/seeds.h"

using namespace mha::test;

namespace {

/// Prefill and decode, empty items, lengths around the edges of chunks.
const std::vector<Lengths>& batches() {
  static const std::vector<Lengths> kBatches = {
      {{1, 300}, {1, 1}, {1, 1000}, {1, 257}},
      {{64, 64}, {512, 512}, {1, 700}, {17, 300}, {0, 50}, {3, 0}, {130, 1300}},
      {{0, 0}, {5, 5}, {0, 7}},
      {{300, 300}},
      {{30, 30}, {1, 1}, {300, 300}},
      {{40, 256}, {1, 4000}, {2, 30}},
  };
  return kBatches;
}

/// The item's rows of a packed result [Tq, row].
std::vector<float> rows_of(const std::vector<float>& all, int64_t begin, int64_t count, int64_t width) {
  return std::vector<float>(all.begin() + begin * width, all.begin() + (begin + count) * width);
}

/// Weights [heads][rows][Tk] of an item out of [all heads][all rows][longest], which must be zero beyond Tk.
std::vector<float> weights_of(const std::vector<float>& all, int64_t heads, int64_t all_rows, int64_t begin,
                              int64_t rows, int64_t longest, int64_t key_len) {
  std::vector<float> found;
  bool zeros = true;
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t r = begin; r < begin + rows; ++r) {
      const auto row = all.begin() + (h * all_rows + r) * longest;
      found.insert(found.end(), row, row + key_len);
      for (int64_t j = key_len; j < longest; ++j) zeros &= row[j] == 0.0f;
    }
  }
  CHECK(zeros);
  return found;
}

void check_item(const RaggedProblem& p, const AttentionResult& all, int64_t b, AttentionCall args,
                const mha_context* context) {
  args.batch = 1, args.query_len = p.query_len(b), args.key_len = p.key_len(b);
  const AttentionProblem& item = *p.items[b];
  args.query = view(item.query.data()), args.key = view(item.key.data()), args.value = view(item.value.data());
  args.items.query_offsets = nullptr, args.items.key_offsets = nullptr;
  if (args.items.key_lengths != nullptr) args.items.key_lengths += b;
  if (args.masks.bool_mask.data != nullptr) args.masks.bool_mask.data += b * args.masks.bool_mask.stride_b;
  if (args.query_len == 0) return;
  const AttentionResult want = run_attention(context, args);
  const std::string what = "item " + std::to_string(b) + " " + describe(item.shape);
  const AttentionShape& s = p.shape;
  const int64_t begin = p.query_offsets[b];
  check_same_bits(what + ": output", rows_of(all.output, begin, args.query_len, s.H * s.Dv), want.output);
  check_same_bits(what + ": log-sum-exp", rows_of(all.log_sum_exp, begin, args.query_len, s.H), want.log_sum_exp);
  if (args.results.weights_mode == MHA_WEIGHTS_NONE) return;
  const int64_t heads = args.results.weights_mode == MHA_WEIGHTS_AVERAGED ? 1 : s.H;
  check_same_bits(what + ": weights",
                  weights_of(all.weights, heads, s.Tq, begin, args.query_len, p.longest_key_len, args.key_len),
                  want.weights);
}

}  // namespace

TEST_CASE("ragged: a packed batch gives each item's own bits", "[ragged]") {
  for_each_target([](const std::string& target, const mha_context*) {
    Taken cases(2);
    for (size_t n = 0; n < batches().size(); ++n) {
      for (const mha_weights_mode mode : {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED}) {
        if (!cases.next()) continue;
        const bool grouped = n % 2 == 1;
        const RaggedProblem p(batches()[n], 4, grouped ? 2 : 4, grouped ? 24 : 64, grouped ? 40 : 64, n + 1);
        // The last fifth of each item's keys is hidden.
        std::vector<uint8_t> open(static_cast<size_t>(p.shape.B * p.longest_key_len), 1);
        for (int64_t b = 0; b < p.shape.B; ++b) {
          const int64_t length = p.key_len(b) - p.key_len(b) / 5;
          std::fill_n(open.begin() + b * p.longest_key_len + length, p.key_len(b) - length, 0);
        }
        for (const int64_t threads : {1, 2, 5}) {
          AttentionCall args = p.args();
          args.causal = threads == 2 ? 0 : 1;
          if (threads == 5) args.masks.bool_mask = {open.data(), p.longest_key_len, 0, 0, 1};
          args.results.weights_mode = mode;
          INFO("batch " << n << " threads " << threads << " mode " << mode);
          const AttentionResult all = run_ragged(shared_context(target, threads), args, p.longest_key_len);
          for (int64_t b = 0; b < p.shape.B; ++b) check_item(p, all, b, args, shared_context(target, 1));
        }
      }
    }
  });
}

TEST_CASE("ragged: queries packed beside keys of one length, and the other way round", "[ragged]") {
  for_each_target([](const std::string& target, const mha_context*) {
    const RaggedProblem p({{3, 200}, {40, 200}, {1, 200}}, 3, 3, 16, 16, 77);
    AttentionCall args = p.args();
    args.items.key_offsets = nullptr, args.key_len = 200;
    const AttentionResult queries = run_ragged(shared_context(target, 2), args, 200);
    for (int64_t b = 0; b < 3; ++b) check_item(p, queries, b, args, shared_context(target, 1));

    // Keys padded to one length: each item ends at its own.
    const int64_t key_lengths[] = {150, 200, 0};
    for (const mha_align align : {MHA_ALIGN_START, MHA_ALIGN_END}) {
      AttentionCall padded = args;
      padded.items.key_lengths = key_lengths;
      padded.causal = 1, padded.positions.align = align;
      const AttentionResult cut = run_ragged(shared_context(target, 2), padded, 200);
      for (int64_t b = 0; b < 3; ++b) check_item(p, cut, b, padded, shared_context(target, 1));
    }

    const RaggedProblem q({{7, 20}, {7, 0}, {7, 530}}, 3, 3, 16, 16, 78);
    args = q.args();
    args.items.query_offsets = nullptr, args.query_len = 7;
    const AttentionResult keys = run_ragged(shared_context(target, 2), args, 530);
    for (int64_t b = 0; b < 3; ++b) check_item(q, keys, b, args, shared_context(target, 1));
  });
}

TEST_CASE("ragged: widths that are no multiple of 16", "[ragged]") {
  for_each_target([](const std::string& target, const mha_context*) {
    const RaggedProblem p({{30, 30}, {1, 1}, {300, 300}}, 6, 2, 16, 24, 5);
    AttentionCall args = p.args();
    args.causal = 1;
    const AttentionResult all = run_ragged(shared_context(target, 1), args, 300);
    for (int64_t b = 0; b < 3; ++b) check_item(p, all, b, args, shared_context(target, 1));
  });
}

TEST_CASE("ragged: masks count within the item", "[ragged]") {
  for_each_target([](const std::string& target, const mha_context*) {
    const Lengths lengths = {{5, 40}, {1, 300}, {33, 90}};
    const RaggedProblem p(lengths, 2, 1, 32, 32, 5);
    std::vector<uint8_t> open(static_cast<size_t>(3 * 2 * 33 * 300));
    Random random(9);
    for (uint8_t& o : open) o = static_cast<uint8_t>(random.below(3));
    AttentionCall args = p.args();
    args.masks.bool_mask = {open.data(), 2 * 33 * 300, 33 * 300, 300, 1};
    const AttentionResult all = run_ragged(shared_context(target, 2), args, 300);
    for (int64_t b = 0; b < 3; ++b) check_item(p, all, b, args, shared_context(target, 1));
  });
}

TEST_CASE("weights: of some rows, and summed over queries", "[weights][ragged]") {
  for_each_target([](const std::string& target, const mha_context*) {
    const AttentionShape s = {2, 4, 2, 70, 300, 32, 32};
    const AttentionProblem p(s, MaskKind::kAll, 31);
    AttentionCall args = p.args();
    args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
    const AttentionResult full = run_attention(shared_context(target, 1), args);
    const std::vector<int64_t> rows = {0, 3, 4, 41, 69};
    const auto full_row = [&](int64_t b, int64_t h, int64_t i) {
      return full.weights.begin() + ((b * s.H + h) * s.Tq + i) * s.Tk;
    };
    for (const int64_t threads : {1, 3}) {
      const mha_context* context = shared_context(target, threads);
      choose_weights_rows(&args, rows.data(), static_cast<int64_t>(rows.size()));
      args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
      const AttentionResult some = run_ragged(context, args, s.Tk);
      std::vector<float> want;
      for (int64_t b = 0; b < s.B; ++b)
        for (int64_t h = 0; h < s.H; ++h)
          for (const int64_t i : rows) want.insert(want.end(), full_row(b, h, i), full_row(b, h, i) + s.Tk);
      check_same_bits("some rows", some.weights, want);
      check_same_bits("output beside them", some.output, full.output);

      for (const bool all_rows : {false, true}) {
        args.results.weights_mode = MHA_WEIGHTS_KEY_SUMS;
        if (all_rows) choose_weights_rows(&args, nullptr, 0);
        const AttentionResult sums = run_ragged(context, args, s.Tk);
        std::vector<float> sum(static_cast<size_t>(s.B * s.H * s.Tk));
        for (int64_t b = 0; b < s.B; ++b) {
          for (int64_t h = 0; h < s.H; ++h) {
            for (int64_t n = 0; n < (all_rows ? s.Tq : static_cast<int64_t>(rows.size())); ++n) {
              for (int64_t j = 0; j < s.Tk; ++j) {
                sum[(b * s.H + h) * s.Tk + j] += full_row(b, h, all_rows ? n : rows[n])[j];
              }
            }
          }
        }
        check_same_bits(all_rows ? "sums over queries" : "sums over some queries", sums.weights, sum);
      }
    }
    args.results.weights_mode = MHA_WEIGHTS_AVERAGED;
    const AttentionResult mean = run_attention(shared_context(target, 1), args);
    choose_weights_rows(&args, rows.data(), static_cast<int64_t>(rows.size()));
    const AttentionResult some = run_ragged(shared_context(target, 2), args, s.Tk);
    std::vector<float> want;
    for (int64_t b = 0; b < s.B; ++b)
      for (const int64_t i : rows) {
        const auto row = mean.weights.begin() + (b * s.Tq + i) * s.Tk;
        want.insert(want.end(), row, row + s.Tk);
      }
    check_same_bits("some rows of the mean", some.weights, want);
  });
}

TEST_CASE("ragged: weights of some rows, and their sums, are by item and not packed", "[ragged][weights]") {
  for_each_target([](const std::string& target, const mha_context*) {
    const RaggedProblem p({{5, 40}, {3, 7}, {30, 300}, {4, 0}}, 4, 2, 16, 16, 40);
    const std::vector<int64_t> rows = {0, 2};
    for (const mha_weights_mode mode : {MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED, MHA_WEIGHTS_KEY_SUMS}) {
      for (const bool chosen : {false, true}) {
        if (!chosen && mode != MHA_WEIGHTS_KEY_SUMS) continue;
        for (const int64_t threads : {1, 3}) {
          INFO("mode " << mode << (chosen ? " of chosen rows" : "") << " threads " << threads);
          AttentionCall args = p.args();
          args.results.weights_mode = mode;
          if (chosen) choose_weights_rows(&args, rows.data(), 2);
          const std::vector<float> all = run_ragged(shared_context(target, threads), args, p.longest_key_len).weights;
          const int64_t heads = mode == MHA_WEIGHTS_AVERAGED ? 1 : p.shape.H;
          const int64_t lines = heads * (mode == MHA_WEIGHTS_KEY_SUMS ? 1 : 2);  // of an item
          REQUIRE(static_cast<int64_t>(all.size()) == p.shape.B * lines * p.longest_key_len);
          std::vector<float> want;
          for (int64_t b = 0; b < p.shape.B; ++b) {
            AttentionCall item = args;
            item.batch = 1, item.query_len = p.query_len(b), item.key_len = p.key_len(b);
            item.query = view(p.items[b]->query.data());
            item.key = view(p.items[b]->key.data()), item.value = view(p.items[b]->value.data());
            item.items = {};
            const std::vector<float> own = run_ragged(shared_context(target, 1), item, item.key_len).weights;
            for (int64_t n = 0; n < lines; ++n) {
              want.insert(want.end(), own.begin() + n * item.key_len, own.begin() + (n + 1) * item.key_len);
              want.insert(want.end(), static_cast<size_t>(p.longest_key_len - item.key_len), 0.0f);
            }
          }
          check_same_bits("weights", all, want);
        }
      }
    }
  });
}

TEST_CASE("ragged: bad offsets and rows are refused by name", "[ragged][status]") {
  const RaggedProblem p({{3, 4}, {2, 6}}, 2, 2, 8, 8, 1);
  std::vector<float> output = poisoned(5 * 2 * 8), weights(5 * 2 * 6);
  const auto refused = [&](const std::string& text, auto change) {
    AttentionCall args = p.args();
    args.output = mut_view(output.data());
    change(args);
    mha_error error = {};
    CHECK(attention(shared_context(supported_targets()[0], 1), args, &error) == MHA_ERR_ARGUMENT);
    INFO(error.message);
    CHECK(mentions(error, text));
    for (const float value : output) CHECK(is_poison(value));
  };
  const int64_t late[] = {1, 3, 5}, falling[] = {0, 6, 5}, small[] = {0, 3, 4};
  refused("items.query_offsets[0] is 1", [&](AttentionCall& a) { a.items.query_offsets = late; });
  refused("items.query_offsets[2] is 5, less than the one before it (6)",
          [&](AttentionCall& a) { a.items.query_offsets = falling; });
  refused("items.query_offsets[2] is 4: must be query_len (5)",
          [&](AttentionCall& a) { a.items.query_offsets = small; });
  refused("items.key_offsets[2] is 4: must be key_len (10)", [&](AttentionCall& a) { a.items.key_offsets = small; });
  const int64_t lengths[] = {4, 6};
  refused("items.key_lengths is given", [&](AttentionCall& a) { a.items.key_lengths = lengths; });
  const int64_t beyond[] = {0, 2}, twice[] = {1, 1}, negative[] = {-1};
  const auto rows = [&](const int64_t* first, int64_t count) {
    return [&weights, first, count](AttentionCall& a) {
      a.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
      a.results.weights = mut_view(weights.data());
      choose_weights_rows(&a, first, count);
    };
  };
  refused("results.weights_rows[1] is 2: must be 0 to 1", rows(beyond, 2));
  refused("results.weights_rows[1] is 1, not more than", rows(twice, 2));
  // Chosen rows and sums of packed items are an item apart, so that a stride of 0 makes them overlap.
  for (const bool sums : {false, true}) {
    AttentionCall args = p.args();
    const int64_t first = 0;
    args.output = mut_view(output.data());
    args.results.weights_mode = sums ? MHA_WEIGHTS_KEY_SUMS : MHA_WEIGHTS_PER_HEAD;
    args.results.weights = mut_view(weights.data(), {0, 6, 6});
    if (!sums) choose_weights_rows(&args, &first, 1);
    mha_error error = {};
    CHECK(attention(shared_context(supported_targets()[0], 1), args, &error) == MHA_ERR_STRIDE);
    CHECK(mentions(error, "elements of the result overlap"));
  }
  refused("results.weights_rows[0] is -1", rows(negative, 1));
  refused("results.num_weights_rows is -1", rows(negative, -1));
  refused("results.weights_mode is 4",
          [&](AttentionCall& a) { a.results.weights_mode = static_cast<mha_weights_mode>(4); });
}
