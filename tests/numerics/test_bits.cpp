// SPDX-License-Identifier: Apache-2.0
// The canonical order: a result is a pure function of the values of its inputs. Each case computes the same numbers in
// another way (threads, batch, pieces of the queries, layout, parallel-for, target) and compares every bit.
#include <functional>
#include <thread>

#include "tests/support/layers.h"

using namespace mha::test;

namespace {

struct Case {
  AttentionShape shape;
  MaskKind kind;
};

// A thread is used for every million multiply-adds, so the first five cases are large enough for five. The first three
// have few rows over several chunks, which the threads then share; the others have many heads, and tails everywhere.
const Case kCases[] = {
    {{1, 1, 1, 1, 42000, 64, 64}, MaskKind::kNone},  {{1, 2, 1, 3, 7000, 40, 90}, MaskKind::kBool},
    {{1, 1, 1, 70, 600, 64, 64}, MaskKind::kCausal}, {{4, 8, 8, 40, 130, 32, 33}, MaskKind::kLengths},
    {{2, 4, 2, 66, 300, 33, 17}, MaskKind::kAll},    {{1, 8, 2, 65, 65, 80, 80}, MaskKind::kOffsetPositive},
    {{2, 3, 1, 5, 513, 7, 130}, MaskKind::kAdd},     {{1, 4, 1, 1, 777, 128, 128}, MaskKind::kLengths},
    {{1, 2, 2, 130, 130, 1, 1}, MaskKind::kCausal},  {{2, 2, 2, 24, 1024, 20, 20}, MaskKind::kOffsetNegative},
};

/// body(problem, args that ask for weights per head, what it is).
void for_each_case(const std::function<void(const AttentionProblem&, const AttentionCall&)>& body) {
  uint64_t seed = 60000;
  for (const Case& c : kCases) {
    AttentionProblem problem(c.shape, c.kind, ++seed);
    for (float& value : problem.query) value *= 4;  // chunk maxima that differ
    AttentionCall args = problem.args();
    args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
    INFO(describe(c.shape, c.kind));
    body(problem, args);
  }
}

std::vector<float> slice(const std::vector<float>& values, int64_t first, int64_t count) {
  return std::vector<float>(values.begin() + first, values.begin() + first + count);
}

/// The arguments for queries [first, first + count) only: masks move along.
AttentionCall query_piece(const AttentionProblem& problem, AttentionCall args, int64_t first, int64_t count) {
  const AttentionShape& s = problem.shape;
  args.query = view(problem.query.data() + first * s.H * s.D, {s.Tq * s.H * s.D, s.H * s.D, s.D});
  args.query_len = count;
  args.positions.align = MHA_ALIGN_OFFSET;
  args.positions.offset = problem.masks.first_position(0, s.Tq, s.Tk) + first;
  mha_bool_mask& open = args.masks.bool_mask;
  mha_add_mask& add = args.masks.add_mask;
  if (open.data) open.data = problem.bool_mask.data() + first * open.stride_q;
  if (add.data) add.data = problem.add_mask.data() + first * add.stride_q;
  return args;
}

void check_piece(const AttentionShape& s, int64_t first, int64_t count, const AttentionResult& piece,
                 const AttentionResult& whole) {
  const int64_t row = s.H * s.Dv;
  for (int64_t b = 0; b < s.B; ++b) {
    check_same_bits("output of a piece", slice(piece.output, b * count * row, count * row),
                    slice(whole.output, (b * s.Tq + first) * row, count * row));
    for (int64_t h = 0; h < s.H; ++h) {
      const int64_t n = b * s.H + h;
      check_same_bits("log-sum-exp of a piece", slice(piece.log_sum_exp, n * count, count),
                      slice(whole.log_sum_exp, n * s.Tq + first, count));
      check_same_bits("weights of a piece", slice(piece.weights, n * count * s.Tk, count * s.Tk),
                      slice(whole.weights, (n * s.Tq + first) * s.Tk, count * s.Tk));
    }
  }
}

void run_forward(void*, int64_t count, void (*task)(void*, int64_t), void* data) {
  for (int64_t i = 0; i < count; ++i) task(data, i);
}
void run_in_reverse(void*, int64_t count, void (*task)(void*, int64_t), void* data) {
  for (int64_t i = count; i-- > 0;) task(data, i);
}
void run_on_threads(void*, int64_t count, void (*task)(void*, int64_t), void* data) {
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < count; ++i) threads.emplace_back(task, data, i);
  for (std::thread& thread : threads) thread.join();
}

struct HostRun {
  const char* name;
  void (*run)(void*, int64_t, void (*)(void*, int64_t), void*);
};
const HostRun kHostRuns[] = {
    {"in order", run_forward}, {"in reverse", run_in_reverse}, {"std::thread", run_on_threads}};

ContextPtr make_host_context(const std::string& target, int64_t num_threads, const HostRun& host) {
  mha_context_options options = {};
  options.target = target.c_str();
  options.num_threads = num_threads;
  options.parallel_for.run = host.run;
  return make_context(options);
}

}  // namespace

TEST_CASE("bits: attention, any number of threads", "[bits][threads]") {
  for_each_case([](const AttentionProblem&, const AttentionCall& args) {
    for (const std::string& target : supported_targets()) {
      INFO("target " << target);
      const AttentionResult want = run_attention(shared_context(target, 1), args);
      for (int64_t threads : {1, 2, 3, 5, 16})
        check_same_results(std::to_string(threads) + " threads", run_attention(shared_context(target, threads), args),
                           want);
      AttentionCall averaged = args;
      averaged.results.weights_mode = MHA_WEIGHTS_AVERAGED;
      const AttentionResult mean = run_attention(shared_context(target, 1), averaged);
      for (int64_t threads : {2, 5})
        check_same_results(std::to_string(threads) + " threads, averaged",
                           run_attention(shared_context(target, threads), averaged), mean);
    }
  });
}

TEST_CASE("bits: attention, a host's parallel-for in any order", "[bits][threads]") {
  for_each_case([](const AttentionProblem&, const AttentionCall& args) {
    for (const std::string& target : supported_targets()) {
      INFO("target " << target);
      const AttentionResult want = run_attention(shared_context(target, 1), args);
      for (const HostRun& host : kHostRuns)
        for (int64_t threads : {2, 5})
          check_same_results(host.name, run_attention(make_host_context(target, threads, host).get(), args), want);
    }
  });
}

TEST_CASE("bits: attention, heads, rows and chunks shared in every way", "[bits][threads]") {
  // Explain says which way a call is cut, so that none of them is left out unseen.
  const char* kWays[] = {"threads share the heads", "threads share heads and chunks", "threads share the chunks",
                         "one per block and chunk", "enough blocks for the threads",  "threads share heads and rows"};
  const AttentionShape shapes[] = {
      {1, 32, 8, 1, 257, 64, 64}, {1, 32, 8, 1, 600, 64, 64},  {2, 20, 5, 2, 1100, 40, 33},
      {1, 6, 6, 1, 3000, 64, 64}, {1, 4, 4, 128, 1024, 8, 16}, {1, 1, 1, 128, 2050, 40, 64},
      {3, 6, 3, 33, 250, 24, 40}, {1, 2, 1, 600, 600, 17, 9},
  };
  for (const std::string& target : supported_targets()) {
    INFO("target " << target);
    std::string seen;
    uint64_t seed = 61000;
    for (const AttentionShape& shape : shapes) {
      for (const MaskKind kind : {MaskKind::kNone, MaskKind::kCausal}) {
        INFO(describe(shape, kind));
        const AttentionProblem problem(shape, kind, ++seed);
        const AttentionCall args = problem.args();
        const AttentionResult want = run_attention(shared_context(target, 1), args);
        for (int64_t threads : {2, 3, 5, 8}) {
          const ContextPtr context = make_host_context(target, threads, kHostRuns[2]);
          char text[4096] = "";
          REQUIRE(attention_explain(context.get(), args, text, sizeof text, nullptr) == MHA_OK);
          seen += text;
          check_same_results(std::to_string(threads) + " threads", run_attention(context.get(), args), want);
        }
      }
    }
    for (const char* way : kWays) {
      INFO(way);
      CHECK(seen.find(way) != std::string::npos);
    }
  }
}

TEST_CASE("bits: attention, every FMA target", "[bits][targets]") {
  for_each_case([](const AttentionProblem&, const AttentionCall& args) {
    const std::vector<std::string> targets = fma_targets();
    for (size_t n = 1; n < targets.size(); ++n)
      check_same_results(targets[0] + " and " + targets[n], run_attention(shared_context(targets[n], 1), args),
                         run_attention(shared_context(targets[0], 1), args));
  });
}

TEST_CASE("bits: attention, a batch item alone", "[bits]") {
  for_each_case([](const AttentionProblem& problem, const AttentionCall& args) {
    const AttentionShape& s = problem.shape;
    for_each_target([&](const std::string&, const mha_context* context) {
      const AttentionResult whole = run_attention(context, args);
      for (int64_t b = 0; b < s.B; ++b) {
        AttentionCall one = args;
        one.batch = 1;
        one.query = view(problem.query.data() + b * s.Tq * s.H * s.D);
        one.key = view(problem.key.data() + b * s.Tk * s.Hkv * s.D);
        one.value = view(problem.value.data() + b * s.Tk * s.Hkv * s.Dv);
        if (one.items.key_lengths) one.items.key_lengths += b;
        if (one.masks.bool_mask.data) one.masks.bool_mask.data += b * one.masks.bool_mask.stride_b;
        if (one.masks.add_mask.data)
          one.masks.add_mask.data = problem.add_mask.data() + b * one.masks.add_mask.stride_b;
        const AttentionResult alone = run_attention(context, one);
        const int64_t out = s.Tq * s.H * s.Dv, rows = s.H * s.Tq;
        check_same_bits("output", alone.output, slice(whole.output, b * out, out));
        check_same_bits("log-sum-exp", alone.log_sum_exp, slice(whole.log_sum_exp, b * rows, rows));
        check_same_bits("weights", alone.weights, slice(whole.weights, b * rows * s.Tk, rows * s.Tk));
      }
    });
  });
}

TEST_CASE("bits: attention, queries one by one and in pieces", "[bits]") {
  for_each_case([](const AttentionProblem& problem, const AttentionCall& args) {
    const AttentionShape& s = problem.shape;
    for_each_target([&](const std::string&, const mha_context* context) {
      const AttentionResult whole = run_attention(context, args);
      for (int64_t size : {1, 2, 7, 25}) {
        for (int64_t first = 0; first < s.Tq; first += size) {
          const int64_t count = std::min(size, s.Tq - first);
          check_piece(s, first, count, run_attention(context, query_piece(problem, args, first, count)), whole);
        }
      }
    });
  });
}

TEST_CASE("bits: attention, token by token over a growing key length", "[bits]") {
  // What a KV cache does: at step t only the keys up to t exist; the prefill masks the later ones.
  const AttentionShape s = {1, 4, 2, 300, 300, 24, 24};
  const AttentionProblem problem(s, MaskKind::kCausal, 61000);
  for_each_target([&](const std::string&, const mha_context* context) {
    const AttentionResult prefill = run_attention(context, problem.args());
    for (int64_t t = 0; t < s.Tq; ++t) {
      AttentionCall args = problem.args();
      args.query = view(problem.query.data() + t * s.H * s.D);
      args.query_len = 1;
      args.key_len = t + 1;
      const AttentionResult step = run_attention(context, args);
      INFO("step " << t);
      check_same_bits("output", step.output, slice(prefill.output, t * s.H * s.Dv, s.H * s.Dv));
    }
  });
}

TEST_CASE("bits: attention, masked keys at the end are as no keys", "[bits][mask]") {
  const AttentionShape s = {1, 3, 3, 9, 600, 20, 20};
  for_each_target([&](const std::string&, const mha_context* context) {
    for (int64_t length : {1, 15, 16, 17, 255, 256, 257, 512, 599}) {
      AttentionProblem problem(s, MaskKind::kNone, 62000);
      AttentionCall args = problem.args();
      args.key_len = length;
      const AttentionResult want = run_attention(context, args);
      args.key_len = s.Tk;
      args.items.key_lengths = &length;
      check_same_results("key_lengths", run_attention(context, args), want);
      args.items.key_lengths = nullptr;
      std::vector<uint8_t> open(static_cast<size_t>(s.Tk), 0);
      std::fill(open.begin(), open.begin() + length, uint8_t{255});
      args.masks.bool_mask = {open.data(), 0, 0, 0};
      check_same_results("bool mask", run_attention(context, args), want);
      args.masks.bool_mask = {};
      std::vector<float> add(static_cast<size_t>(s.Tk), -kInf);
      std::fill(add.begin(), add.begin() + length, 0.0f);
      args.masks.add_mask = {add.data()};
      check_same_results("additive mask", run_attention(context, args), want);
    }
  });
}

TEST_CASE("bits: attention, a head alone, and grouped heads as if each had its own keys", "[bits]") {
  const AttentionShape s = {1, 6, 2, 9, 300, 20, 12};
  const AttentionProblem problem(s, MaskKind::kNone, 63000);
  for_each_target([&](const std::string&, const mha_context* context) {
    const AttentionResult whole = run_attention(context, problem.args());
    for (int64_t h = 0; h < s.H; ++h) {
      AttentionCall one = problem.args();
      const int64_t g = h / (s.H / s.Hkv);
      one.num_heads = one.num_kv_heads = 1;
      one.query = view(problem.query.data() + h * s.D, {0, s.H * s.D, 0});
      one.key = view(problem.key.data() + g * s.D, {0, s.Hkv * s.D, 0});
      one.value = view(problem.value.data() + g * s.Dv, {0, s.Hkv * s.Dv, 0});
      const AttentionResult alone = run_attention(context, one);
      std::vector<float> want;
      for (int64_t i = 0; i < s.Tq; ++i) {
        const std::vector<float> row = slice(whole.output, (i * s.H + h) * s.Dv, s.Dv);
        want.insert(want.end(), row.begin(), row.end());
      }
      check_same_bits("head", alone.output, want);
    }
  });
}

TEST_CASE("bits: attention, layouts", "[bits][strides]") {
  for_each_case([](const AttentionProblem& problem, const AttentionCall& args) {
    const AttentionShape& s = problem.shape;
    for_each_target([&](const std::string&, const mha_context* context) {
      const AttentionResult want = run_attention(context, args);
      const auto check_layout = [&](const std::string& name, Strides (*layout)(const Extent&), int64_t offset) {
        Placed query(s.query(), layout(s.query()), offset), key(s.key(), layout(s.key()), offset);
        Placed value(s.value(), layout(s.value()), offset), output(s.output(), layout(s.output()), offset);
        AttentionCall placed = args;
        placed.query = query.fill(problem.query).view();
        placed.key = key.fill(problem.key).view();
        placed.value = value.fill(problem.value).view();
        placed.output = output.mut_view();
        placed.results.weights_mode = MHA_WEIGHTS_NONE;
        mha_error error = {};
        require_ok(attention(context, placed, &error), error);
        check_same_bits(name, output.dense(), want.output);
        CHECK(output.gaps_intact());
      };
      check_layout("BTHD", dense_bthd, 0);
      check_layout("BTHD, unaligned", dense_bthd, 1);
      check_layout("BHTD", dense_bhtd, 0);
      check_layout(
          "rows of a larger buffer", [](const Extent& e) { return padded_bthd(e, 3); }, 2);
      check_layout(
          "rows 64 floats apart", [](const Extent& e) { return padded_bthd(e, 64); }, 0);
    });
  });
}

TEST_CASE("bits: attention, packed QKV", "[bits][strides]") {
  const AttentionShape s = {2, 4, 4, 37, 37, 20, 20};
  const AttentionProblem problem(s, MaskKind::kCausal, 64000);
  // One row per (b, t): the query's heads, the key's, the value's.
  const int64_t width = s.H * s.D, row = 3 * width;
  std::vector<float> packed(static_cast<size_t>(s.B * s.Tq * row));
  for (int64_t n = 0; n < s.B * s.Tq; ++n) {
    std::copy_n(problem.query.begin() + n * width, width, packed.begin() + n * row);
    std::copy_n(problem.key.begin() + n * width, width, packed.begin() + n * row + width);
    std::copy_n(problem.value.begin() + n * width, width, packed.begin() + n * row + 2 * width);
  }
  for_each_target([&](const std::string&, const mha_context* context) {
    const AttentionResult want = run_attention(context, problem.args());
    AttentionCall args = problem.args();
    args.query = view(packed.data(), {s.Tq * row, row, s.D});
    args.key = view(packed.data() + width, {s.Tq * row, row, s.D});
    args.value = view(packed.data() + 2 * width, {s.Tq * row, row, s.D});
    check_same_bits("packed QKV", run_attention(context, args).output, want.output);
  });
}

TEST_CASE("bits: attention, run again and again", "[bits]") {
  for_each_case([](const AttentionProblem&, const AttentionCall& args) {
    for_each_target(
        [&](const std::string&, const mha_context* context) {
          const AttentionResult want = run_attention(context, args);
          for (int n = 0; n < 5; ++n) check_same_results("repeated", run_attention(context, args), want);
        },
        2);
  });
}

TEST_CASE("bits: attention, special values on every thread count and FMA target", "[bits][edges]") {
  AttentionProblem problem({1, 2, 2, 90, 700, 32, 32}, MaskKind::kNone, 65000);
  problem.query[3] = kNan;
  problem.key[300 * 2 * 32] = kInf;
  problem.value[500 * 2 * 32 + 5] = -kInf;
  std::vector<float> of_fma_target;
  for (const std::string& target : supported_targets()) {
    INFO("target " << target);
    const std::vector<float> want = run_attention(shared_context(target, 1), problem.args()).output;
    if (has_fma(target)) {
      if (of_fma_target.empty()) of_fma_target = want;
      check_same_bits("target", want, of_fma_target);
    }
    for (int64_t threads : {3, 5})
      check_same_bits("threads", run_attention(shared_context(target, threads), problem.args()).output, want);
  }
}

TEST_CASE("bits: linear, threads, hosts, targets and rows alone", "[bits][linear]") {
  struct Sizes {
    int64_t M, N, K;
  };
  for (const Sizes& z : {Sizes{1, 300, 70}, Sizes{200, 50, 513}, Sizes{130, 17, 33}, Sizes{90, 1025, 64},
                         Sizes{1, 2000, 2600}, Sizes{256, 256, 1}}) {
    const std::vector<float> input = random_floats(z.M * z.K, 66000), weight = random_floats(z.N * z.K, 66001);
    const std::vector<float> bias = random_floats(z.N, 66002);
    INFO("M " << z.M << " N " << z.N << " K " << z.K);
    std::vector<float> of_fma_target;
    for (const std::string& target : supported_targets()) {
      INFO("target " << target);
      const LinearPtr linear = make_linear(shared_context(target, 1), z.K, z.N, weight.data(), bias.data());
      const std::vector<float> want = run_linear(shared_context(target, 1), linear.get(), input, z.M);
      if (has_fma(target)) {
        if (of_fma_target.empty()) of_fma_target = want;
        check_same_bits("target", want, of_fma_target);
      }
      for (int64_t threads : {2, 3, 5})
        check_same_bits("threads", run_linear(shared_context(target, threads), linear.get(), input, z.M), want);
      for (const HostRun& host : kHostRuns)
        check_same_bits(host.name, run_linear(make_host_context(target, 4, host).get(), linear.get(), input, z.M),
                        want);
      for (int64_t size : {1, 5, 6, 16})
        for (int64_t m = 0; m < z.M; m += size) {
          const int64_t count = std::min(size, z.M - m);
          const std::vector<float> rows = slice(input, m * z.K, count * z.K);
          check_same_bits("rows alone", run_linear(shared_context(target, 1), linear.get(), rows, count),
                          slice(want, m * z.N, count * z.N));
        }
    }
  }
}

TEST_CASE("bits: layer, threads, hosts, targets, batch items and rows alone", "[bits][layer]") {
  const mha_layer_config config = {40, 4, 2, 12, 20, 0, 0, 50, 0};
  const LayerProblem problem(config, 3, 41, 600, Biases::kAll, 67000);
  LayerCall args = problem.args();
  args.results.weights_mode = MHA_WEIGHTS_AVERAGED;
  std::vector<float> of_fma_target;
  for (const std::string& target : supported_targets()) {
    INFO("target " << target);
    const LayerPtr layer = problem.make(shared_context(target, 1));
    const auto run = [&](const mha_context* context, const LayerCall& with) {
      return run_layer(context, layer.get(), with);
    };
    const LayerResult want = run(shared_context(target, 1), args);
    if (has_fma(target)) {
      if (of_fma_target.empty()) of_fma_target = want.output;
      check_same_bits("target", want.output, of_fma_target);
    }
    for (int64_t threads : {2, 3, 5}) {
      const LayerResult got = run(shared_context(target, threads), args);
      check_same_bits("threads", got.output, want.output);
      check_same_bits("threads: weights", got.weights, want.weights);
    }
    for (const HostRun& host : kHostRuns) {
      const LayerResult got = run(make_host_context(target, 5, host).get(), args);
      check_same_bits(host.name, got.output, want.output);
      check_same_bits(std::string(host.name) + ": weights", got.weights, want.weights);
    }
    for (int64_t b = 0; b < 3; ++b) {
      for (int64_t i = 0; i < 41; ++i) {
        LayerCall one = args;
        one.batch = one.query_len = 1;
        one.query = view(problem.query.data() + (b * 41 + i) * 40);
        one.key = view(problem.key.data() + b * 600 * 40);
        one.value = view(problem.value.data() + b * 600 * 40);
        check_same_bits("row alone", run(shared_context(target, 1), one).output,
                        slice(want.output, (b * 41 + i) * 50, 50));
      }
    }
  }
}
