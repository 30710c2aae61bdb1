// SPDX-License-Identifier: Apache-2.0
// Greedy generation of several sequences with one Llama: alone or together, prompts whole or in pieces, joining at once
// or one after the other. Whatever the schedule, each sequence must come out with the same bits.
#ifndef MHA_TOOLS_DEMO_DECODE_GENERATE_H
#define MHA_TOOLS_DEMO_DECODE_GENERATE_H

#include <cstdint>
#include <vector>

#include "tools/demo_decode/llama.h"

namespace mha::demo {

using Tokens = std::vector<int64_t>;

struct Schedule {
  bool together = false;                     // all sequences in one call, else one after the other
  int64_t piece = 0;                         // tokens of a prompt per call, 0: all
  int64_t stagger = 0;                       // together: sequence b joins after b * stagger calls
  int64_t window = 0;                        // tokens that each token sees, 0: all
  const std::vector<Tokens>* fed = nullptr;  // [sequences][count]: read on, whatever was chosen; null: what was chosen
};

/// What was generated for one sequence: count tokens, and the logits [count, vocabulary] each was chosen from.
struct Generated {
  Tokens tokens;
  std::vector<float> logits;
};

/// Empties the caches, then continues prompt b, as sequence b of the caches, by `count` tokens.
std::vector<Generated> generate(Llama& model, const Caches& caches, const std::vector<Tokens>& prompts, int64_t count,
                                const Schedule& schedule);

}  // namespace mha::demo

#endif  // MHA_TOOLS_DEMO_DECODE_GENERATE_H
