// SPDX-License-Identifier: Apache-2.0
// The engine of toy_engine/engine.h in C++: continuous batching, drafts, forks, requests that wait when the cache is full
// and are read again later.
#ifndef MHA_TOOLS_EXAMPLES_TOY_ENGINE_CPP_ENGINE_H
#define MHA_TOOLS_EXAMPLES_TOY_ENGINE_CPP_ENGINE_H

#include <cstdint>
#include <map>
#include <vector>

#include "tools/examples/toy_engine_cpp/model.h"

namespace toy {

enum class Draft { kNone, kLookup, kLayerOne };

struct Request {
  std::int64_t id = 0;
  std::vector<Token> tokens;  // the prompt, then what is generated
  std::size_t wanted = 0;     // tokens to generate
  Draft draft = Draft::kNone;
  std::size_t fork_at = 0;  // after this many generated tokens the child begins, with the second best for the last
  Request* child = nullptr;
  // Of the engine:
  std::size_t prompt = 0;
  std::int64_t arrival = 0, slot = 0;
  std::vector<Token> drafts;
  std::uint64_t hash = 14695981039346656037u;  // of the hidden states and logits of the generated tokens

  std::size_t generated() const { return tokens.size() - prompt; }
};

struct Stats {
  std::int64_t steps = 0, preemptions = 0, forks = 0, proposed = 0, accepted = 0, largest_batch = 0;
};

class Engine {
 public:
  /// The caches have 2 * slots sequences: `slots` for requests, as many for forks that draft.
  Engine(const Model& model, Caches& caches, std::int64_t slots);
  /// The request must stay where it is until run returns.
  void submit(Request& request);
  /// Until all are done.
  void run();
  const Stats& stats() const { return stats_; }

 private:
  using Queue = std::map<std::int64_t, Request*>;  // by arrival: the oldest first

  void step();
  void admit();
  void propose();
  void draft_by_layer_one(const std::vector<Request*>& requests);
  void add_item(Request& request);
  bool make_room(Request& request, std::int64_t tokens);
  void accept(Request& request, const float* hidden, const float* logits);
  void begin_child(Request& parent, Token second);
  void start(Request& request);
  void stop(Request& request);
  bool reserve(std::int64_t sequence, std::int64_t tokens, std::size_t layers);
  std::int64_t cached(const Request& request) const { return caches_[0].length(request.slot); }
  std::int64_t fork_of(const Request& request) const { return slots_ + request.slot; }

  const Model& model_;
  Caches& caches_;
  std::int64_t slots_;
  std::vector<std::int64_t> free_slots_;
  Queue waiting_, running_;
  std::int64_t arrivals_ = 0;
  std::vector<Item> items_;
  std::vector<Request*> owners_;  // of the items
  Stats stats_;
};

}  // namespace toy

#endif  // MHA_TOOLS_EXAMPLES_TOY_ENGINE_CPP_ENGINE_H
