// SPDX-License-Identifier: Apache-2.0
// The queues, the drafts and the steps of the engine.
#include "tools/examples/toy_engine_cpp/engine.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace toy {
namespace {

constexpr std::size_t kMostDrafts = 4;  // that one step verifies
constexpr std::int64_t kPiece = 32;     // tokens of a prompt that one step reads

/// The tokens with the greatest logit and the second greatest; of equals the first.
std::pair<Token, Token> choose(const float* logits) {
  const auto best = std::max_element(logits, logits + kVocabulary) - logits;
  std::vector<float> others(logits, logits + kVocabulary);
  others.erase(others.begin() + best);
  const auto second = std::max_element(others.begin(), others.end()) - others.begin();
  return {static_cast<Token>(best), static_cast<Token>(second < best ? second : second + 1)};
}

std::uint64_t hash_bits(std::uint64_t hash, const float* values, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, &values[i], sizeof bits);
    hash = (hash ^ bits) * 1099511628211u;
  }
  return hash;
}

/// How many drafts the request can use: the step that verifies them generates one token more.
std::size_t usable(const Request& request) { return std::min(request.wanted - request.generated() - 1, kMostDrafts); }

/// What followed when the last two tokens stood together before.
std::vector<Token> look_up(const std::vector<Token>& tokens, std::size_t most) {
  if (tokens.size() < 3) return {};
  const auto found = std::find_end(tokens.begin(), tokens.end() - 1, tokens.end() - 2, tokens.end());
  if (found == tokens.end() - 1) return {};
  const auto begin = found + 2;
  return {begin, begin + std::min<std::ptrdiff_t>(static_cast<std::ptrdiff_t>(most), tokens.end() - begin)};
}

}  // namespace

Engine::Engine(const Model& model, Caches& caches, std::int64_t slots) : model_(model), caches_(caches), slots_(slots) {
  for (std::int64_t slot = slots; slot > 0; --slot) free_slots_.push_back(slot - 1);
}

void Engine::submit(Request& request) {
  request.prompt = request.tokens.size();
  request.arrival = arrivals_++;
  waiting_[request.arrival] = &request;
}

void Engine::run() {
  while (!waiting_.empty() || !running_.empty()) step();
}

/// Reserves room in the first `layers` caches. False where one of them has none: then nothing is reserved.
bool Engine::reserve(std::int64_t sequence, std::int64_t tokens, std::size_t layers) {
  std::vector<mha_cache*> handles;
  for (std::size_t n = 0; n < layers; ++n) handles.push_back(caches_[n].get());
  mha_reserve_args args = {};
  args.caches = handles.data();
  args.num_caches = static_cast<std::int64_t>(layers);
  args.batch = 1;
  args.sequences = &sequence;
  args.tokens = &tokens;
  const mha::Status status = mha::Cache::reserve(args);
  if (status.code() != MHA_ERR_FULL) require(status);
  return static_cast<bool>(status);
}

void Engine::start(Request& request) {
  request.slot = free_slots_.back();
  free_slots_.pop_back();
  running_[request.arrival] = &request;
}

void Engine::stop(Request& request) {
  for (mha::Cache& cache : caches_) require(cache.remove(request.slot));
  free_slots_.push_back(request.slot);
  running_.erase(request.arrival);
}

/// Starts those that wait, the oldest first. Beside a request there must be room for a token of each that runs.
void Engine::admit() {
  while (!waiting_.empty() && !free_slots_.empty()) {
    Request& request = *waiting_.begin()->second;
    const auto tokens = static_cast<std::int64_t>(request.tokens.size());
    if (caches_[0].room(free_slots_.back()) < tokens + static_cast<std::int64_t>(running_.size())) return;
    if (!reserve(free_slots_.back(), tokens, caches_.size())) return;
    waiting_.erase(waiting_.begin());
    start(request);
  }
}

void Engine::propose() {
  std::vector<Request*> by_layer_one;
  for (const auto& [arrival, request] : running_) {
    request->drafts.clear();
    const bool reads = static_cast<std::int64_t>(request->tokens.size()) - cached(*request) != 1;
    if (reads || usable(*request) == 0 || request->draft == Draft::kNone) continue;
    if (request->draft == Draft::kLookup) {
      request->drafts = look_up(request->tokens, usable(*request));
    } else {
      by_layer_one.push_back(request);
    }
  }
  draft_by_layer_one(by_layer_one);
}

/// Runs the first layer alone, on forks of the sequences, which are removed afterwards. Without room there are no drafts.
void Engine::draft_by_layer_one(const std::vector<Request*>& requests) {
  mha::Cache& cache = caches_[0];
  std::vector<Request*> forked;
  for (Request* request : requests) {
    require(cache.fork(request->slot, fork_of(*request)));
    if (reserve(fork_of(*request), static_cast<std::int64_t>(usable(*request)), 1)) {
      forked.push_back(request);
    } else {
      require(cache.remove(fork_of(*request)));
    }
  }
  for (std::size_t n = 0; n < kMostDrafts; ++n) {
    std::vector<Item> items;
    std::vector<Request*> owners;
    for (Request* request : forked) {
      if (request->drafts.size() == usable(*request)) continue;
      items.push_back({fork_of(*request), {n == 0 ? request->tokens.back() : request->drafts.back()}, 1});
      owners.push_back(request);
    }
    if (items.empty()) break;
    const Rows rows = model_.run(caches_, items, 1);
    for (std::size_t i = 0; i < owners.size(); ++i)
      owners[i]->drafts.push_back(choose(rows.logits.data() + static_cast<std::int64_t>(i) * kVocabulary).first);
  }
  for (const Request* request : forked) require(cache.remove(fork_of(*request)));
}

/// Until there is room, the youngest request waits again, with all tokens that it has; false where it is this one.
bool Engine::make_room(Request& request, std::int64_t tokens) {
  while (!reserve(request.slot, tokens, caches_.size())) {
    Request& youngest = *running_.rbegin()->second;
    stop(youngest);
    waiting_[youngest.arrival] = &youngest;
    ++stats_.preemptions;
    if (&youngest == &request) return false;
  }
  return true;
}

/// The request's next tokens, and its drafts where there is room for them without preempting anyone.
void Engine::add_item(Request& request) {
  const std::int64_t begin = cached(request), left = static_cast<std::int64_t>(request.tokens.size()) - begin;
  const std::int64_t count = std::min(left, kPiece);
  const auto drafts = static_cast<std::int64_t>(request.drafts.size());
  if (drafts > 0 && !reserve(request.slot, count + drafts, caches_.size())) request.drafts.clear();
  if (request.drafts.empty() && !make_room(request, count)) return;
  Item item = {request.slot, {request.tokens.begin() + begin, request.tokens.begin() + begin + count}, 0};
  item.tokens.insert(item.tokens.end(), request.drafts.begin(), request.drafts.end());
  if (count == left) item.wanted = 1 + static_cast<std::int64_t>(request.drafts.size());
  stats_.proposed += static_cast<std::int64_t>(request.drafts.size());
  items_.push_back(std::move(item));
  owners_.push_back(&request);
}

/// The child has the parent's tokens, with `second` as the last. It shares the parent's pages if a slot is free.
void Engine::begin_child(Request& parent, Token second) {
  Request& child = *parent.child;
  child.tokens = parent.tokens;
  child.tokens.back() = second;
  submit(child);
  if (free_slots_.empty()) return;
  waiting_.erase(child.arrival);
  start(child);
  ++stats_.forks;
  for (mha::Cache& cache : caches_)
    require(cache.fork(parent.slot, child.slot, static_cast<std::int64_t>(child.tokens.size()) - 1));
}

/// Takes the token behind each row, as long as the drafts before it were right; then the caches lose the others.
void Engine::accept(Request& request, const float* hidden, const float* logits) {
  for (std::size_t i = 0;; ++i, hidden += kWidth, logits += kVocabulary) {
    const auto [best, second] = choose(logits);
    request.hash = hash_bits(hash_bits(request.hash, hidden, kWidth), logits, kVocabulary);
    request.tokens.push_back(best);
    if (request.child != nullptr && request.generated() == request.fork_at) begin_child(request, second);
    if (i == request.drafts.size() || request.drafts[i] != best) break;
    ++stats_.accepted;
  }
  if (request.generated() == request.wanted) {
    stop(request);
  } else if (!request.drafts.empty()) {
    for (mha::Cache& cache : caches_)
      require(cache.truncate(request.slot, static_cast<std::int64_t>(request.tokens.size()) - 1));
  }
}

void Engine::step() {
  admit();
  propose();
  items_.clear();
  owners_.clear();
  // The oldest first, so that those that are preempted are behind.
  for (auto next = running_.begin(); next != running_.end();) {
    Request& request = *next->second;
    const std::int64_t arrival = request.arrival;
    add_item(request);
    next = running_.upper_bound(arrival);
  }
  const Rows rows = model_.run(caches_, items_, kLayers);
  ++stats_.steps;
  stats_.largest_batch = std::max(stats_.largest_batch, static_cast<std::int64_t>(items_.size()));
  std::int64_t row = 0;
  for (std::size_t i = 0; i < items_.size(); ++i) {
    if (items_[i].wanted > 0)
      accept(*owners_[i], rows.hidden.data() + row * kWidth, rows.logits.data() + row * kVocabulary);
    row += items_[i].wanted;
  }
}

}  // namespace toy
