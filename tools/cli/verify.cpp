// SPDX-License-Identifier: Apache-2.0
// `mha verify`: is the library right on this machine? Every supported target against the double reference, a line each,
// and the promise of equal bits between thread counts and between the targets with fused multiply-add.
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "tools/cli/commands.h"
#include "tools/cli/support.h"
#include "tools/cli/verify_cases.h"

namespace mha::cli {
namespace {

constexpr std::int64_t kThreadCounts[] = {1, 2, 3, 5};

// What is known of one target so far.
struct TargetState {
  std::string name;
  bool same_bits;                 // as the other targets with fused multiply-add
  std::vector<Context> contexts;  // one for each of kThreadCounts
  std::int64_t cases = 0;
  double worst[3] = {};  // by VerifyKind
  std::vector<std::string> failures;
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

std::vector<TargetState> supported_targets(const std::string& only) {
  std::vector<TargetState> targets;
  for (std::int64_t i = 0; i < mha_target_count(); ++i) {
    const std::string name = mha_target_name(i);
    if (only.empty() ? mha_target_supported(i) == 0 : name != only) continue;
    TargetState state;
    state.same_bits = mha_target_same_bits(i) == 1;
    state.name = name;
    for (const std::int64_t threads : kThreadCounts) state.contexts.push_back(make_context(name.c_str(), threads));
    targets.push_back(std::move(state));
  }
  if (targets.empty()) throw Failure("target '" + only + "' is not built into this library (see mha info)");
  return targets;
}

void run_case(const VerifyCase& verify_case, std::vector<TargetState>& targets) {
  const std::vector<double> want = verify_case.reference();
  const TargetState* first_fma = nullptr;
  std::vector<float> fma_bits;
  for (TargetState& target : targets) {
    const std::vector<float> got = verify_case.run(target.contexts[0]);
    const double error = max_difference(got, want);
    ++target.cases;
    double& worst = target.worst[static_cast<int>(verify_case.kind())];
    worst = std::max(worst, error);
    if (error > verify_case.bound()) {
      char text[80];
      std::snprintf(text, sizeof text, ": error %.3g, bound %.3g", error, verify_case.bound());
      target.failures.push_back(verify_case.name() + text);
    }
    for (std::size_t i = 1; i < target.contexts.size(); ++i) {
      if (same_bits(verify_case.run(target.contexts[i]), got)) continue;
      target.failures.push_back(verify_case.name() + ": other bits with " + std::to_string(kThreadCounts[i]) +
                                " threads than with 1");
    }
    if (!target.same_bits) continue;
    if (first_fma == nullptr) {
      first_fma = &target;
      fma_bits = got;
    } else if (!same_bits(got, fma_bits)) {
      target.failures.push_back(verify_case.name() + ": other bits than " + first_fma->name);
    }
  }
}

// Returns whether the target passed.
bool print(const TargetState& target, const std::vector<TargetState>& targets) {
  std::string equal = "same bits with 1, 2, 3 and 5 threads";
  for (const TargetState& other : targets) {
    if (&other != &target && other.same_bits && target.same_bits) equal += ", as " + other.name;
  }
  const bool pass = target.failures.empty();
  std::printf("%-8s %s  %lld cases, worst error", target.name.c_str(), pass ? "PASS" : "FAIL",
              static_cast<long long>(target.cases));
  for (int kind = 0; kind < 3; ++kind) std::printf(" %s %.1e,", kVerifyKindNames[kind], target.worst[kind]);
  std::printf(" %s\n", pass ? equal.c_str() : "the first failures:");
  constexpr std::size_t kShown = 5;
  for (std::size_t i = 0; i < target.failures.size() && i < kShown; ++i) {
    std::printf("         %s\n", target.failures[i].c_str());
  }
  if (target.failures.size() > kShown) {
    std::printf("         and %zu more\n", target.failures.size() - kShown);
  }
  return pass;
}

}  // namespace

void add_verify(CLI::App& app, int& status) {
  struct Options {
    std::string target;
    bool quick = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("verify", "Check every supported target of the library on this machine");
  command->add_option("--target", options->target, "Only this target (default: every supported one)");
  command->add_flag("--quick", options->quick, "A quarter of the cases");
  command->callback([options, &status] {
    std::vector<TargetState> targets = supported_targets(options->target);
    const std::int64_t count = verify_case_count(options->quick);
    {
      Progress progress("verify", count);
      for (std::int64_t i = 0; i < count; ++i) {
        run_case(*make_verify_case(i, options->quick), targets);
        progress.step();
      }
    }
    for (const TargetState& target : targets) {
      if (!print(target, targets)) status = 1;
    }
  });
}

}  // namespace mha::cli
