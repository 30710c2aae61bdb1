// SPDX-License-Identifier: Apache-2.0
// One sequence at a time through a contiguous cache, on all threads, is what everything else must equal in every bit.
#include "tools/demo_decode/checks.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace mha::demo {
namespace {

constexpr float kLargestDifference = 1e-4f;  // of a logit to torch's; their standard deviation is 1
constexpr int64_t kPiece = 7;
constexpr int64_t kStagger = 9;
constexpr int64_t kWindow = 64;
constexpr int64_t kOddPage = 13;

template <class T>
io::Tensor<T> read_tensor(const io::Safetensors& file, const std::string& name, size_t rank) {
  auto tensor = file.read<T>(name);
  if (!tensor) throw std::runtime_error(tensor.message());
  if (tensor->shape.size() != rank)
    throw std::runtime_error(file.label() + ": " + name + " has shape " + io::shape_text(tensor->shape));
  return std::move(*tensor);
}

bool same_bits(const Generated& a, const Generated& b) {
  return a.tokens == b.tokens && a.logits.size() == b.logits.size() &&
         std::memcmp(a.logits.data(), b.logits.data(), a.logits.size() * sizeof(float)) == 0;
}

/// Where generation left torch's path, and how far the logits are apart before.
struct Distance {
  int64_t other_tokens = 0;
  float largest = 0;
};

Distance distance(const std::vector<Generated>& got, const std::vector<Generated>& want, int64_t vocabulary) {
  Distance result;
  for (size_t b = 0; b < want.size(); ++b) {
    for (size_t n = 0; n < want[b].tokens.size(); ++n) {
      for (size_t v = n * static_cast<size_t>(vocabulary); v < (n + 1) * static_cast<size_t>(vocabulary); ++v) {
        const float apart = std::fabs(got[b].logits[v] - want[b].logits[v]);
        if (!(apart <= result.largest)) result.largest = apart;  // a NaN stays
      }
      if (got[b].tokens[n] == want[b].tokens[n]) continue;
      // Behind another token everything is another text.
      result.other_tokens += static_cast<int64_t>(want[b].tokens.size() - n);
      break;
    }
  }
  return result;
}

/// Runs everything for one model and keeps the list of results.
class Checks {
 public:
  Checks(const Expected& expected, nlohmann::json& list) : expected_(expected), list_(list) {}

  void close(const std::string& what, const std::vector<Generated>& got, int64_t vocabulary) {
    const Distance d = distance(got, expected_.generated, vocabulary);
    char text[120];
    std::snprintf(text, sizeof text, "%lld tokens differ, largest difference of a logit %.1e",
                  static_cast<long long>(d.other_tokens), static_cast<double>(d.largest));
    add(what, d.other_tokens == 0 && d.largest <= kLargestDifference, text);
  }

  void same(const std::string& what, const std::vector<Generated>& got, const std::vector<Generated>& want) {
    size_t different = 0;
    for (size_t b = 0; b < want.size(); ++b) different += same_bits(got[b], want[b]) ? 0 : 1;
    add(what, different == 0,
        different == 0 ? "equal in every bit" : std::to_string(different) + " sequences are not equal");
  }

 private:
  void add(const std::string& what, bool ok, const std::string& detail) {
    list_.push_back({{"what", what}, {"ok", ok}, {"detail", detail}});
  }

  const Expected& expected_;
  nlohmann::json& list_;
};

struct Kind {
  const char* name;
  mha_cache_config shape;
};

std::vector<Kind> kinds(const Expected& expected) {
  mha_cache_config shape = {};
  shape.max_sequences = static_cast<int64_t>(expected.prompts.size());
  shape.capacity = expected.longest();
  mha_cache_config ring = shape;
  ring.kind = MHA_CACHE_RING;
  mha_cache_config paged = shape;
  paged.kind = MHA_CACHE_PAGED;
  // The last page of each sequence may be all but empty.
  mha_cache_config odd = paged;
  odd.page_size = kOddPage;
  odd.capacity = expected.total() + shape.max_sequences * odd.page_size;
  paged.page_size = 64;
  paged.capacity = expected.total() + shape.max_sequences * paged.page_size;
  return {{"contiguous", shape}, {"ring", ring}, {"paged, 64 tokens", paged}, {"paged, 13 tokens", odd}};
}

void check_kinds(Llama& model, const Expected& expected, Checks& checks, std::vector<Generated>& alone) {
  for (const Kind& kind : kinds(expected)) {
    const Caches caches = model.make_caches(kind.shape);
    const auto run = [&](const Schedule& schedule) {
      return generate(model, caches, expected.prompts, expected.count(), schedule);
    };
    const std::string name = std::string(kind.name) + ": ";
    Schedule schedule;
    const std::vector<Generated> one_by_one = run(schedule);
    checks.close(name + "one by one, beside torch", one_by_one, model.config().vocabulary);
    if (alone.empty())
      alone = one_by_one;
    else
      checks.same(name + "one by one, beside contiguous", one_by_one, alone);
    schedule.together = true;
    checks.same(name + "eight in a batch, beside one by one", run(schedule), alone);
    schedule.piece = kPiece;
    checks.same(name + "prompts in pieces of 7", run(schedule), alone);
    schedule.stagger = kStagger;
    checks.same(name + "joining one after the other, prefill beside decode", run(schedule), alone);
  }
}

/// A ring that keeps little more than the window, and a contiguous cache with the window as a mask.
void check_window(Llama& model, const Expected& expected, Checks& checks) {
  Schedule schedule;
  schedule.together = true;
  schedule.window = kWindow;
  schedule.piece = kPiece;
  mha_cache_config shape = kinds(expected)[0].shape;
  const Caches contiguous = model.make_caches(shape);
  shape.kind = MHA_CACHE_RING;
  shape.capacity = kWindow + kPiece - 1;
  const Caches ring = model.make_caches(shape);
  const auto want = generate(model, contiguous, expected.prompts, expected.count(), schedule);
  const auto got = generate(model, ring, expected.prompts, expected.count(), schedule);
  checks.same("sliding window of 64: a ring of 70 tokens, beside contiguous", got, want);
}

/// Whether targets with fused multiply-add share the bits of this one.
bool has_same_bits(const std::string& target) {
  for (int64_t n = 0; n < mha_target_count(); ++n)
    if (target == mha_target_name(n)) return mha_target_same_bits(n) == 1;
  return false;
}

/// Other threads and targets, all together through pages.
void check_contexts(const std::string& path, const Context& own, const Expected& expected, Checks& checks,
                    const std::vector<Generated>& alone) {
  for (int64_t n = 0; n < mha_target_count(); ++n) {
    if (!mha_target_supported(n)) continue;
    const std::string target = mha_target_name(n);
    if (target == own.target() && own.num_threads() == 1) continue;
    const Context context = make_context(target, 1);
    Llama model(context, path);
    const Caches caches = model.make_caches(kinds(expected)[2].shape);
    Schedule schedule;
    schedule.together = true;
    const auto got = generate(model, caches, expected.prompts, expected.count(), schedule);
    if (!mha_target_same_bits(n) || !has_same_bits(own.target()))
      checks.close(target + " on one thread, beside torch", got, model.config().vocabulary);
    else
      checks.same(target + " on one thread", got, alone);
  }
}

}  // namespace

Expected Expected::read(const std::string& path) {
  const auto file = io::Safetensors::open(path);
  if (!file) throw std::runtime_error(file.message());
  const auto ids = read_tensor<int64_t>(*file, "prompts", 1),
             offsets = read_tensor<int64_t>(*file, "prompt_offsets", 1);
  const auto tokens = read_tensor<int64_t>(*file, "tokens", 2);
  const auto logits = read_tensor<float>(*file, "logits", 3);
  const auto sequences = static_cast<size_t>(tokens.shape[0]);
  const auto count = tokens.shape[1], row = count * logits.shape[2];
  if (sequences == 0 || offsets.values.size() != sequences + 1 || logits.shape[0] != tokens.shape[0] ||
      logits.shape[1] != count || offsets.values.back() != static_cast<int64_t>(ids.values.size()))
    throw std::runtime_error(path + ": prompts, tokens and logits do not fit each other");
  Expected expected;
  for (size_t b = 0; b < sequences; ++b) {
    const auto n = static_cast<int64_t>(b);
    if (offsets.values[b] >= offsets.values[b + 1] || offsets.values[b] < 0 ||
        offsets.values[b + 1] > static_cast<int64_t>(ids.values.size()))
      throw std::runtime_error(path + ": prompt " + std::to_string(b) + " is empty or beyond the prompts' tokens");
    expected.prompts.emplace_back(ids.values.begin() + offsets.values[b], ids.values.begin() + offsets.values[b + 1]);
    expected.generated.push_back({{tokens.values.begin() + n * count, tokens.values.begin() + (n + 1) * count},
                                  {logits.values.begin() + n * row, logits.values.begin() + (n + 1) * row}});
  }
  expected.long_prompt = read_tensor<int64_t>(*file, "long_prompt", 1).values;
  return expected;
}

int64_t Expected::longest() const {
  size_t longest = 0;
  for (const Tokens& prompt : prompts) longest = std::max(longest, prompt.size());
  return static_cast<int64_t>(longest) + count();
}

int64_t Expected::total() const {
  int64_t total = 0;
  for (const Tokens& prompt : prompts) total += static_cast<int64_t>(prompt.size()) + count();
  return total;
}

Context make_context(const std::string& target, int64_t threads) {
  mha_context_options options = {};
  options.num_threads = threads;
  options.target = target.empty() ? nullptr : target.c_str();
  return require(Context::create(options));
}

nlohmann::json check(const std::string& model_path, const Expected& expected, const std::string& target,
                     int64_t threads) {
  const Context context = make_context(target, threads);
  Llama model(context, model_path);
  nlohmann::json list = nlohmann::json::array();
  Checks checks(expected, list);
  std::vector<Generated> alone;
  check_kinds(model, expected, checks, alone);
  check_window(model, expected, checks);
  check_contexts(model_path, context, expected, checks, alone);
  return {{"target", context.target()}, {"threads", context.num_threads()}, {"checks", list}};
}

}  // namespace mha::demo
