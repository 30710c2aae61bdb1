// SPDX-License-Identifier: Apache-2.0
// Items of unequal length in one call: prefill and decode mixed, packed one after the other, give each item's own bits.
#include "support/ragged.h"

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

void check_item(const RaggedProblem& p, const AttentionResult& all, int64_t b, mha_attention_args args,
                const mha_context* context) {
  args.batch = 1, args.query_len = p.query_len(b), args.key_len = p.key_len(b);
  const AttentionProblem& item = *p.items[b];
  args.query.data = item.query.data(), args.key.data = item.key.data(), args.value.data = item.value.data();
  args.query_offsets = nullptr, args.key_offsets = nullptr;
  if (args.masks.key_lengths != nullptr) args.masks.key_lengths += b;
  if (args.query_len == 0) return;
  const AttentionResult want = run_attention(context, args);
  const std::string what = "item " + std::to_string(b) + " " + describe(item.shape);
  const AttentionShape& s = p.shape;
  const int64_t begin = p.query_offsets[b];
  check_same_bits(what + ": output", rows_of(all.output, begin, args.query_len, s.H * s.Dv), want.output);
  check_same_bits(what + ": log-sum-exp", rows_of(all.log_sum_exp, begin, args.query_len, s.H), want.log_sum_exp);
  if (args.weights_mode == MHA_WEIGHTS_NONE) return;
  const int64_t heads = args.weights_mode == MHA_WEIGHTS_AVERAGED ? 1 : s.H;
  check_same_bits(what + ": weights",
                  weights_of(all.weights, heads, s.Tq, begin, args.query_len, p.longest_key_len, args.key_len),
                  want.weights);
}

}  // namespace

TEST_CASE("ragged: a packed batch gives each item's own bits", "[ragged]") {
  for_each_target([](const std::string& target, const mha_context*) {
    for (size_t n = 0; n < batches().size(); ++n) {
      for (const mha_weights_mode mode : {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED}) {
        const bool grouped = n % 2 == 1;
        const RaggedProblem p(batches()[n], 4, grouped ? 2 : 4, grouped ? 24 : 64, grouped ? 40 : 64, n + 1);
        std::vector<int64_t> key_lengths;
        for (int64_t b = 0; b < p.shape.B; ++b) key_lengths.push_back(p.key_len(b) - p.key_len(b) / 5);
        for (const int64_t threads : {1, 2, 5}) {
          mha_attention_args args = p.args();
          args.masks.causal = threads == 2 ? MHA_CAUSAL_NONE : MHA_CAUSAL_BOTTOM_RIGHT;
          if (threads == 5) args.masks.key_lengths = key_lengths.data();
          args.weights_mode = mode;
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
    mha_attention_args args = p.args();
    args.key_offsets = nullptr, args.key_len = 200;
    const AttentionResult queries = run_ragged(shared_context(target, 2), args, 200);
    for (int64_t b = 0; b < 3; ++b) check_item(p, queries, b, args, shared_context(target, 1));

    const RaggedProblem q({{7, 20}, {7, 0}, {7, 530}}, 3, 3, 16, 16, 78);
    args = q.args();
    args.query_offsets = nullptr, args.query_len = 7;
    const AttentionResult keys = run_ragged(shared_context(target, 2), args, 530);
    for (int64_t b = 0; b < 3; ++b) check_item(q, keys, b, args, shared_context(target, 1));
  });
}

TEST_CASE("ragged: widths that are no multiple of 16", "[ragged]") {
  for_each_target([](const std::string& target, const mha_context*) {
    const RaggedProblem p({{30, 30}, {1, 1}, {300, 300}}, 6, 2, 16, 24, 5);
    mha_attention_args args = p.args();
    args.masks.causal = MHA_CAUSAL_BOTTOM_RIGHT;
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
    mha_attention_args args = p.args();
    args.masks.bool_mask = {open.data(), 2 * 33 * 300, 33 * 300, 300};
    const AttentionResult all = run_ragged(shared_context(target, 2), args, 300);
    for (int64_t b = 0; b < 3; ++b) {
      mha_attention_args one = args;
      one.masks.bool_mask.data += b * one.masks.bool_mask.stride_b;
      check_item(p, all, b, one, shared_context(target, 1));
    }
  });
}

TEST_CASE("weights: of some rows, and summed over queries", "[weights][ragged]") {
  for_each_target([](const std::string& target, const mha_context*) {
    const AttentionShape s = {2, 4, 2, 70, 300, 32, 32};
    const AttentionProblem p(s, MaskKind::kAll, 31);
    mha_attention_args args = p.args();
    args.weights_mode = MHA_WEIGHTS_PER_HEAD;
    const AttentionResult full = run_attention(shared_context(target, 1), args);
    const std::vector<int64_t> rows = {0, 3, 4, 41, 69};
    const auto full_row = [&](int64_t b, int64_t h, int64_t i) {
      return full.weights.begin() + ((b * s.H + h) * s.Tq + i) * s.Tk;
    };
    for (const int64_t threads : {1, 3}) {
      const mha_context* context = shared_context(target, threads);
      args.weight_rows = {rows.data(), static_cast<int64_t>(rows.size())};
      args.weights_mode = MHA_WEIGHTS_PER_HEAD;
      const AttentionResult some = run_ragged(context, args, s.Tk);
      std::vector<float> want;
      for (int64_t b = 0; b < s.B; ++b)
        for (int64_t h = 0; h < s.H; ++h)
          for (const int64_t i : rows) want.insert(want.end(), full_row(b, h, i), full_row(b, h, i) + s.Tk);
      check_same_bits("some rows", some.weights, want);
      check_same_bits("output beside them", some.output, full.output);

      for (const bool all_rows : {false, true}) {
        args.weights_mode = MHA_WEIGHTS_KEY_SUMS;
        if (all_rows) args.weight_rows = {};
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
    args.weights_mode = MHA_WEIGHTS_AVERAGED;
    const AttentionResult mean = run_attention(shared_context(target, 1), args);
    args.weight_rows = {rows.data(), static_cast<int64_t>(rows.size())};
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
          mha_attention_args args = p.args();
          args.weights_mode = mode;
          if (chosen) args.weight_rows = {rows.data(), 2};
          const std::vector<float> all = run_ragged(shared_context(target, threads), args, p.longest_key_len).weights;
          const int64_t heads = mode == MHA_WEIGHTS_AVERAGED ? 1 : p.shape.H;
          const int64_t lines = heads * (mode == MHA_WEIGHTS_KEY_SUMS ? 1 : 2);  // of an item
          REQUIRE(static_cast<int64_t>(all.size()) == p.shape.B * lines * p.longest_key_len);
          std::vector<float> want;
          for (int64_t b = 0; b < p.shape.B; ++b) {
            mha_attention_args item = args;
            item.batch = 1, item.query_len = p.query_len(b), item.key_len = p.key_len(b);
            item.query.data = p.items[b]->query.data();
            item.key.data = p.items[b]->key.data(), item.value.data = p.items[b]->value.data();
            item.query_offsets = nullptr, item.key_offsets = nullptr;
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
    mha_attention_args args = p.args();
    args.output = {output.data(), 0, 0, 0, 0};
    change(args);
    mha_error error = {};
    CHECK(mha_attention(shared_context(supported_targets()[0], 1), &args, &error) == MHA_ERR_ARGUMENT);
    INFO(error.message);
    CHECK(mentions(error, text));
    for (const float value : output) CHECK(is_poison(value));
  };
  const int64_t late[] = {1, 3, 5}, falling[] = {0, 6, 5}, small[] = {0, 3, 4};
  refused("query_offsets[0] is 1", [&](mha_attention_args& a) { a.query_offsets = late; });
  refused("query_offsets[2] is 5, less than the one before it (6)",
          [&](mha_attention_args& a) { a.query_offsets = falling; });
  refused("query_offsets[2] is 4: must be query_len (5)", [&](mha_attention_args& a) { a.query_offsets = small; });
  refused("key_offsets[2] is 4: must be key_len (10)", [&](mha_attention_args& a) { a.key_offsets = small; });
  const int64_t beyond[] = {0, 2}, twice[] = {1, 1}, negative[] = {-1};
  const auto rows = [&](const int64_t* first, int64_t count) {
    return [&weights, first, count](mha_attention_args& a) {
      a.weights_mode = MHA_WEIGHTS_PER_HEAD;
      a.weights = {weights.data(), 0, 0, 0, 0};
      a.weight_rows = {first, count};
    };
  };
  refused("weight_rows.rows[1] is 2: must be 0 to 1", rows(beyond, 2));
  refused("weight_rows.rows[1] is 1, not more than", rows(twice, 2));
  refused("weight_rows.rows[0] is -1", rows(negative, 1));
  refused("weight_rows.count is -1", rows(negative, -1));
  const int64_t short_first[] = {0, 2, 5};
  refused("weight_rows.rows[1] is 2: must be 0 to 1", [&](mha_attention_args& a) {
    rows(beyond, 2)(a);
    a.query_offsets = short_first;  // the shortest item is not the last
  });
  // Chosen rows and sums of packed items are an item apart, so that a stride of 0 makes them overlap.
  for (const bool sums : {false, true}) {
    mha_attention_args args = p.args();
    const int64_t first = 0;
    args.output = {output.data(), 0, 0, 0, 0};
    args.weights_mode = sums ? MHA_WEIGHTS_KEY_SUMS : MHA_WEIGHTS_PER_HEAD;
    args.weights = {weights.data(), 0, 6, 6, 1};
    if (!sums) args.weight_rows = {&first, 1};
    mha_error error = {};
    CHECK(mha_attention(shared_context(supported_targets()[0], 1), &args, &error) == MHA_ERR_STRIDE);
    CHECK(mentions(error, "elements of the result overlap"));
  }
  refused("weights_mode is 4", [&](mha_attention_args& a) { a.weights_mode = static_cast<mha_weights_mode>(4); });
}
