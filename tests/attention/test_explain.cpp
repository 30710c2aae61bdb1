// SPDX-License-Identifier: Apache-2.0
// mha_*_explain: what it says of a call, that it says why, and how it fills a buffer.
#include <cmath>
#include <cstdlib>
#include <functional>

#include "core/mha.hpp"
#include "tests/support/caches.h"
#include "tests/support/layers.h"
#include "tests/support/ragged.h"
#include "tests/support/random_decode.h"
#include "tests/support/seeds.h"

using namespace mha::test;

namespace {

/// One of the explain calls with all but the buffer bound.
using Explain = std::function<mha_status(char* text, size_t capacity, size_t* needed, mha_error* error)>;

Explain of_attention(const mha_context* context, const AttentionCall& args) {
  return [=](char* text, size_t capacity, size_t* needed, mha_error* error) {
    return attention_explain(context, args, text, capacity, needed, error);
  };
}
Explain of_linear(const mha_context* context, const mha_linear* linear, const mha_linear_args& args) {
  return [=](char* text, size_t capacity, size_t* needed, mha_error* error) {
    return mha_linear_explain(context, linear, &args, text, capacity, needed, error);
  };
}
Explain of_layer(const mha_context* context, const mha_layer* layer, const LayerCall& args) {
  return [=](char* text, size_t capacity, size_t* needed, mha_error* error) {
    return layer_explain(context, layer, args, text, capacity, needed, error);
  };
}

std::string full_text(const Explain& explain) {
  size_t needed = 0;
  mha_error error = {};
  require_ok(explain(nullptr, 0, &needed, &error), error);
  std::vector<char> text(needed);
  require_ok(explain(text.data(), text.size(), nullptr, &error), error);
  REQUIRE(std::strlen(text.data()) + 1 == needed);
  return text.data();
}

std::string text_of(const mha_context* context, const AttentionCall& args) {
  return full_text(of_attention(context, args));
}

void check_has(const std::string& text, const std::string& part) {
  INFO(text << "lacks: " << part);
  CHECK(text.find(part) != std::string::npos);
}

/// The target and its reason, a "key: value" a line, and the buffer's end respected.
void check_form(const std::string& target, const Explain& explain) {
  const std::string full = full_text(explain);
  std::istringstream lines(full);
  int64_t count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    INFO(line);
    CHECK(line.find(": ") != std::string::npos);
  }
  CHECK(count >= 7);
  check_has(full, "target: " + target + "\n");
  check_has(full, target == default_target() ? "why this target: the best" : "why this target: asked for");
  check_has(full, "why so many threads: ");
  check_has(full, "fallback: none\n");
  for (size_t capacity : {size_t{1}, size_t{2}, size_t{10}, full.size(), full.size() + 1, full.size() + 50}) {
    std::vector<char> text(capacity + 8, 'z');
    size_t needed = 0;
    REQUIRE(explain(text.data(), capacity, &needed, nullptr) == MHA_OK);
    CHECK(needed == full.size() + 1);
    CHECK(std::string(text.data()) == full.substr(0, capacity - 1));
    CHECK(std::all_of(text.begin() + static_cast<int64_t>(capacity), text.end(), [](char c) { return c == 'z'; }));
  }
  mha_error error = {};
  CHECK(explain(nullptr, 5, nullptr, &error) == MHA_ERR_NULL);
  CHECK(mentions(error, "capacity is 5"));
}

/// A linear of zeros.
LinearPtr zeros(const mha_context* context, int64_t in_features, int64_t out_features) {
  const std::vector<float> weight(static_cast<size_t>(in_features * out_features));
  return make_linear(context, in_features, out_features, weight.data(), nullptr);
}

mha_linear_args rows_only(int64_t rows) {
  mha_linear_args args = {};
  args.rows = rows;
  return args;
}

}  // namespace

TEST_CASE("explain: attention, a key and value a line, cut where the buffer ends", "[explain]") {
  const AttentionProblem problem({1, 4, 2, 100, 600, 64, 64}, MaskKind::kNone, 150000);
  for_each_target([&](const std::string& target, const mha_context* context) {
    AttentionCall args = problem.args();
    check_form(target, of_attention(context, args));
    const std::string full = text_of(context, args);
    size_t bytes = 0;
    REQUIRE(attention_workspace_bytes(context, args, &bytes, nullptr) == MHA_OK);
    check_has(full, "workspace: " + std::to_string(bytes) + " bytes");
    // The same without data, as for the size query.
    args.query = args.key = args.value = {};
    CHECK(text_of(context, args) == full);
    args.query_len = 0;
    check_has(text_of(context, args), "work: none, a size is 0");
  });
}

TEST_CASE("explain: attention tells whether the chunks of a row are shared among threads, and why", "[explain]") {
  // The cases of test_bits.cpp rely on this: few rows over many chunks are cut, many heads are not.
  const AttentionProblem decode({1, 1, 1, 1, 42000, 64, 64}, MaskKind::kNone, 151000);
  const AttentionProblem prefill({1, 1, 1, 30, 42000, 64, 64}, MaskKind::kNone, 151004);
  const AttentionProblem heads({4, 8, 8, 40, 130, 32, 33}, MaskKind::kNone, 151001);
  const AttentionProblem blocks({4, 8, 8, 40, 400, 32, 33}, MaskKind::kNone, 151003);
  const AttentionProblem small({1, 1, 1, 1, 17, 1, 1}, MaskKind::kNone, 151002);
  const AttentionProblem few({64, 8, 4, 1, 3, 20, 20}, MaskKind::kNone, 151005);
  for_each_target(
      [&](const std::string&, const mha_context* context) {
        const std::string split = text_of(context, decode.args());
        check_has(split, "items: 165 of 165 chunks of keys, one per group of heads and chunk");
        check_has(split, "attention kernel: in place");
        check_has(split, "threads: 5 of 5, ");
        check_has(split, "partial results");
        const std::string cut = text_of(context, prefill.args());
        check_has(cut, "attention kernel: packed");
        check_has(cut, "one per block and chunk (165 chunks)");
        check_has(cut, "blocks are too few for 5 threads");
        check_has(cut, "partial results");
        const std::string whole = text_of(context, heads.args());
        check_has(whole, "one per block, over all 1 chunks of keys: one chunk cannot be split");
        check_has(whole, "threads: 5 of 5, ");
        check_has(text_of(context, blocks.args()), "over all 2 chunks of keys: enough blocks for the threads");
        const std::string one = text_of(context, small.args());
        check_has(one, "threads: 1 of 5, in the calling thread\n");
        check_has(one, "more threads would each get less");
        check_has(one, "one thread needs no split");
        const std::string rows = text_of(context, few.args());
        check_has(rows,
                  "\nattention kernel: few keys: keys and values are read where they are stored, 16 rows side by side");
        check_has(rows, "\nwhy few keys: all 2 rows for each key/value head (2 heads share one) see all 3 keys, of at");
        check_has(rows, "\nitems: 8 of at most 64 rows, of any heads");
      },
      5);
}

TEST_CASE("explain: heads, chunks or both are shared, and where neither can be one thread is enough", "[explain]") {
  const auto text = [](const mha_context* context, int64_t heads, int64_t kv_heads, int64_t keys, int64_t head_dim) {
    AttentionCall args;
    args.batch = args.query_len = 1, args.num_heads = heads, args.num_kv_heads = kv_heads;
    args.key_len = keys, args.head_dim = head_dim;
    return text_of(context, args);
  };
  for_each_target(
      [&](const std::string&, const mha_context* context) {
        const std::string halves = text(context, 32, 8, 257, 128);
        check_has(halves, "keys and values are read where they are stored, 4 key/value heads together");
        check_has(halves, "items: 2 of 2 chunks of keys, one per group of heads: threads share the heads\n");
        check_has(halves, "threads: 2 of 2, ");
        check_has(text(context, 32, 8, 10000, 128), "items: 40 of 40 chunks of keys, one per group of heads and chunk");
        check_has(text(context, 32, 8, 10000, 128), "threads share the chunks\n");
        const std::string both = text(context, 6, 6, 1000, 256);
        check_has(both, "threads share heads and chunks\n");
        // Enough work for two threads, but of one head and one chunk.
        const std::string one = text(context, 16, 1, 256, 256);
        check_has(one, "threads: 1 of 2, in the calling thread\n");
        check_has(one, "the work cannot be shared by more of them to a profit");
        check_has(one, "items: 1 of 1 chunks of keys");
      },
      2);
}

namespace {

/// The work that explain names, in million multiply-adds.
double work_in(const std::string& text) {
  const std::string before = "work of ";
  const size_t at = text.find(before);
  REQUIRE(at != std::string::npos);
  return std::strtod(text.c_str() + at + before.size(), nullptr);
}

}  // namespace

TEST_CASE("explain: a window's work is that of the keys a query sees, which decides how many threads", "[explain]") {
  enum Causal { kAny, kEnd, kOffset };
  struct Case {
    const char* what;
    Causal causal;
    int64_t left, right, sinks;
    bool prefix;
    int64_t seen;  // keys of a query at most, of 20000
  };
  const int64_t whole = 20000, far = int64_t{1} << 62;
  const Case cases[] = {{"causal alone counts all keys", kEnd, 0, 0, 0, false, whole},
                        {"left", kEnd, 300, 0, 0, false, 300},
                        {"left, offset", kOffset, 300, 0, 0, false, 300},
                        {"left and sinks", kEnd, 300, 0, 40, false, 340},
                        {"causality beside a right side", kEnd, 300, 90, 0, false, 300},
                        {"left and right", kAny, 300, 90, 0, false, 389},
                        {"left, right and sinks", kAny, 300, 90, 40, false, 429},
                        {"one key", kAny, 1, 1, 0, false, 1},
                        {"left alone, all after the query", kAny, 300, 0, 0, false, whole},
                        {"right alone, all before it", kAny, 0, 90, 0, false, whole},
                        {"a prefix shows any", kEnd, 300, 0, 0, true, whole},
                        {"left as long as the keys", kEnd, whole, 0, 0, false, whole},
                        {"left beyond them", kEnd, far, 0, 0, false, whole},
                        {"right beyond them", kAny, 300, far, 0, false, whole},
                        {"sinks beyond them", kEnd, 300, 0, far, false, whole},
                        {"all of them beyond, together beyond 2^63", kAny, far, far, far, false, whole},
                        {"together all", kAny, 10000, 9000, 2000, false, whole}};
  const std::vector<int64_t> prefixes = {0};
  // 4 heads, D 48, Dv 16. Few queries read keys and values, a byte for 1.5 multiply-adds; many compute.
  const AttentionProblem few({1, 4, 4, 2, whole, 48, 16}, MaskKind::kNone, 151200);
  const AttentionProblem many({1, 4, 4, 500, whole, 48, 16}, MaskKind::kNone, 151201);
  for_each_target(
      [&](const std::string&, const mha_context* context) {
        for (const Case& c : cases) {
          INFO(c.what);
          const auto with = [&](AttentionCall args) {
            args.causal = c.causal != kAny, args.masks.window_left = c.left, args.masks.window_right = c.right;
            if (c.causal == kOffset) {
              args.positions.align = MHA_ALIGN_OFFSET, args.positions.offset = whole - args.query_len;
            }
            args.masks.sink_tokens = c.sinks;
            if (c.prefix) args.masks.prefix_lengths = prefixes.data();
            return text_of(context, args);
          };
          // What n queries see together is n keys more at most.
          const auto work_of = [&](double queries) {
            const double keys = std::min<double>(whole, static_cast<double>(c.seen) + queries);
            const double read = keys * 4 * 64 * sizeof(float) * 1.5, computed = static_cast<double>(c.seen) * 4 * 64;
            return std::max(read, computed * queries) / 1e6;
          };
          CHECK(std::fabs(work_in(with(few.args())) / work_of(2) - 1) < 6e-3);  // three digits are printed
          CHECK(std::fabs(work_in(with(many.args())) / work_of(500) - 1) < 6e-3);
          const int64_t threads = std::max<int64_t>(1, std::min<int64_t>(64, static_cast<int64_t>(work_of(2) / 0.5)));
          check_has(with(few.args()), "threads: " + std::to_string(threads) + " of 64, ");
        }
      },
      64);
}

TEST_CASE("explain: masks and score modifications by name, no combination falls back", "[explain][masks][mods]") {
  const AttentionProblem prefill({1, 2, 1, 40, 600, 8, 8}, MaskKind::kNone, 151100);
  const AttentionProblem decode({1, 2, 1, 1, 600, 8, 8}, MaskKind::kNone, 151101);
  const int64_t numbers[2] = {0, 0}, lengths[1] = {500};
  const int32_t segments[1] = {0};
  const uint8_t bytes[1] = {1};
  const float floats[2] = {0, 0};
  struct Option {
    const char* name;
    std::function<void(AttentionCall&)> set;
  };
  const std::vector<Option> options = {
      {"causal", [](auto& a) { a.causal = 1; }},
      {"key lengths", [&](auto& a) { a.items.key_lengths = lengths, a.positions.align = MHA_ALIGN_END; }},
      {"window left", [](auto& a) { a.masks.window_left = 9; }},
      {"window right", [](auto& a) { a.masks.window_right = 9; }},
      {"window left, sink tokens", [](auto& a) { a.masks.window_left = 9, a.masks.sink_tokens = 2; }},
      {"prefix lengths", [&](auto& a) { a.masks.prefix_lengths = numbers; }},
      {"segments", [&](auto& a) { a.masks.query_segments = a.masks.key_segments = segments; }},
      {"block list",
       [&](auto& a) {
         a.masks.block_mask = {4, 4, numbers, 1};
       }},
      {"bits",
       [&](auto& a) {
         a.masks.bit_mask = {bytes, 0, 0, 0};
       }},
      {"bool",
       [&](auto& a) {
         a.masks.bool_mask = {bytes, 0, 0, 0};
       }},
      {"additive", [&](auto& a) { a.masks.add_mask = {floats}; }},
      {"softcap", [](auto& a) { a.score_mods.softcap = 5; }},
      {"ALiBi", [&](auto& a) { a.score_mods.alibi_slopes = floats; }},
      {"relative bias", [&](auto& a) { a.score_mods.relative_bias = floats; }},
      {"sink logits", [&](auto& a) { a.score_mods.sink_logits = floats; }},
  };
  for_each_target([&](const std::string&, const mha_context* context) {
    for (const AttentionProblem* problem : {&prefill, &decode}) {
      check_has(text_of(context, problem->args()), "masks: none\nscore changes: none\n");
      for (size_t n = 0; n < options.size(); ++n) {
        AttentionCall args = problem->args();
        options[n].set(args);
        const std::string key = n < 11 ? "masks: " : "score changes: ";
        check_has(text_of(context, args), key + options[n].name + "; in the attention kernel");
      }
      // Every subset that a bit pattern of the options names.
      for (uint32_t set = 0; set < 1u << options.size(); set += 37) {
        AttentionCall args = problem->args();
        for (size_t n = 0; n < options.size(); ++n)
          if (set >> n & 1) options[n].set(args);
        for (mha_weights_mode mode :
             {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED, MHA_WEIGHTS_KEY_SUMS}) {
          args.results.weights_mode = mode;
          const std::string text = text_of(context, args);
          if (text.find("\nfallback: none\n") == std::string::npos) FAIL_CHECK(text);
        }
      }
    }
  });
}

TEST_CASE("explain: weights by how they come about", "[explain][weights]") {
  const AttentionProblem problem({1, 2, 1, 40, 600, 8, 8}, MaskKind::kNone, 151200);
  const int64_t rows[] = {3, 7};
  for_each_target([&](const std::string&, const mha_context* context) {
    AttentionCall args = problem.args();
    check_has(text_of(context, args), "\nweights: not wanted\n");
    args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
    check_has(text_of(context, args), "\nweights: per head, left chunk by chunk on the way\n");
    choose_weights_rows(&args, rows, 2);
    check_has(text_of(context, args), "\nweights: per head of the chosen queries, by a second pass\n");
    args.results.weights_mode = MHA_WEIGHTS_AVERAGED;
    check_has(text_of(context, args), "\nweights: averaged of the chosen queries, by a second pass");
    choose_weights_rows(&args, nullptr, 0);
    args.results.weights_mode = MHA_WEIGHTS_KEY_SUMS;
    check_has(text_of(context, args), "\nweights: summed over queries, by a second pass");
  });
}

TEST_CASE("explain: packed items and caches, each by its own kernel, prefixes that are read once", "[explain][cache]") {
  const RaggedProblem p({{40, 600}, {1, 300}}, 4, 2, 16, 16, 151300);
  for_each_target([&](const std::string&, const mha_context* context) {
    AttentionCall args = p.args();
    const std::string packed = text_of(context, args);
    check_has(packed, "\nsequences: 2, of 1 to 40 queries and 300 to 600 keys; 0 have no queries");
    check_has(packed, "\nkeys and values: packed one after the other");
    check_has(packed, "\nattention kernel: in place for 1 sequences");
    check_has(packed, "\nfallback: none\n");
    CHECK(packed.find("cache") == std::string::npos);
    for (const mha_cache_kind kind : kCacheKinds) {
      mha_cache_config config = cache_config(kind, 2048, 3);
      config.head_dim = config.value_head_dim = 16;
      CachePtr cache = make_cache(context, config);
      mha_append_args append = {};
      append.batch = 2, append.length = 900, append.offsets = p.key_offsets.data();
      append.key = view(p.key.data()), append.value = view(p.value.data());
      mha_error error = {};
      require_ok(mha_cache_append(context, cache.get(), &append, &error), error);
      require_ok(mha_cache_fork(cache.get(), 0, 2, 512, &error), error);
      const int64_t alone[] = {0, 1}, forked[] = {0, 2};
      AttentionCall cached = args;
      cached.cache = cache.get(), cached.items.query_offsets = cached.items.key_offsets = nullptr;
      cached.query_len = 1, cached.key_len = 0;
      cached.key = cached.value = {};
      cached.items.sequences = alone;
      const std::string text = text_of(context, cached);
      check_has(text, std::string("\nkeys and values: in a ") + kind_name(kind) + " cache");
      check_has(text, "\nattention kernel: in place for 2 sequences");
      check_has(text, "\nshared prefixes: none\n");
      check_has(text, "\nfallback: none\n");
      cached.items.sequences = forked;
      check_has(text_of(context, cached),
                kind == MHA_CACHE_PAGED ? "shared prefixes: 2 sequences in 1 groups" : "shared prefixes: none");
    }
  });
}

TEST_CASE("explain: why so many threads, at the cost model's threshold", "[explain]") {
  // A thread for every half million multiply-adds: rows x 100 x 100 of them.
  for_each_target(
      [&](const std::string&, const mha_context* context) {
        const LinearPtr linear = zeros(context, 100, 100), large = zeros(context, 1000, 1000);
        const auto text = [&](int64_t rows) { return full_text(of_linear(context, linear.get(), rows_only(rows))); };
        check_has(text(99), "threads: 1 of 3, in the calling thread\n");
        check_has(text(99), "work of 0.99 million multiply-adds");
        check_has(text(99), "a thread for every 0.5 million; more threads would each get less");
        check_has(text(100), "threads: 2 of 3, ");
        check_has(text(100), "work of 1 million multiply-adds");
        // One row of a million weights: a byte read costs as much as 1.5 multiply-adds.
        check_has(full_text(of_linear(context, large.get(), rows_only(1))), "work of 6 million multiply-adds");
        check_has(text(150), "threads: 3 of 3, ");
        check_has(text(150), "enough for all of the context's");
      },
      3);
  const LinearPtr linear = zeros(shared_context(supported_targets()[0], 1), 1000, 1000);
  const std::string one = full_text(of_linear(shared_context(supported_targets()[0], 1), linear.get(), rows_only(50)));
  check_has(one, "threads: 1 of 1, in the calling thread\n");
  check_has(one, "the context has one");

  mha_context_options options = {};
  options.num_threads = 3;
  options.parallel_for.run = [](void*, int64_t, void (*)(void*, int64_t), void*) {};
  const ContextPtr host = make_context(options);
  check_has(full_text(of_linear(host.get(), linear.get(), rows_only(50))),
            "threads: 3 of 3, by the host's parallel-for");
}

TEST_CASE("explain: linear, kernel, tile, split and no workspace", "[explain][linear]") {
  for (int64_t threads : {1, 4}) {
    for_each_target(
        [&](const std::string& target, const mha_context* context) {
          const LinearPtr linear = zeros(context, 300, 1000);
          check_form(target, of_linear(context, linear.get(), rows_only(30)));
          const std::string text = full_text(of_linear(context, linear.get(), rows_only(30)));
          check_has(text, "linear kernel: packed GEMM, ");
          check_has(text, "product: 1 x 30 rows, 300 -> 1000 features; ");
          check_has(text, "rows whole");
          check_has(text, threads == 1 ? "1 items of at most 30 rows x 1000 columns" : "columns cut");
          check_has(text, threads == 1 ? "columns whole: one thread" : "threads: 4 of 4");
          check_has(text, "workspace: 0 bytes");
          check_has(full_text(of_linear(context, linear.get(), rows_only(5000))), "rows cut in blocks");
          check_has(full_text(of_linear(context, linear.get(), rows_only(0))), "work: none, a size is 0");
          const LinearPtr narrow = zeros(context, 100000, 3);
          check_has(full_text(of_linear(context, narrow.get(), rows_only(30))),
                    threads == 1 ? "columns whole: one thread" : "columns whole: no more items");
        },
        threads);
  }
}

TEST_CASE("explain: linear, wrong arguments", "[explain][linear][status]") {
  const mha_context* context = shared_context(supported_targets()[0], 1);
  const LinearPtr linear = zeros(context, 4, 5);
  mha_linear_args args = rows_only(3);
  mha_error error = {};
  size_t needed = 12345;
  const auto refused = [&](mha_status status, const char* part) {
    char text[] = "untouched";
    CHECK(mha_linear_explain(context, linear.get(), &args, text, sizeof text, &needed, &error) == status);
    INFO(error.message);
    CHECK(mentions(error, part));
    CHECK(std::string(text) == "untouched");
    CHECK(needed == 12345);
    args = rows_only(3);
  };
  args.rows = -1;
  refused(MHA_ERR_ARGUMENT, "rows is -1");
  args.input.stride_t = -2;
  refused(MHA_ERR_STRIDE, "input.stride_t is -2");
  args.output.stride_t = 4;
  refused(MHA_ERR_STRIDE, "output.stride_b, _t, _h are 0, 4, 0");
  args.output.stride_t = MHA_BROADCAST;
  refused(MHA_ERR_STRIDE, "output.stride_t is -1");
  args.rows = INT64_MAX / 8;
  refused(MHA_ERR_OVERFLOW, "input of 1 x 1152921504606846975 x 1 x 4");
  CHECK(mha_linear_explain(nullptr, linear.get(), &args, nullptr, 0, &needed, &error) == MHA_ERR_NULL);
  CHECK(mentions(error, "context is NULL"));
  CHECK(mha_linear_explain(context, nullptr, &args, nullptr, 0, &needed, &error) == MHA_ERR_NULL);
  CHECK(mentions(error, "linear is NULL"));
  CHECK(mha_linear_explain(context, linear.get(), nullptr, nullptr, 0, &needed, &error) == MHA_ERR_NULL);
  CHECK(mentions(error, "args is NULL"));
  // The call itself still wants its pointers.
  CHECK(mha_linear_forward(context, linear.get(), &args, &error) == MHA_ERR_NULL);
  CHECK(mentions(error, "input.data is NULL"));
}

TEST_CASE("explain: layer, every stage and why", "[explain][layer]") {
  const LayerProblem problem({20, 4, 0, 0, 0, 0, 0, 0, 0}, 1, 3, 17, Biases::kAll, 152000);
  const LayerProblem few({20, 4, 0, 0, 0, 0, 0, 0, 0}, 1, 3, 5, Biases::kAll, 152001);
  for_each_target([&](const std::string& target, const mha_context* context) {
    const LayerPtr layer = problem.make(context);
    const LayerCall args = problem.args();
    check_form(target, of_layer(context, layer.get(), args));
    const std::string full = full_text(of_layer(context, layer.get(), args));
    size_t bytes = 0;
    REQUIRE(layer_workspace_bytes(context, layer.get(), args, &bytes, nullptr) == MHA_OK);
    for (const char* part : {"query projection: 1 x 3 rows", "key projection: 1 x 17 rows",
                             "value projection: ", "output projection: ", "linear kernel: packed GEMM, ",
                             "attention kernel: in place: ", "columns whole: one thread", "one thread needs no split"})
      check_has(full, part);
    const LayerPtr small = few.make(context);
    check_has(full_text(of_layer(context, small.get(), few.args())), "\nattention kernel: few keys: ");
    check_has(full, "\nworkspace: " + std::to_string(bytes) + " bytes");
    char text[8];
    size_t needed = 0;
    CHECK(layer_explain(context, nullptr, args, text, 5, &needed, nullptr) == MHA_ERR_NULL);
    CHECK(layer_explain(nullptr, layer.get(), args, text, 5, &needed, nullptr) == MHA_ERR_NULL);
    CHECK(mha_layer_explain(context, layer.get(), nullptr, text, 5, &needed, nullptr) == MHA_ERR_NULL);
  });
}

namespace {

/// No fallback, the workspace of the size query, and nothing said of one item where items differ.
void check_supported(const Explain& explain, size_t bytes) {
  const std::string text = full_text(explain);
  const bool nothing = text.find("work: none") != std::string::npos;
  const auto has = [&](const std::string& part) { return text.find(part) != std::string::npos; };
  if (nothing) return;
  if (has("\nfallback: none\n") && has("\nworkspace: " + std::to_string(bytes) + " bytes")) return;
  FAIL_CHECK("fallback or another workspace than " << bytes << ":\n" << text);
}

}  // namespace

TEST_CASE("explain: random calls over caches, whatever is asked of them, never fall back", "[explain][cache]") {
  for (const uint64_t seed : seeds(155000, 300)) {
    Random random(seed);
    const RandomDecode d(random);
    INFO("seed " << seed << ": " << d.describe());
    const mha_context* context = random_context(random).get();
    size_t bytes = 0;
    mha_error error = {};
    const mha_status status = attention_workspace_bytes(context, d.args(), &bytes, &error);
    CHECK(status == (d.refused() ? MHA_ERR_ARGUMENT : MHA_OK));
    if (status != MHA_OK) {
      CHECK(attention_explain(context, d.args(), nullptr, 0, nullptr, &error) == status);
      continue;
    }
    check_supported(of_attention(context, d.args()), bytes);
    if (bytes == 0) continue;
    const std::string text = text_of(context, d.args());
    check_has(text, "sequences: " + std::to_string(d.B) + ", of ");
    check_has(text, std::string("keys and values: in a ") + kind_name(d.cache.config.kind));
  }
}

TEST_CASE("explain: random plain calls never fall back", "[explain]") {
  const mha_rope rope = {};
  mha_norm norm = {};
  norm.epsilon = 1e-5f;
  const int64_t rows[] = {0};
  for (const uint64_t seed : seeds(156000, 300)) {
    Random random(seed);
    const bool packs_queries = one_in(random, 4), packs_keys = one_in(random, 4);
    const int64_t B = packs_queries || packs_keys ? 2 : between(random, 1, 3);
    const AttentionShape s = {B, 4, 2, between(random, 1, 300), random_length(random, 1300), 8, 9};
    const AttentionProblem p(s, MaskKind::kNone, seed);
    const RandomMasks masks(random, s.B, s.H, s.Tq, s.Tk,
                            packs_keys ? RandomMasks::Lengths::kKnown : RandomMasks::Lengths::kAny);
    AttentionCall args = p.args();
    masks.get().put_into(&args);
    args.score_mods = masks.mods();
    args.results.weights_mode =
        one_of(random, {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED, MHA_WEIGHTS_KEY_SUMS});
    const bool chooses = args.results.weights_mode != MHA_WEIGHTS_NONE && (!packs_queries || s.Tq > 1);
    if (chooses && one_in(random, 2)) choose_weights_rows(&args, rows, 1);
    if (one_in(random, 2)) args.rope = &rope;
    if (one_in(random, 2)) args.query_norm = &norm;
    if (args.rope && args.items.key_lengths && args.positions.align == MHA_ALIGN_DEFAULT)
      args.positions.align = MHA_ALIGN_START;
    const int64_t queries[] = {0, s.Tq / 2, s.Tq}, keys[] = {0, s.Tk / 3, s.Tk};
    if (packs_queries) args.items.query_offsets = queries;
    if (packs_keys) args.items.key_offsets = keys;
    INFO("seed " << seed << ": " << describe(s) << masks.describe());
    const mha_context* context = random_context(random).get();
    size_t bytes = 0;
    mha_error error = {};
    require_ok(attention_workspace_bytes(context, args, &bytes, &error), error);
    check_supported(of_attention(context, args), bytes);
  }
}

TEST_CASE("explain: sequences of a cache by number, their groups, and a layer that appends",
          "[explain][cache][layer]") {
  const mha_context* context = shared_context(supported_targets()[0], 3);
  const AttentionShape s = {4, 8, 4, 0, 0, 5, 5};
  mha_cache_config config = cache_config(MHA_CACHE_PAGED, 4000, 4, 64);
  config.num_kv_heads = 4, config.head_dim = config.value_head_dim = 5;
  CachePtr cache = make_cache(context, config);
  require_append(cache.get(), 0, random_tokens(config, 600, 1));
  require_append(cache.get(), 3, random_tokens(config, 70, 2));
  mha_error error = {};
  require_ok(mha_cache_fork(cache.get(), 0, 1, 520, &error), error);
  AttentionCall args;
  const int64_t offsets[] = {0, 1, 3, 3, 43};
  args.batch = 4, args.num_heads = s.H, args.num_kv_heads = s.Hkv, args.head_dim = 5;
  args.query_len = 43, args.items.query_offsets = offsets;
  args.cache = cache.get();
  const std::string text = text_of(context, args);
  check_has(text, "sequences: 4, of 0 to 40 queries and 0 to 600 keys; 1 have no queries");
  check_has(text, "keys and values: in a paged cache, pages of 64 tokens\n");
  check_has(text, "attention kernel: in place for 2 sequences");
  check_has(text, "packed for 1 (");
  check_has(text, "shared prefixes: 2 sequences in 1 groups");
  check_has(text, "2 sequences are cut in chunks of 256 keys");
  args.results.weights_mode = MHA_WEIGHTS_KEY_SUMS;
  check_has(text_of(context, args), "weights: summed over queries, by a second pass");
  args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
  const int64_t rows[] = {0};
  choose_weights_rows(&args, rows, 0);
  check_has(text_of(context, args), "weights: per head of the chosen queries, by a second pass");

  const LayerProblem problem({20, 8, 4, 5, 5, 0, 0, 0, 0}, 1, 1, 1, Biases::kAll, 157000);
  const LayerPtr layer = problem.make(context);
  LayerCall forward;
  forward.batch = 4, forward.query_len = 43, forward.items.query_offsets = offsets, forward.cache = cache.get();
  size_t bytes = 0;
  require_ok(layer_workspace_bytes(context, layer.get(), forward, &bytes, &error), error);
  check_supported(of_layer(context, layer.get(), forward), bytes);
  const std::string grows = full_text(of_layer(context, layer.get(), forward));
  check_has(grows, "key projection: 1 x 43 rows");
  check_has(grows, "of 0 to 40 queries and 0 to 601 keys");
  check_has(grows, "pages of 64 tokens; those of this call are appended by a phase of their own");
}

TEST_CASE("explain: the C++ wrapper gives the same texts", "[explain][hpp]") {
  auto context = mha::Context::create();
  REQUIRE(context);
  const auto check_same = [](const std::string& want, auto&& wrapped) {
    auto needed = wrapped(mha::Span<char>());
    REQUIRE(needed);
    REQUIRE(*needed == want.size() + 1);
    std::vector<char> text(*needed);
    REQUIRE(wrapped(mha::Span<char>(text)));
    CHECK(want == text.data());
  };
  const AttentionProblem attention_problem({1, 4, 2, 3, 5, 8, 8}, MaskKind::kNone, 153000);
  AttentionCall args = attention_problem.args();
  check_same(text_of(context->get(), args),
             [&](mha::Span<char> text) { return context->attention_explain(args, text); });
  args.head_dim = -8;
  CHECK(context->attention_explain(args, {}).status().code() == MHA_ERR_ARGUMENT);

  const std::vector<float> weight(12);
  mha_linear_config linear_config = {};
  linear_config.in_features = 4, linear_config.out_features = 3;
  linear_config.weight = view(weight.data());
  auto linear = mha::Linear::create(*context, linear_config);
  REQUIRE(linear);
  check_same(full_text(of_linear(context->get(), linear->get(), rows_only(2))),
             [&](mha::Span<char> text) { return linear->explain(*context, rows_only(2), text); });
  CHECK(linear->explain(*context, rows_only(-2), {}).status().code() == MHA_ERR_ARGUMENT);

  const LayerProblem problem({20, 4, 0, 0, 0, 0, 0, 0, 0}, 1, 3, 5, Biases::kAll, 154000);
  auto layer = mha::Layer::create(*context, problem.config, problem.separate_weights());
  REQUIRE(layer);
  check_same(full_text(of_layer(context->get(), layer->get(), problem.args())),
             [&](mha::Span<char> text) { return layer->explain(*context, problem.args(), text); });
  CHECK(mha::Layer().explain(*context, problem.args(), {}).status().code() == MHA_ERR_NULL);
}
