// SPDX-License-Identifier: Apache-2.0
// Memory that calls share: output in query's own place gives the bits of an output elsewhere, on every path; any other
// overlap that is certain is refused and nothing is written; tensors that only interleave are neither refused nor hurt.
#include <functional>
#include <thread>

#include "tests/support/cache_layouts.h"
#include "tests/support/layers.h"
#include "tests/support/ragged.h"
#include "tests/support/seeds.h"
#include "tests/support/status.h"

using namespace mha::test;

namespace {

void run_on_threads(void*, int64_t count, void (*task)(void*, int64_t), void* data) {
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < count; ++i) threads.emplace_back(task, data, i);
  for (std::thread& thread : threads) thread.join();
}

/// body(context) on one thread, three, and five of a host's, for every target.
template <class Body>
void for_each_context(Body&& body) {
  for (const std::string& target : supported_targets()) {
    mha_context_options options = {};
    options.target = target.c_str();
    options.num_threads = 5;
    options.parallel_for.run = run_on_threads;
    const ContextPtr host = make_context(options);
    const mha_context* const contexts[] = {shared_context(target, 1), shared_context(target, 3), host.get()};
    for (const mha_context* context : contexts) {
      INFO("target " << target << " threads " << mha_context_num_threads(context));
      body(context);
    }
  }
}

/// Layouts of a tensor, with room for `width` elements a row.
Strides layout(int number, Extent e, int64_t width) {
  e.d = width;
  return number % 3 == 0 ? dense_bthd(e) : number % 3 == 1 ? dense_bhtd(e) : padded_bthd(e, 3);
}

/// The tensor `query`, which a call overwrites with its output: rows of q.d elements read, of `out_width` written.
class Shared {
 public:
  Shared(const std::vector<float>& query, const Extent& q, int64_t out_width, int layout_number)
      : query_(query),
        read_(q),
        written_{q.b, q.t, q.h, out_width},
        place_({q.b, q.t, q.h, std::max(q.d, out_width)}, layout(layout_number, q, std::max(q.d, out_width)), 1) {
    for_each(read_, [&](float& element, size_t n) { element = query[n]; });
  }
  mha_view query() const { return place_.view(); }
  mha_mut_view output() { return place_.mut_view(); }
  std::vector<float> result() {
    std::vector<float> dense(static_cast<size_t>(written_.count()));
    for_each(written_, [&](float& element, size_t n) { dense[n] = element; });
    return dense;
  }
  /// Neither gaps nor what a query's row has beyond the output's.
  bool others_intact() {
    bool intact = place_.gaps_intact();
    for_each(read_, [&](float& element, size_t n) {
      const bool beyond = static_cast<int64_t>(n) % read_.d >= written_.d;
      intact = intact && (!beyond || bits_of(element) == bits_of(query_[n]));
    });
    return intact;
  }

 private:
  template <class F>
  void for_each(const Extent& e, F&& f) {
    size_t n = 0;
    for (int64_t b = 0; b < e.b; ++b)
      for (int64_t t = 0; t < e.t; ++t)
        for (int64_t h = 0; h < e.h; ++h)
          for (int64_t d = 0; d < e.d; ++d) f(place_.at(b, t, h, d), n++);
  }

  const std::vector<float>& query_;
  Extent read_, written_;
  Placed place_;
};

/// The call with its output elsewhere and in the query's place comes to the same results.
void check_in_place(const mha_context* context, const AttentionCall& args, const std::vector<float>& query,
                    int64_t longest_key_len, int layout_number) {
  const AttentionResult want = run_ragged(context, args, longest_key_len);
  const bool packed = args.items.query_offsets != nullptr;
  Shared shared(query, {packed ? 1 : args.batch, args.query_len, args.num_heads, args.head_dim}, args.value_head_dim,
                layout_number);
  AttentionCall in_place = args;
  in_place.query = shared.query(), in_place.output = shared.output();
  AttentionResult got;
  got.weights = poisoned(static_cast<int64_t>(want.weights.size()));
  got.log_sum_exp = poisoned(static_cast<int64_t>(want.log_sum_exp.size()));
  if (args.results.weights_mode != MHA_WEIGHTS_NONE) in_place.results.weights = mut_view(got.weights.data());
  in_place.results.log_sum_exp = got.log_sum_exp.data();
  call_attention(context, in_place);
  got.output = shared.result();
  check_same_results("in place", got, want);
  CHECK(shared.others_intact());
}

/// What may be wanted beside the output, by number: each mode of weights, of all queries and of chosen ones.
constexpr int kWanted = 7;
void want_results(AttentionCall* args, int number, const std::vector<int64_t>& rows) {
  const mha_weights_mode modes[] = {MHA_WEIGHTS_NONE,     MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED,
                                    MHA_WEIGHTS_KEY_SUMS, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED,
                                    MHA_WEIGHTS_KEY_SUMS};
  args->results.weights_mode = modes[number];
  if (number > 3) choose_weights_rows(args, rows.data(), static_cast<int64_t>(rows.size()));
}

struct Case {
  AttentionShape shape;
  MaskKind kind;
};

const Case kCases[] = {
    {{1, 1, 1, 1, 42000, 64, 64}, MaskKind::kNone},         {{1, 2, 1, 3, 7000, 40, 40}, MaskKind::kBool},
    {{1, 1, 1, 70, 600, 64, 64}, MaskKind::kCausal},        {{4, 8, 8, 40, 130, 32, 32}, MaskKind::kLengths},
    {{2, 4, 2, 66, 300, 33, 17}, MaskKind::kAll},           {{2, 3, 1, 5, 513, 7, 13}, MaskKind::kAdd},
    {{1, 4, 4, 128, 1024, 8, 16}, MaskKind::kNone},         {{1, 1, 1, 600, 2000, 16, 16}, MaskKind::kOffsetPositive},
    {{1, 32, 8, 1, 600, 64, 64}, MaskKind::kNone},          {{3, 2, 2, 2, 0, 8, 8}, MaskKind::kNone},
    {{2, 2, 2, 24, 30, 20, 20}, MaskKind::kOffsetNegative}, {{2, 3, 1, 3, 5, 12, 12}, MaskKind::kNone},
    {{1, 2, 1, 40, 600, 96, 80}, MaskKind::kNone},          {{1, 8, 2, 1, 600, 128, 128}, MaskKind::kNone},
};

}  // namespace

TEST_CASE("overlap: output in query's place, every path and result", "[overlap][bits]") {
  uint64_t seed = 190000;
  std::string seen;
  Taken cases;
  for (const Case& c : kCases) {
    const AttentionShape& s = c.shape;
    const AttentionProblem problem(s, c.kind, ++seed);
    const std::vector<int64_t> rows = s.Tq > 1 ? std::vector<int64_t>{0, s.Tq - 1} : std::vector<int64_t>{0};
    mha_norm norm = {};
    norm.epsilon = 1e-5f;
    mha_rope rope = {};
    rope.dims = s.D / 2 * 2;
    for (int wanted = 0; wanted < kWanted; ++wanted) {
      for (bool prepared : {false, true}) {
        AttentionCall args = problem.args();
        want_results(&args, wanted, rows);
        if (prepared) {
          args.query_norm = &norm, args.rope = &rope;
          args.positions.align = MHA_ALIGN_OFFSET;  // at positions that rope can have
          if (c.kind == MaskKind::kOffsetNegative) args.positions.offset = 0;
          if (args.positions.offset < 0) args.positions.offset = 3;
        }
        INFO(describe(s, c.kind) << " results " << wanted << (prepared ? " rope, norm" : ""));
        const bool taken = cases.next();
        for_each_context([&](const mha_context* context) {
          if (taken) check_in_place(context, args, problem.query, s.Tk, wanted + prepared);
          char text[4096] = "";
          REQUIRE(attention_explain(context, args, text, sizeof text, nullptr) == MHA_OK);
          seen += text;
        });
      }
    }
  }
  // Paths that the cases are to take.
  for (const char* way :
       {"attention kernel: in place", "attention kernel: packed", "attention kernel: few keys",
        "one per block and chunk", "partial results", "chunk by chunk on the way", "by a second pass"}) {
    INFO(way);
    CHECK(seen.find(way) != std::string::npos);
  }
}

TEST_CASE("overlap: output in query's place, heads of any width, in each arithmetic of floats",
          "[overlap][bits][bf16]") {
  for (const int64_t width : {48, 64, 80, 128, 200}) {
    for (const int64_t queries : {1, 5, 17, 40}) {
      for (const int64_t keys : {200, 600}) {
        const AttentionShape s = {1, 2, 1, queries, keys, width, width};
        const AttentionProblem problem(s, MaskKind::kNone, 190900 + static_cast<uint64_t>(width + queries));
        for (const mha_arithmetic arithmetic : {MHA_ARITHMETIC_F32, MHA_ARITHMETIC_BF16}) {
          AttentionCall args = problem.args();
          args.arithmetic = arithmetic;
          for (const std::string& target : targets_of(arithmetic)) {
            INFO(target << " arithmetic " << arithmetic << " Tq " << queries << " Tk " << keys << " D " << width);
            check_in_place(shared_context(target, 1), args, problem.query, keys, 0);
            check_in_place(shared_context(target, 3), args, problem.query, keys, 1);
          }
        }
      }
    }
  }
}

TEST_CASE("overlap: output in query's place, packed items and caches", "[overlap][bits][cache]") {
  const RaggedProblem p({{40, 600}, {1, 300}, {0, 5}, {7, 0}, {300, 520}}, 4, 2, 16, 16, 191000);
  const std::vector<int64_t> none;
  mha_norm norm = {};
  norm.epsilon = 1e-5f;
  mha_rope rope = {};
  rope.dims = 6;
  for (int wanted = 0; wanted < 4; ++wanted) {
    INFO("results " << wanted);
    AttentionCall args = p.args();
    args.causal = 1, args.positions.align = MHA_ALIGN_START;
    args.query_norm = &norm, args.rope = &rope;
    want_results(&args, wanted, none);
    for_each_context([&](const mha_context* context) {
      check_in_place(context, args, p.query, p.longest_key_len, wanted);
      for (const CacheLayout& cache_layout : kCacheLayouts) {
        INFO(cache_layout.name());
        CachePtr cache = make_cache(context, cache_config(cache_layout, p.shape, p.shape.B, p.longest_key_len));
        for (int64_t b = 0; b < p.shape.B; ++b)
          append(context, cache.get(), b, p.key_len(b), p.items[static_cast<size_t>(b)]->key.data(),
                 p.items[static_cast<size_t>(b)]->value.data());
        AttentionCall cached = args;
        cached.key = cached.value = {};
        cached.key_len = 0, cached.items.key_offsets = nullptr, cached.cache = cache.get();
        check_in_place(context, cached, p.query, p.longest_key_len, wanted);
      }
    });
  }
}

namespace {

/// A layer call with output elsewhere, then in the query's place; `prepare` runs before each.
void check_layer_in_place(
    const mha_context* context, const mha_layer* layer, const LayerCall& args, const LayerProblem& p,
    const std::function<void()>& prepare = [] {}) {
  prepare();
  const LayerResult want = run_layer(context, layer, args);
  for (int number : {0, 2}) {
    prepare();
    Shared shared(p.query, {args.batch, args.query_len, 1, p.config.embed_dim}, p.config.embed_dim, number);
    LayerCall in_place = args;
    in_place.query = shared.query(), in_place.output = shared.output();
    in_place.query.stride_h = in_place.output.stride_h = 0;
    std::vector<float> weights = poisoned(static_cast<int64_t>(want.weights.size()));
    if (!weights.empty()) in_place.results.weights = mut_view(weights.data());
    mha_error error = {};
    require_ok(layer_forward(context, layer, in_place, &error), error);
    check_same_bits("output", shared.result(), want.output);
    check_same_bits("weights", weights, want.weights);
    CHECK(shared.others_intact());
  }
}

}  // namespace

TEST_CASE("overlap: output in query's place, layers", "[overlap][bits][layer]") {
  const mha_layer_config config = {40, 4, 2, 12, 20, 0, 0, 0, 0};
  Taken cases(2);
  for (const auto& lengths : {std::pair<int64_t, int64_t>{1, 1}, {9, 9}, {300, 300}, {5, 1500}}) {
    const int64_t Tq = lengths.first, Tk = lengths.second;
    const LayerProblem p(config, 2, Tq, Tk, Biases::kAll, 192000);
    mha_norm norm = {};
    norm.epsilon = 1e-5f;
    const mha_rope rope = {};
    for (const mha_weights_mode mode : {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED}) {
      for (const bool prepared : {false, true}) {
        if (!cases.next()) continue;
        INFO("Tq " << Tq << " Tk " << Tk << " weights " << mode << (prepared ? " rope, norms" : ""));
        LayerCall args = p.args();
        args.results.weights_mode = mode, args.causal = 1;
        args.positions.align = MHA_ALIGN_START;
        if (prepared) args.rope = &rope, args.query_norm = args.key_norm = &norm;
        for_each_context([&](const mha_context* context) {
          const LayerPtr layer = p.make(context);
          check_layer_in_place(context, layer.get(), args, p);  // keys and values of their own
          LayerCall key_alone = args;
          key_alone.value = {};
          check_layer_in_place(context, layer.get(), key_alone, p);
          if (Tq != Tk) return;
          LayerCall self = args;
          self.key = self.value = {};
          check_layer_in_place(context, layer.get(), self, p);
          self.value = args.value;  // keys of the query, values given
          check_layer_in_place(context, layer.get(), self, p);
        });
      }
    }
  }
}

TEST_CASE("overlap: output in query's place, layers that append to a cache", "[overlap][bits][layer][cache]") {
  const mha_layer_config config = {40, 4, 2, 12, 20, 0, 0, 0, 0};
  const LayerProblem p(config, 2, 7, 7, Biases::kAll, 193000);
  const mha_rope rope = {};
  for_each_context([&](const mha_context* context) {
    const LayerPtr layer = p.make(context);
    for (const mha_cache_kind kind : kCacheKinds) {
      mha_cache_config sizes = cache_config(kind, 128, 2);
      sizes.head_dim = 12, sizes.value_head_dim = 20;
      CachePtr cache = make_cache(context, sizes);
      require_append(cache.get(), 0, random_tokens(config_of(cache.get()), 20, 193001));
      LayerCall args;
      args.batch = 2, args.query_len = 7, args.query = p.args().query, args.causal = 1;
      args.cache = cache.get(), args.rope = &rope;
      check_layer_in_place(context, layer.get(), args, p, [&] {
        for (int64_t b : {0, 1}) REQUIRE(mha_cache_truncate(cache.get(), b, b == 0 ? 20 : 0, nullptr) == MHA_OK);
      });
    }
  });
}

namespace {

/// One block of floats in which a call's tensors have their places, at offsets of a mistake's choice.
struct Arena {
  static constexpr int64_t kQuery = 100, kKey = 300, kValue = 500, kOutput = 700, kWeights = 1000, kLse = 1100;
  std::vector<float> floats = random_floats(1300, 194000), before = floats;
  AttentionCall args;

  float* at(int64_t offset) { return floats.data() + offset; }
  Arena() {
    args.batch = 1, args.num_heads = 2, args.query_len = args.key_len = 4, args.head_dim = 8;  // 64 floats each
    args.query = view(at(kQuery)), args.key = view(at(kKey)), args.value = view(at(kValue));
    args.output = mut_view(at(kOutput));
    args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
    args.results.weights = mut_view(at(kWeights));  // 32 floats
    args.results.log_sum_exp = at(kLse);            // 8 floats
  }
  bool untouched() const { return std::memcmp(floats.data(), before.data(), floats.size() * sizeof(float)) == 0; }
};

struct Overlap {
  std::string message;  // empty: allowed
  std::function<void(Arena&)> make;
};

const Overlap kOverlaps[] = {
    {"", [](Arena&) {}},
    {"output overlaps key", [](Arena& a) { a.args.output = mut_view(a.at(a.kKey)); }},
    {"output overlaps value", [](Arena& a) { a.args.output = mut_view(a.at(a.kValue)); }},
    {"output overlaps query", [](Arena& a) { a.args.output = mut_view(a.at(a.kQuery + 1)); }},
    {"output overlaps query", [](Arena& a) { a.args.output = mut_view(a.at(a.kQuery + 63)); }},
    {"output overlaps query", [](Arena& a) { a.args.output = mut_view(a.at(a.kQuery - 63)); }},
    {"", [](Arena& a) { a.args.output = mut_view(a.at(a.kQuery + 64)); }},
    {"", [](Arena& a) { a.args.output = mut_view(a.at(a.kQuery - 64)); }},
    {"", [](Arena& a) { a.args.output = mut_view(a.at(a.kQuery)); }},
    // The query's place, with other strides.
    {"output overlaps query",
     [](Arena& a) {
       a.args.output = mut_view(a.at(a.kQuery), {64, 8, 32});
     }},
    {"output overlaps query",
     [](Arena& a) {
       a.args.query = view(a.at(a.kOutput), {64, 17, 8});
     }},
    // The strides of a dense tensor said in numbers are the same strides.
    {"",
     [](Arena& a) {
       a.args.output = mut_view(a.at(a.kQuery), {64, 16, 8});
     }},
    // One with gaps, an end of which is inside of one without.
    {"output overlaps key",
     [](Arena& a) {
       a.args.output = mut_view(a.at(a.kKey + 60), {0, 40, 20});
     }},
    {"output overlaps key",
     [](Arena& a) {
       a.args.output = mut_view(a.at(a.kKey - 140), {0, 40, 20});
     }},
    {"output overlaps value",
     [](Arena& a) {
       a.args.value = view(a.at(a.kOutput + 60), {0, 40, 20});
     }},
    {"output overlaps value",
     [](Arena& a) {
       a.args.value = view(a.at(a.kOutput - 140), {0, 40, 20});
     }},
    // A row that is read again and again is one row.
    {"output overlaps key",
     [](Arena& a) {
       a.args.key = view(a.at(a.kOutput + 60), {-1, -1, -1});
     }},
    {"",
     [](Arena& a) {
       a.args.key = view(a.at(a.kOutput + 64), {-1, -1, -1});
     }},
    {"",
     [](Arena& a) {
       a.args.key = view(a.at(a.kOutput - 8), {-1, -1, -1});
     }},
    {"results.log_sum_exp overlaps query", [](Arena& a) { a.args.results.log_sum_exp = a.at(a.kQuery); }},
    {"results.log_sum_exp overlaps key", [](Arena& a) { a.args.results.log_sum_exp = a.at(a.kKey + 63); }},
    {"results.log_sum_exp overlaps value", [](Arena& a) { a.args.results.log_sum_exp = a.at(a.kValue - 7); }},
    {"", [](Arena& a) { a.args.results.log_sum_exp = a.at(a.kValue - 8); }},
    {"results.log_sum_exp overlaps output", [](Arena& a) { a.args.results.log_sum_exp = a.at(a.kOutput + 20); }},
    {"results.log_sum_exp overlaps query",
     [](Arena& a) { a.args.output = mut_view(a.at(a.kQuery)), a.args.results.log_sum_exp = a.at(a.kQuery + 8); }},
    {"results.weights overlaps query", [](Arena& a) { a.args.results.weights = mut_view(a.at(a.kQuery - 31)); }},
    {"results.weights overlaps key", [](Arena& a) { a.args.results.weights = mut_view(a.at(a.kKey)); }},
    {"results.weights overlaps value", [](Arena& a) { a.args.results.weights = mut_view(a.at(a.kValue + 10)); }},
    {"results.weights overlaps output", [](Arena& a) { a.args.results.weights = mut_view(a.at(a.kOutput - 1)); }},
    {"results.weights overlaps results.log_sum_exp",
     [](Arena& a) { a.args.results.weights = mut_view(a.at(a.kLse - 31)); }},
    {"", [](Arena& a) { a.args.results.weights = mut_view(a.at(a.kLse - 32)); }},
    // Not wanted, not there.
    {"", [](Arena& a) { a.args.results.weights_mode = MHA_WEIGHTS_NONE, a.args.results.weights = {}; }},
    // Inputs may share.
    {"", [](Arena& a) { a.args.key = a.args.value = a.args.query; }},
    {"output overlaps key",
     [](Arena& a) { a.args.key = a.args.value = a.args.query, a.args.output = mut_view(a.at(a.kQuery)); }},
};

}  // namespace

TEST_CASE("overlap: what is certain is refused and nothing is written", "[overlap][status]") {
  for_each_target([&](const std::string&, const mha_context* context) {
    int number = 0;
    for (const Overlap& overlap : kOverlaps) {
      Arena arena;
      overlap.make(arena);
      mha_error error = fresh_error();
      const mha_status status = attention(context, arena.args, &error);
      INFO("overlap " << number++ << ": " << error.message);
      if (overlap.message.empty()) {
        CHECK(status == MHA_OK);
        CHECK_FALSE(arena.untouched());
        continue;
      }
      check_error(status, MHA_ERR_STRIDE, error, {overlap.message});
      CHECK(arena.untouched());
      // Size queries do not look at where tensors are.
      size_t bytes = 0;
      CHECK(attention_workspace_bytes(context, arena.args, &bytes, nullptr) == MHA_OK);
      CHECK(attention_explain(context, arena.args, nullptr, 0, nullptr, nullptr) == MHA_OK);
    }
  });
}

TEST_CASE("overlap: layers refuse what is certain and write nothing", "[overlap][status][layer]") {
  const LayerProblem p({24, 4, 2, 0, 0, 0, 0, 0, 0}, 1, 4, 4, Biases::kAll, 195000);
  constexpr int64_t kQuery = 200, kKey = 400, kValue = 600, kOutput = 800, kWeights = 1000, kLse = 1200;  // 96 each
  struct Mistake {
    std::string message;
    std::function<void(LayerCall&, float*)> make;
  };
  const Mistake mistakes[] = {
      {"output overlaps key", [](LayerCall& a, float* f) { a.output = mut_view(f + kKey + 95); }},
      {"output overlaps value", [](LayerCall& a, float* f) { a.output = mut_view(f + kValue - 95); }},
      {"output overlaps query", [](LayerCall& a, float* f) { a.output = mut_view(f + kQuery + 1); }},
      {"output overlaps query",
       [](LayerCall& a, float* f) {
         a.key = a.value = {}, a.output = mut_view(f + kQuery, {0, 25, 0});
       }},
      {"output overlaps key",
       [](LayerCall& a, float* f) { a.key = view(f + kQuery), a.output = mut_view(f + kQuery); }},
      {"output overlaps value",
       [](LayerCall& a, float* f) { a.key = {}, a.value = view(f + kQuery), a.output = mut_view(f + kQuery); }},
      {"results.weights overlaps query", [](LayerCall& a, float* f) { a.results.weights = mut_view(f + kQuery); }},
      {"results.weights overlaps key", [](LayerCall& a, float* f) { a.results.weights = mut_view(f + kKey - 63); }},
      {"results.weights overlaps output",
       [](LayerCall& a, float* f) { a.results.weights = mut_view(f + kOutput + 90); }},
      {"results.log_sum_exp overlaps value", [](LayerCall& a, float* f) { a.results.log_sum_exp = f + kValue; }},
      {"results.log_sum_exp overlaps query",
       [](LayerCall& a, float* f) {
         a.key = a.value = {}, a.output = mut_view(f + kQuery), a.results.log_sum_exp = f + kQuery + 4;
       }},
  };
  for_each_target([&](const std::string&, const mha_context* context) {
    const LayerPtr layer = p.make(context);
    for (const Mistake& mistake : mistakes) {
      std::vector<float> floats = random_floats(1400, 195001);
      const std::vector<float> before = floats;
      LayerCall args = p.args();
      args.query = view(floats.data() + kQuery), args.key = view(floats.data() + kKey);
      args.value = view(floats.data() + kValue), args.output = mut_view(floats.data() + kOutput);
      args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
      args.results.weights = mut_view(floats.data() + kWeights);
      args.results.log_sum_exp = floats.data() + kLse;
      mistake.make(args, floats.data());
      mha_error error = fresh_error();
      check_error(layer_forward(context, layer.get(), args, &error), MHA_ERR_STRIDE, error, {mistake.message});
      CHECK(same_bits(floats, before));
    }
  });
}

TEST_CASE("overlap: tensors that interleave in one buffer", "[overlap][bits][strides]") {
  // Rows of [query | key | value | room], heads of each side by side, as a fused projection leaves them.
  for (const auto& [Tq, kind] : {std::pair<int64_t, MaskKind>{37, MaskKind::kCausal}, {300, MaskKind::kBool}}) {
    const AttentionShape s = {2, 4, 4, Tq, Tq, 20, 20};
    const AttentionProblem problem(s, kind, 196000);
    const int64_t width = s.H * s.D, row = 4 * width;
    const Strides strides = {s.Tq * row, row, s.D};
    std::vector<float> planes = poisoned(s.B * s.Tq * row);
    for (int64_t n = 0; n < s.B * s.Tq; ++n) {
      std::copy_n(problem.query.begin() + n * width, width, planes.begin() + n * row);
      std::copy_n(problem.key.begin() + n * width, width, planes.begin() + n * row + width);
      std::copy_n(problem.value.begin() + n * width, width, planes.begin() + n * row + 2 * width);
    }
    for_each_context([&](const mha_context* context) {
      const std::vector<float> want = run_attention(context, problem.args()).output;
      for (const int64_t plane : {3, 0}) {  // the room, or the query's own
        INFO("output in plane " << plane);
        std::vector<float> buffer = planes;
        AttentionCall args = problem.args();
        args.query = view(buffer.data(), strides);
        args.key = view(buffer.data() + width, strides);
        args.value = view(buffer.data() + 2 * width, strides);
        args.output = mut_view(buffer.data() + plane * width, strides);
        mha_error error = {};
        require_ok(attention(context, args, &error), error);
        std::vector<float> expected = planes;
        for (int64_t n = 0; n < s.B * s.Tq; ++n)
          std::copy_n(want.begin() + n * width, width, expected.begin() + n * row + plane * width);
        check_same_bits("planes", buffer, expected);
      }
    });
  }
}
