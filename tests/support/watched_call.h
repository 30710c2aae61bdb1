// SPDX-License-Identifier: Apache-2.0
// What tests of mha_attention's refusals share: a valid call to be spoiled, and the checks of each mistake.
#ifndef MHA_TESTS_SUPPORT_WATCHED_CALL_H
#define MHA_TESTS_SUPPORT_WATCHED_CALL_H

#include "tests/support/caches.h"
#include "tests/support/layers.h"
#include "tests/support/status.h"

namespace mha::test {

/// A valid call, with results that are watched, and room for what a mistake points to.
struct WatchedCall {
  AttentionProblem problem{{2, 4, 2, 3, 5, 8, 6}, MaskKind::kNone, 140000};
  std::vector<float> output = poisoned(2 * 3 * 4 * 6), weights = poisoned(2 * 4 * 3 * 5), lse = poisoned(2 * 4 * 3);
  std::vector<uint8_t> open = std::vector<uint8_t>(2 * 4 * 3 * 5, 1);
  std::vector<float> floats = std::vector<float>(2 * 4 * 3 * 5, 0.5f);
  std::vector<int64_t> numbers, more_numbers;
  std::vector<int32_t> table;
  mha_norm norm = {};
  mha_rope rope = {};
  mha_pages pages = {};
  mha_quant quant = {};
  CachePtr cache;
  AttentionCall args = problem.args();

  WatchedCall() {
    args.output = mut_view(output.data());
    args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
    args.results.weights = mut_view(weights.data());
    args.results.log_sum_exp = lse.data();
    norm.epsilon = 1e-5f;
  }
  bool untouched() const {
    for (const std::vector<float>* result : {&output, &weights, &lse})
      if (!std::all_of(result->begin(), result->end(), is_poison)) return false;
    return true;
  }
  const int64_t* list(std::initializer_list<int64_t> values) { return (numbers = values).data(); }
  const int64_t* other_list(std::initializer_list<int64_t> values) { return (more_numbers = values).data(); }

  /// Two sequences of 5 and 4 tokens instead of key and value.
  void use_cache(const std::function<void(mha_cache_config&)>& change = [](mha_cache_config&) {}) {
    mha_cache_config config = cache_config(MHA_CACHE_CONTIGUOUS, 16, 2);
    config.head_dim = 8, config.value_head_dim = 6;
    change(config);
    cache = make_cache(cache_context(), config);
    require_append(cache.get(), 0, random_tokens(config_of(cache.get()), 5, 140001));
    require_append(cache.get(), 1, random_tokens(config_of(cache.get()), 4, 140002));
    args.key = args.value = {};
    args.key_len = 0;
    args.cache = cache.get();
  }
  /// Two sequences of 37 and 38 tokens in rings, which have dropped the first 16.
  void use_ring() {
    use_cache([](mha_cache_config& c) { c.kind = MHA_CACHE_RING, c.capacity = 4; });
    require_append(cache.get(), 0, random_tokens(config_of(cache.get()), 32, 140003));
    require_append(cache.get(), 1, random_tokens(config_of(cache.get()), 34, 140004));
  }
  /// Key and value as three pages of two tokens for each item.
  void use_pages() {
    table = {0, 1, 2, 2, 1, 0};
    pages.table = table.data(), pages.page_size = 2, pages.num_pages = 3;
    args.pages = &pages;
    args.items.key_lengths = list({5, 4});
  }
  /// An odd address, which no element of 16 bits may have.
  uint8_t* odd() { return open.data() + 1 - reinterpret_cast<uintptr_t>(open.data()) % 2; }
  void choose(std::initializer_list<int64_t> rows) {
    choose_weights_rows(&args, list(rows), static_cast<int64_t>(rows.size()));
  }
};

/// mha_attention_workspace_bytes and _explain do not follow pointers to tensors and masks, but check all else.
enum class By { kEveryCall, kTheCallAlone };

struct AttentionMistake {
  mha_status status;
  std::vector<std::string> texts;
  std::function<void(WatchedCall&)> make;
  By seen = By::kEveryCall;
};

template <size_t kCount>
void check_mistakes(const AttentionMistake (&mistakes)[kCount]) {
  const mha_context* context = any_context();
  int number = 0;
  for (const AttentionMistake& mistake : mistakes) {
    INFO("mistake " << number++ << ", expected to mention " << mistake.texts[0]);
    WatchedCall call;
    std::vector<float> workspace = poisoned(100000);
    call.args.resources.workspace = workspace.data();
    call.args.resources.workspace_bytes = workspace.size() * sizeof(float);
    mistake.make(call);
    mha_error error = fresh_error();
    check_error(attention(context, call.args, &error), mistake.status, error, mistake.texts);
    CHECK(attention(context, call.args, nullptr) == mistake.status);
    CHECK(call.untouched());
    CHECK(std::all_of(workspace.begin(), workspace.end(), is_poison));

    size_t bytes = 12345, needed = 12345;
    char text[8] = "same";
    error = fresh_error();
    const mha_status status = attention_workspace_bytes(context, call.args, &bytes, &error);
    if (mistake.seen == By::kEveryCall) {
      check_error(status, mistake.status, error, mistake.texts);
      CHECK(bytes == 12345);
      CHECK(attention_explain(context, call.args, text, sizeof text, &needed, nullptr) == mistake.status);
      CHECK(std::string(text) == "same");
      CHECK(needed == 12345);
    } else {
      CHECK(status == MHA_OK);
      CHECK(attention_explain(context, call.args, text, sizeof text, &needed, nullptr) == MHA_OK);
    }
  }
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_WATCHED_CALL_H
