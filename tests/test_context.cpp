// SPDX-License-Identifier: Apache-2.0
// Contexts: targets by option and by environment, thread counts, allocators, and what explain says of a call.
#include <cstdlib>
#include <optional>

#include "support/counting.h"
#include "support/layers.h"

using namespace mha::test;

namespace {

/// Sets MHA_TARGET for its lifetime.
class TargetInEnvironment {
 public:
  explicit TargetInEnvironment(const char* value) {
    if (const char* before = std::getenv("MHA_TARGET")) before_ = before;
    if (value)
      setenv("MHA_TARGET", value, 1);
    else
      unsetenv("MHA_TARGET");
  }
  ~TargetInEnvironment() {
    if (before_)
      setenv("MHA_TARGET", before_->c_str(), 1);
    else
      unsetenv("MHA_TARGET");
  }

 private:
  std::optional<std::string> before_;
};

void check_fails(const mha_context_options& options, mha_status want, const std::vector<std::string>& texts) {
  mha_context* context = reinterpret_cast<mha_context*>(&context);
  mha_error error = {};
  CHECK(mha_context_create(&options, &context, &error) == want);
  CHECK(context == nullptr);
  CHECK(error.status == want);
  for (const std::string& text : texts) {
    INFO("message: " << error.message);
    CHECK(mentions(error, text));
  }
  CHECK(mha_context_create(&options, &context, nullptr) == want);
}

std::string explain(const mha_context* context, const mha_attention_args& args) {
  size_t needed = 0;
  mha_error error = {};
  require_ok(mha_attention_explain(context, &args, nullptr, 0, &needed, &error), error);
  std::vector<char> text(needed);
  require_ok(mha_attention_explain(context, &args, text.data(), text.size(), nullptr, &error), error);
  REQUIRE(std::strlen(text.data()) + 1 == needed);
  return text.data();
}

}  // namespace

TEST_CASE("context: no options gives the best supported target", "[context]") {
  const TargetInEnvironment unset(nullptr);
  mha_context* made = nullptr;
  REQUIRE(mha_context_create(nullptr, &made, nullptr) == MHA_OK);
  const ContextPtr context(made);
  CHECK(mha_context_target(context.get()) == supported_targets()[0]);
  const TargetInEnvironment empty("");
  CHECK(mha_context_target(make_context(mha_context_options{}).get()) == supported_targets()[0]);
}

TEST_CASE("context: MHA_TARGET chooses, the option comes before it", "[context]") {
  for (const std::string& name : supported_targets()) {
    const TargetInEnvironment environment(name.c_str());
    CHECK(mha_context_target(make_context(mha_context_options{}).get()) == name);
    for (const std::string& other : supported_targets())
      CHECK(mha_context_target(make_context(other, 1).get()) == other);
  }
  const TargetInEnvironment unknown("avx1024");
  check_fails(mha_context_options{}, MHA_ERR_TARGET, {"MHA_TARGET", "avx1024"});
  CHECK(mha_context_target(make_context(supported_targets()[0], 1).get()) == supported_targets()[0]);
}

TEST_CASE("context: an unknown or unsupported target is an error", "[context]") {
  mha_context_options options = {};
  for (const char* name : {"avx1024", "AVX2", "avx2 ", "best", "x", ""}) {
    options.target = name;
    check_fails(options, MHA_ERR_TARGET, {name});
  }
  const std::string long_name(1000, 'x');
  options.target = long_name.c_str();
  check_fails(options, MHA_ERR_TARGET, {"xxx"});
  for (int64_t n = 0; n < mha_target_count(); ++n) {
    if (mha_target_supported(n)) continue;
    options.target = mha_target_name(n);
    check_fails(options, MHA_ERR_TARGET, {options.target});
  }
}

TEST_CASE("context: target names outside the list", "[context]") {
  for (int64_t index : {int64_t{-1}, mha_target_count(), INT64_MAX, INT64_MIN}) {
    CHECK(mha_target_name(index) == nullptr);
    CHECK(mha_target_supported(index) == 0);
  }
  CHECK(mha_target_count() >= 1);
}

TEST_CASE("context: thread counts", "[context]") {
  mha_context_options options = {};
  for (int64_t threads : {int64_t{-1}, int64_t{1025}, INT64_MIN, INT64_MAX}) {
    options.num_threads = threads;
    check_fails(options, MHA_ERR_ARGUMENT, {"num_threads", std::to_string(threads)});
  }
  for (int64_t threads : {1, 2, 1024}) {
    options.num_threads = threads;
    CHECK(mha_context_num_threads(make_context(options).get()) == threads);
  }
}

TEST_CASE("context: half an allocator, and an allocator that has nothing", "[context]") {
  CountingAllocator allocator;
  mha_context_options options = {};
  options.allocator = allocator.functions();
  options.allocator.release = nullptr;
  check_fails(options, MHA_ERR_ARGUMENT, {"allocator.release"});
  options.allocator = allocator.functions();
  options.allocator.allocate = nullptr;
  check_fails(options, MHA_ERR_ARGUMENT, {"allocator.allocate"});
  CHECK(allocator.calls == 0);
  options.allocator = allocator.functions();
  allocator.fail_at = 0;
  mha_context* context = nullptr;
  CHECK(mha_context_create(&options, &context, nullptr) == MHA_ERR_OUT_OF_MEMORY);
  CHECK(context == nullptr);
}

TEST_CASE("context: NULL", "[context]") {
  mha_error error = {};
  CHECK(mha_context_create(nullptr, nullptr, &error) == MHA_ERR_NULL);
  CHECK(mentions(error, "context is NULL"));
  mha_context_destroy(nullptr);
}

TEST_CASE("explain: one key and value a line, cut where the buffer ends", "[context][explain]") {
  const AttentionProblem problem({1, 4, 2, 100, 600, 64, 64}, MaskKind::kNone, 150000);
  for_each_target([&](const std::string& target, const mha_context* context) {
    mha_attention_args args = problem.args();
    const std::string full = explain(context, args);
    std::istringstream lines(full);
    int64_t count = 0;
    for (std::string line; std::getline(lines, line); ++count) CHECK(line.find(": ") != std::string::npos);
    CHECK(count >= 5);
    CHECK(full.find("target: " + target + "\n") != std::string::npos);
    size_t bytes = 0;
    REQUIRE(mha_attention_workspace(context, &args, &bytes, nullptr) == MHA_OK);
    CHECK(full.find("workspace: " + std::to_string(bytes)) != std::string::npos);
    // The same without data, as for the size query.
    args.query.data = args.key.data = args.value.data = nullptr;
    CHECK(explain(context, args) == full);
    for (size_t capacity : {size_t{1}, size_t{2}, size_t{10}, full.size(), full.size() + 1, full.size() + 50}) {
      std::vector<char> text(capacity + 8, 'z');
      size_t needed = 0;
      REQUIRE(mha_attention_explain(context, &args, text.data(), capacity, &needed, nullptr) == MHA_OK);
      CHECK(needed == full.size() + 1);
      CHECK(std::string(text.data()) == full.substr(0, capacity - 1));
      CHECK(std::all_of(text.begin() + static_cast<int64_t>(capacity), text.end(), [](char c) { return c == 'z'; }));
    }
  });
}

TEST_CASE("explain: tells whether the chunks of a row are shared among threads", "[context][explain]") {
  // The cases of test_bits.cpp rely on this: few rows over many chunks are cut, many heads are not.
  const AttentionProblem decode({1, 1, 1, 1, 42000, 64, 64}, MaskKind::kNone, 151000);
  const AttentionProblem heads({4, 8, 8, 40, 130, 32, 33}, MaskKind::kNone, 151001);
  for_each_target(
      [&](const std::string&, const mha_context* context) {
        CHECK(explain(context, decode.args()).find("one per block and chunk (165 chunks)") != std::string::npos);
        CHECK(explain(context, decode.args()).find("threads: 5 of 5") != std::string::npos);
        CHECK(explain(context, heads.args()).find("one per block, over all 1 chunks") != std::string::npos);
        CHECK(explain(context, heads.args()).find("threads: 5 of 5") != std::string::npos);
      },
      5);
  const AttentionProblem small({1, 1, 1, 1, 1, 1, 1}, MaskKind::kNone, 151002);
  for_each_target(
      [&](const std::string&, const mha_context* context) {
        CHECK(explain(context, small.args()).find("threads: 1 of 5") != std::string::npos);
      },
      5);
}

TEST_CASE("explain: layer", "[context][explain]") {
  const LayerProblem problem({20, 4, 0, 0, 0, 0, 0, 0, 0}, 1, 3, 5, Biases::kAll, 152000);
  for_each_target([&](const std::string& target, const mha_context* context) {
    const LayerPtr layer = problem.make(context);
    const mha_forward_args args = problem.args();
    size_t needed = 0;
    REQUIRE(mha_layer_forward_explain(context, layer.get(), &args, nullptr, 0, &needed, nullptr) == MHA_OK);
    std::vector<char> text(needed);
    REQUIRE(mha_layer_forward_explain(context, layer.get(), &args, text.data(), needed, nullptr, nullptr) == MHA_OK);
    const std::string full = text.data();
    CHECK(full.size() + 1 == needed);
    CHECK(full.find("target: " + target) != std::string::npos);
    for (const char* part :
         {"query projection", "key projection", "value projection", "output projection", "workspace: "})
      CHECK(full.find(part) != std::string::npos);
    CHECK(mha_layer_forward_explain(context, layer.get(), &args, nullptr, 5, &needed, nullptr) == MHA_ERR_NULL);
    CHECK(mha_layer_forward_explain(context, nullptr, &args, text.data(), 5, &needed, nullptr) == MHA_ERR_NULL);
    CHECK(mha_layer_forward_explain(nullptr, layer.get(), &args, text.data(), 5, &needed, nullptr) == MHA_ERR_NULL);
    CHECK(mha_layer_forward_explain(context, layer.get(), nullptr, text.data(), 5, &needed, nullptr) == MHA_ERR_NULL);
  });
}
