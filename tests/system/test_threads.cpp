// SPDX-License-Identifier: Apache-2.0
// Concurrency: one layer and context shared by many threads, a host's parallel-for, more threads than work.
#include <atomic>
#include <thread>

#include "tests/support/layers.h"

using namespace mha::test;

namespace {

const mha_layer_config kConfig = {40, 4, 2, 12, 20, 0, 0, 50, 0};
constexpr int kThreads = 8;

struct Item {
  std::unique_ptr<LayerProblem> layer;
  std::unique_ptr<AttentionProblem> attention;
  LayerResult want_layer;
  AttentionResult want_attention;
};

/// The outcome of a call without assertions, which Catch2 does not allow on other threads.
bool call_and_compare(const mha_context* context, const mha_layer* layer, const Item& item) {
  std::vector<float> output = poisoned(static_cast<int64_t>(item.want_layer.output.size()));
  LayerCall forward = item.layer->args();
  forward.output = mut_view(output.data());
  if (layer_forward(context, layer, forward, nullptr) != MHA_OK || !same_bits(output, item.want_layer.output))
    return false;
  output = poisoned(static_cast<int64_t>(item.want_attention.output.size()));
  AttentionCall call = item.attention->args();
  call.output = mut_view(output.data());
  return attention(context, call, nullptr) == MHA_OK && same_bits(output, item.want_attention.output);
}

/// Different data for each caller; the same weights.
std::vector<Item> make_items(const mha_context* context, const mha_layer* layer, int64_t Tk) {
  std::vector<Item> items(kThreads);
  for (int n = 0; n < kThreads; ++n) {
    Item& item = items[static_cast<size_t>(n)];
    item.layer =
        std::make_unique<LayerProblem>(kConfig, 1, 3 + n, Tk, Biases::kAll, 110000 + 100u * static_cast<unsigned>(n));
    item.attention =
        std::make_unique<AttentionProblem>(AttentionShape{1, 2, 1, 2 + n, Tk, 16, 16},
                                           static_cast<MaskKind>(n % kMaskKinds), 111000u + static_cast<unsigned>(n));
    item.want_layer = run_layer(context, layer, item.layer->args());
    item.want_attention = run_attention(context, item.attention->args());
  }
  return items;
}

}  // namespace

TEST_CASE("threads: eight callers share one layer and one context", "[threads]") {
  for (const std::string& target : supported_targets()) {
    for (int64_t inner : {1, 2}) {
      INFO("target " << target << " threads inside " << inner);
      const mha_context* context = shared_context(target, inner);
      const LayerProblem weights(kConfig, 1, 1, 1, Biases::kAll, 112000);
      const LayerPtr layer = weights.make(context);
      const std::vector<Item> items = make_items(context, layer.get(), inner == 1 ? 40 : 3000);
      std::atomic<int> wrong{0};
      std::vector<std::thread> callers;
      callers.reserve(kThreads);
      for (int n = 0; n < kThreads; ++n) {
        callers.emplace_back([&, n] {
          for (int round = 0; round < (inner == 1 ? 200 : 4); ++round)
            if (!call_and_compare(context, layer.get(), items[static_cast<size_t>((n + round) % kThreads)])) ++wrong;
        });
      }
      for (std::thread& caller : callers) caller.join();
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("threads: each caller may make and free contexts, linears and layers of its own", "[threads]") {
  std::atomic<int> wrong{0};
  const LayerProblem problem(kConfig, 1, 4, 30, Biases::kAll, 113000);
  std::vector<float> want;
  {
    const ContextPtr context = make_context(supported_targets()[0], 1);
    want = run_layer(context.get(), problem.make(context.get()).get(), problem.args()).output;
  }
  const std::string target = supported_targets()[0];  // asked here: Catch's assertions are for one thread
  std::vector<std::thread> callers;
  callers.reserve(kThreads);
  for (int n = 0; n < kThreads; ++n) {
    callers.emplace_back([&] {
      for (int round = 0; round < 20; ++round) {
        mha_context_options options = {};
        options.target = target.c_str();
        mha_context* context = nullptr;
        mha_layer* layer = nullptr;
        std::vector<float> output = poisoned(static_cast<int64_t>(want.size()));
        LayerCall args = problem.args();
        args.output = mut_view(output.data());
        const mha_layer_weights weights = problem.separate_weights();
        const bool ok = mha_context_create(&options, &context, nullptr) == MHA_OK &&
                        mha_layer_create(context, &problem.config, &weights, &layer, nullptr) == MHA_OK &&
                        layer_forward(context, layer, args, nullptr) == MHA_OK && same_bits(output, want);
        if (!ok) ++wrong;
        mha_layer_destroy(layer);
        mha_context_destroy(context);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong == 0);
}

TEST_CASE("threads: far more threads than work", "[threads]") {
  const AttentionProblem problem({1, 1, 1, 1, 3, 4, 4}, MaskKind::kNone, 115000);
  const AttentionProblem large({1, 1, 1, 1, 513, 4000, 4000}, MaskKind::kNone, 115001);
  for (const std::string& target : supported_targets()) {
    for (const AttentionProblem* p : {&problem, &large}) {
      const AttentionResult want = run_attention(shared_context(target, 1), p->args());
      for (int64_t threads : {64, 1024}) {
        const ContextPtr context = make_context(target, threads);
        CHECK(mha_context_num_threads(context.get()) == threads);
        check_same_bits("output", run_attention(context.get(), p->args()).output, want.output);
      }
    }
  }
}

TEST_CASE("threads: a host's parallel-for is asked for at most num_threads tasks, a few times a call", "[threads]") {
  struct Host {
    int64_t most = 0, calls = 0, null_user = 0;
    static void run(void* user, int64_t count, void (*task)(void*, int64_t), void* data) {
      Host* host = static_cast<Host*>(user);
      host->most = std::max(host->most, count);
      ++host->calls;
      for (int64_t i = 0; i < count; ++i) task(data, i);
    }
  } host;
  mha_context_options options = {};
  options.num_threads = 4;
  options.parallel_for = {&host, Host::run};
  const ContextPtr context = make_context(options);
  const LayerProblem problem(kConfig, 1, 90, 1100, Biases::kAll, 116000);
  const LayerPtr layer = problem.make(context.get());
  LayerCall forward = problem.args();
  for (mha_weights_mode mode : {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED}) {
    forward.results.weights_mode = mode;
    run_layer(context.get(), layer.get(), forward);
    CHECK(host.most >= 2);
    CHECK(host.most <= 4);
    CHECK(host.calls <= 5);  // in-projections, chunks, merge, weights, output projection
    host = {};
    const AttentionProblem attention({1, 1, 1, 9, 5000, 64, 64}, MaskKind::kNone, 116001);
    AttentionCall args = attention.args();
    args.results.weights_mode = mode;
    run_attention(context.get(), args);
    CHECK(host.most >= 2);
    CHECK(host.most <= 4);
    CHECK(host.calls >= 1);
    CHECK(host.calls <= 3);  // chunks, merge, weights
    host = {};
  }
}

TEST_CASE("threads: a call uses at most its max_threads of the context's", "[threads]") {
  mha_context_options options = {};
  options.num_threads = 4;
  int64_t most = 0;
  options.parallel_for = {&most, [](void* user, int64_t count, void (*task)(void*, int64_t), void* data) {
                            int64_t* seen = static_cast<int64_t*>(user);
                            *seen = std::max(*seen, count);
                            for (int64_t i = 0; i < count; ++i) task(data, i);
                          }};
  const ContextPtr context = make_context(options);
  const AttentionProblem problem({1, 1, 1, 9, 5000, 64, 64}, MaskKind::kNone, 118000);
  for (const int64_t limit : {0, 1, 2, 3, 4, 9}) {
    INFO("max_threads " << limit);
    AttentionCall args = problem.args();
    args.resources.max_threads = limit;
    most = 0;
    run_attention(context.get(), args);
    CHECK(most <= (limit == 0 ? 4 : std::min<int64_t>(limit, 4)));
    CHECK((most >= 2) == (limit != 1));  // one thread does not ask the host
  }
}

TEST_CASE("threads: one thread never calls the host's parallel-for", "[threads]") {
  mha_context_options options = {};
  options.num_threads = 1;
  int64_t calls = 0;
  options.parallel_for = {&calls,
                          [](void* user, int64_t, void (*)(void*, int64_t), void*) { ++*static_cast<int64_t*>(user); }};
  const ContextPtr context = make_context(options);
  const AttentionProblem problem({1, 2, 2, 60, 700, 64, 64}, MaskKind::kNone, 117000);
  const AttentionResult got = run_attention(context.get(), problem.args());
  CHECK(calls == 0);
  CHECK(none_poison(got.output));
}
