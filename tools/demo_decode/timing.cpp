// SPDX-License-Identifier: Apache-2.0
// Every measurement once to warm up, then `repeat` times against the clock. Decoding is timed without its prefill,
// through a paged cache.
#include "tools/demo_decode/timing.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "tools/demo_decode/elementwise.h"

namespace mha::demo {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

void reset(const Caches& caches) {
  for (const Cache& cache : caches) mha_cache_reset(cache.get());
}

double time_prefill(Llama& model, const Caches& caches, const Tokens& prompt) {
  reset(caches);
  Step step;
  step.add(0, prompt.data(), static_cast<int64_t>(prompt.size()));
  const auto start = Clock::now();
  model.forward(caches, step);
  return since(start);
}

/// `count` calls with one token of each prompt's sequence.
double time_decode(Llama& model, const Caches& caches, const std::vector<Tokens>& prompts, int64_t count) {
  reset(caches);
  const int64_t vocabulary = model.config().vocabulary;
  Step step;
  for (size_t b = 0; b < prompts.size(); ++b)
    step.add(static_cast<int64_t>(b), prompts[b].data(), static_cast<int64_t>(prompts[b].size()));
  std::vector<float> logits = model.forward(caches, step);
  const auto start = Clock::now();
  for (int64_t n = 0; n < count; ++n) {
    step = {};
    for (size_t b = 0; b < prompts.size(); ++b) {
      const int64_t id = greatest(logits.data() + static_cast<int64_t>(b) * vocabulary, vocabulary);
      step.add(static_cast<int64_t>(b), &id, 1);
    }
    logits = model.forward(caches, step);
  }
  return since(start);
}

}  // namespace

nlohmann::json time(const std::string& model_path, const Expected& expected, const std::string& target, int64_t threads,
                    int64_t repeat) {
  const Context context = make_context(target, threads);
  Llama model(context, model_path);
  const auto longest = std::max_element(expected.prompts.begin(), expected.prompts.end(),
                                        [](const Tokens& a, const Tokens& b) { return a.size() < b.size(); });
  const auto sequences = static_cast<int64_t>(expected.prompts.size());
  mha_cache_config shape = {};
  shape.kind = MHA_CACHE_PAGED;
  shape.page_size = 64;
  shape.max_sequences = sequences;
  shape.capacity = std::max(expected.total() + sequences * shape.page_size,
                            static_cast<int64_t>(expected.long_prompt.size()) + shape.page_size);
  const Caches caches = model.make_caches(shape);
  std::vector<double> prefill, decode_1, decode_8;
  for (int64_t n = -1; n < repeat; ++n) {
    const double a = time_prefill(model, caches, expected.long_prompt);
    const double b = time_decode(model, caches, {*longest}, expected.count() - 1);
    const double c = time_decode(model, caches, expected.prompts, expected.count() - 1);
    if (n < 0) continue;  // to warm up
    prefill.push_back(a);
    decode_1.push_back(b);
    decode_8.push_back(c);
  }
  const int64_t calls = expected.count() - 1;
  return {{"target", context.target()},
          {"threads", context.num_threads()},
          {"tokens", {{"prefill", expected.long_prompt.size()}, {"decode_1", calls}, {"decode_8", calls * sequences}}},
          {"seconds", {{"prefill", prefill}, {"decode_1", decode_1}, {"decode_8", decode_8}}}};
}

}  // namespace mha::demo
