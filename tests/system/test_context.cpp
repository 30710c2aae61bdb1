// SPDX-License-Identifier: Apache-2.0
// Contexts: targets by option and by environment, thread counts, allocators.
#include <cstdlib>
#include <optional>

#include "core/run/parallel.h"
#include "tests/support/counting.h"
#include "tests/support/layers.h"

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

}  // namespace

TEST_CASE("context: no options gives the best supported target", "[context]") {
  const TargetInEnvironment unset(nullptr);
  mha_context* made = nullptr;
  REQUIRE(mha_context_create(nullptr, &made, nullptr) == MHA_OK);
  const ContextPtr context(made);
  // The first, but pairs of bf16 on AMD's CPUs alone, and tiles where the system permits them.
  const std::string got = mha_context_target(context.get());
  size_t first = 0;
  while (got != all_targets()[first] && (all_targets()[first] == "amx" || all_targets()[first] == "avx512_bf16"))
    ++first;
  CHECK(got == all_targets()[first]);
  const TargetInEnvironment empty("");
  CHECK(default_target() == got);
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
    CHECK(mha_target_same_bits(index) == 0);
  }
  CHECK(mha_target_count() >= 1);
}

TEST_CASE("context: the targets with fused multiply-add say that they share their bits", "[context]") {
  const std::map<std::string, int> known = {{"amx", 1},    {"avx512_bf16", 1},  {"avx512_vnni", 1},
                                            {"avx512", 1}, {"avx2_vnni", 1},    {"avx2", 1},
                                            {"neon", 1},   {"neon_dotprod", 1}, {"sse2", 0}};
  int64_t found = 0;
  for (int64_t n = 0; n < mha_target_count(); ++n) {
    const auto target = known.find(mha_target_name(n));
    if (target == known.end()) continue;
    INFO(target->first);
    CHECK(mha_target_same_bits(n) == target->second);
    ++found;
  }
  CHECK(found > 0);
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
  options.allocator = {&allocator, nullptr, nullptr};
  check_fails(options, MHA_ERR_ARGUMENT, {"allocator.user is given, but allocator.allocate is NULL"});
  CHECK(allocator.calls == 0);
  options.allocator = {};
  options.parallel_for.user = &allocator;
  check_fails(options, MHA_ERR_ARGUMENT, {"parallel_for.user is given, but parallel_for.run is NULL"});
  options.parallel_for.user = nullptr;
  options.allocator = allocator.functions();
  allocator.fail_at = 0;
  mha_context* context = nullptr;
  CHECK(mha_context_create(&options, &context, nullptr) == MHA_ERR_OUT_OF_MEMORY);
  CHECK(context == nullptr);
}

TEST_CASE("context: fields of later versions", "[context]") {
  for (size_t n = 0; n < 8; ++n) {
    mha_context_options options = {};
    options.reserved[n] = uint64_t{1} << (9 * n % 64);
    check_fails(options, MHA_ERR_ARGUMENT, {"options.reserved[" + std::to_string(n) + "] is not 0", mha_version()});
  }
}

TEST_CASE("context: NULL", "[context]") {
  mha_error error = {};
  CHECK(mha_context_create(nullptr, nullptr, &error) == MHA_ERR_NULL);
  CHECK(mentions(error, "context is NULL"));
  mha_context_destroy(nullptr);
}

TEST_CASE("context: threading that is unknown, beside a host's parallel-for, or not built in", "[context][threads]") {
  mha_context_options options = {};
  for (int value : {-1, 3, 100}) {
    options.threading = static_cast<mha_threading>(value);
    check_fails(options, MHA_ERR_ARGUMENT, {"threading is " + std::to_string(value)});
  }
  options.parallel_for.run = [](void*, int64_t, void (*)(void*, int64_t), void*) {};
  for (mha_threading threading : {MHA_THREADING_OPENMP, MHA_THREADING_POOL}) {
    for (int64_t threads : {0, 1, 2}) {
      options.threading = threading, options.num_threads = threads;
      check_fails(options, MHA_ERR_ARGUMENT, {"threading is " + std::to_string(threading), "parallel_for.run"});
    }
  }
  options = {};
  options.threading = MHA_THREADING_OPENMP;
  if (mha::has_openmp()) {
    make_context(options);
  } else {
    check_fails(options, MHA_ERR_THREAD, {"threading is 1", "without OpenMP"});
  }
}
