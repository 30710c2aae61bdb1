// SPDX-License-Identifier: Apache-2.0
// Contexts that free themselves, and a loop over every target that is built in and runs on this CPU.
#ifndef MHA_TESTS_SUPPORT_TARGETS_H
#define MHA_TESTS_SUPPORT_TARGETS_H

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "core/mha.hpp"
#include "tests/support/catch.h"

namespace mha::test {

using ContextPtr = Owned<mha_context>;
using LinearPtr = Owned<mha_linear>;
using LayerPtr = Owned<mha_layer>;
using CachePtr = Owned<mha_cache>;

/// Fails with the library's message unless the status is MHA_OK.
inline void require_ok(mha_status status, const mha_error& error) {
  if (status != MHA_OK) FAIL(mha_status_string(status) << ": " << error.message);
}

/// Whether the message has this text in it.
inline bool mentions(const mha_error& error, const std::string& text) {
  return std::string(error.message).find(text) != std::string::npos;
}

inline ContextPtr make_context(const mha_context_options& options) {
  mha_context* context = nullptr;
  mha_error error = {};
  require_ok(mha_context_create(&options, &context, &error), error);
  return ContextPtr(context);
}

inline ContextPtr make_context(const std::string& target, int64_t num_threads) {
  mha_context_options options = {};
  options.num_threads = num_threads;
  options.target = target.c_str();
  return make_context(options);
}

/// The names of the targets that can run here, best first. The first call prints them, and fails if one of the
/// comma-separated names in the environment's MHA_REQUIRE_TARGETS is missing, so that no run
/// covers less than was meant without a word.
inline const std::vector<std::string>& all_targets() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> found;
    std::string line;
    for (int64_t n = 0; n < mha_target_count(); ++n) {
      if (!mha_target_supported(n)) continue;
      found.push_back(mha_target_name(n));
      line += " " + found.back();
    }
    std::printf("targets covered:%s\n", line.c_str());
    return found;
  }();
  if (const char* required = std::getenv("MHA_REQUIRE_TARGETS")) {
    std::istringstream list(required);
    for (std::string name; std::getline(list, name, ',');) {
      if (std::find(names.begin(), names.end(), name) == names.end())
        FAIL("MHA_REQUIRE_TARGETS names " << name << ", which is not built in or not supported by this CPU");
    }
  }
  REQUIRE(!names.empty());
  return names;
}

/// Those that have an F32 of their own. amx, and one that is named after another (avx512_bf16), is that one in F32.
inline const std::vector<std::string>& supported_targets() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> found;
    const auto follows = [](const std::string& name, const std::string& base) {
      return name.rfind(base + "_", 0) == 0;
    };
    for (const std::string& name : all_targets()) {
      const auto base = [&](const std::string& other) { return follows(name, other); };
      if (name != "amx" && std::none_of(all_targets().begin(), all_targets().end(), base)) found.push_back(name);
    }
    return found;
  }();
  return names;
}

/// What a context takes that is asked for none.
inline const std::string& default_target() {
  static const std::string name = mha_context_target(make_context(mha_context_options{}).get());
  return name;
}

/// Whether the target has the bits that those with fused multiply-add share.
inline bool has_fma(const std::string& target) {
  for (int64_t n = 0; n < mha_target_count(); ++n)
    if (target == mha_target_name(n)) return mha_target_same_bits(n) == 1;
  return false;
}

inline std::vector<std::string> fma_targets() {
  std::vector<std::string> names;
  for (const std::string& name : supported_targets())
    if (has_fma(name)) names.push_back(name);
  return names;
}

/// Whether the target has an arithmetic: BF16 where it has fused multiply-add and the build does (MHA_BF16), INT8 where the
/// build has codes.
inline bool has_arithmetic(const std::string& target, mha_arithmetic arithmetic) {
  const ContextPtr context = make_context(target, 1);
  const float weight = 1;
  mha_linear_config config = {};
  config.in_features = config.out_features = 1, config.weight = view(&weight), config.arithmetic = arithmetic;
  mha_linear* linear = nullptr;
  const bool has = mha_linear_create(context.get(), &config, &linear, nullptr) == MHA_OK;
  mha_linear_destroy(linear);
  return has;
}

/// The targets that have an arithmetic and kernels of their own for it, best first.
inline const std::vector<std::string>& targets_of(mha_arithmetic arithmetic) {
  if (arithmetic == MHA_ARITHMETIC_F32) return supported_targets();
  const auto found_of = [](mha_arithmetic of) {
    std::vector<std::string> found;
    for (const std::string& name : all_targets())
      if (has_arithmetic(name, of)) found.push_back(name);
    return found;
  };
  static const std::vector<std::string> bf16 = found_of(MHA_ARITHMETIC_BF16), int8 = found_of(MHA_ARITHMETIC_INT8);
  return arithmetic == MHA_ARITHMETIC_BF16 ? bf16 : int8;
}

/// The one context of this target and thread count; made when first asked for.
inline const mha_context* shared_context(const std::string& target, int64_t num_threads) {
  static std::map<std::pair<std::string, int64_t>, ContextPtr> contexts;
  ContextPtr& context = contexts[{target, num_threads}];
  if (!context) {
    context = make_context(target, num_threads);
    REQUIRE(mha_context_target(context.get()) == target);
  }
  return context.get();
}

/// body(name, context) for every supported target, on a context forced to it.
template <class Body>
void for_each_target(Body&& body, int64_t num_threads = 1) {
  for (const std::string& name : supported_targets()) {
    INFO("target " << name);
    body(name, shared_context(name, num_threads));
  }
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_TARGETS_H
