// SPDX-License-Identifier: Apache-2.0
// The loop: each call takes a piece of the prompts that are not yet read and one token of the sequences that are.
#include "tools/demo_decode/generate.h"

#include <algorithm>

#include "tools/demo_decode/elementwise.h"

namespace mha::demo {
namespace {

/// How far one sequence is.
struct Progress {
  int64_t sequence = 0;
  int64_t joins = 0;  // in this call
  int64_t read = 0;   // tokens of the prompt
};

/// The tokens of the next call, and in `taking` who takes part.
Step next_step(const std::vector<Tokens>& prompts, const Schedule& schedule, int64_t call, int64_t count,
               std::vector<Progress>& all, const std::vector<Generated>& generated, std::vector<Progress*>& taking) {
  Step step;
  taking.clear();
  for (Progress& one : all) {
    const Tokens& prompt = prompts[static_cast<size_t>(one.sequence)];
    const Generated& so_far = generated[static_cast<size_t>(one.sequence)];
    if (one.joins > call || static_cast<int64_t>(so_far.tokens.size()) == count) continue;
    const int64_t rest = static_cast<int64_t>(prompt.size()) - one.read;
    if (rest > 0) {
      const int64_t taken = schedule.piece > 0 ? std::min(schedule.piece, rest) : rest;
      step.add(one.sequence, prompt.data() + one.read, taken);
      one.read += taken;
    } else {
      const Tokens& read_on =
          schedule.fed != nullptr ? (*schedule.fed)[static_cast<size_t>(one.sequence)] : so_far.tokens;
      step.add(one.sequence, &read_on[so_far.tokens.size() - 1], 1);
    }
    taking.push_back(&one);
  }
  return step;
}

void run(Llama& model, const Caches& caches, const std::vector<Tokens>& prompts, int64_t count,
         const Schedule& schedule, std::vector<Progress> all, std::vector<Generated>& generated) {
  const int64_t vocabulary = model.config().vocabulary;
  std::vector<Progress*> taking;
  for (int64_t call = 0;; ++call) {
    const Step step = next_step(prompts, schedule, call, count, all, generated, taking);
    if (taking.empty()) return;
    const std::vector<float> logits = model.forward(caches, step, schedule.window);
    for (size_t b = 0; b < taking.size(); ++b) {
      const auto sequence = static_cast<size_t>(taking[b]->sequence);
      if (taking[b]->read < static_cast<int64_t>(prompts[sequence].size())) continue;
      const float* row = logits.data() + static_cast<int64_t>(b) * vocabulary;
      generated[sequence].logits.insert(generated[sequence].logits.end(), row, row + vocabulary);
      generated[sequence].tokens.push_back(greatest(row, vocabulary));
    }
  }
}

}  // namespace

std::vector<Generated> generate(Llama& model, const Caches& caches, const std::vector<Tokens>& prompts, int64_t count,
                                const Schedule& schedule) {
  for (const auto& cache : caches) mha_cache_reset(cache.get());
  std::vector<Generated> generated(prompts.size());
  std::vector<Progress> all(prompts.size());
  for (size_t b = 0; b < all.size(); ++b)
    all[b] = {static_cast<int64_t>(b), static_cast<int64_t>(b) * schedule.stagger, 0};
  if (schedule.together) {
    run(model, caches, prompts, count, schedule, all, generated);
  } else {
    for (Progress one : all) {
      one.joins = 0;
      run(model, caches, prompts, count, schedule, {one}, generated);
    }
  }
  return generated;
}

}  // namespace mha::demo
