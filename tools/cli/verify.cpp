// SPDX-License-Identifier: Apache-2.0
// `mha verify`: is the library right on this machine? Every supported target and arithmetic against the double reference, a
// line each, and the promise of equal bits between thread counts and between the targets with fused multiply-add; then every
// storage format of each target against the floats that it stands for. The last line is a short code of the bits of the first
// part: two machines with the same code gave the same results.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "tools/cli/commands.h"
#include "tools/cli/support.h"
#include "tools/cli/verify_cases.h"
#include "tools/cli/verify_storage.h"

namespace mha::cli {
namespace {

constexpr std::int64_t kThreadCounts[] = {1, 2, 3, 5};

struct NamedArithmetic {
  mha_arithmetic arithmetic;
  const char* name;
};
constexpr NamedArithmetic kArithmetics[] = {
    {MHA_ARITHMETIC_F32, "F32"}, {MHA_ARITHMETIC_BF16, "BF16"}, {MHA_ARITHMETIC_INT8, "INT8"}};
constexpr int kArithmeticCount = 3;

// What is known of one target in one arithmetic so far.
struct TargetState {
  std::string name;
  bool same_bits;  // as the other targets with fused multiply-add, in INT8 as all
  bool fma;
  std::vector<Context> contexts;  // one for each of kThreadCounts
  std::int64_t cases = 0;
  double worst[3] = {};  // by VerifyKind
  std::vector<std::string> failures;
};

// FNV-1a over results, and 40 bits of it in letters and digits that are not taken for others.
class Code {
 public:
  void add(const std::vector<float>& values) {
    for (const float value : values) {
      std::uint32_t bits = 0;
      std::memcpy(&bits, &value, sizeof bits);
      for (int shift = 0; shift < 32; shift += 8) hash_ = (hash_ ^ (bits >> shift & 0xff)) * 0x100000001b3U;
    }
    any_ = true;
  }
  std::string text() const {
    if (!any_) return "none";
    std::string code;
    for (int n = 0; n < 8; ++n) {
      if (n == 4) code += '-';
      code += "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"[hash_ >> (5 * n + 24) & 31];
    }
    return code;
  }

 private:
  std::uint64_t hash_ = 0xcbf29ce484222325U;
  bool any_ = false;
};

// The indices of the targets to check.
std::vector<std::int64_t> chosen_targets(const std::string& only) {
  std::vector<std::int64_t> targets;
  for (std::int64_t i = 0; i < mha_target_count(); ++i) {
    if (only.empty() ? mha_target_supported(i) != 0 : mha_target_name(i) == only) targets.push_back(i);
  }
  if (targets.empty()) throw Failure("target '" + only + "' is not built into this library (see mha info)");
  return targets;
}

std::vector<TargetState> make_states(const std::vector<std::int64_t>& targets) {
  std::vector<TargetState> states;
  for (const std::int64_t i : targets) {
    TargetState& state = states.emplace_back();
    state.same_bits = state.fma = mha_target_same_bits(i) == 1;
    state.name = mha_target_name(i);
    for (const std::int64_t threads : kThreadCounts)
      state.contexts.push_back(make_context(mha_target_name(i), threads));
  }
  return states;
}

void run_case(const VerifyCase& verify_case, const std::vector<double>& want, mha_arithmetic arithmetic,
              std::vector<TargetState>& targets, Code& code) {
  const TargetState* first_fma = nullptr;
  std::vector<float> fma_bits;
  for (TargetState& target : targets) {
    const std::vector<float> got = verify_case.run(target.contexts[0], arithmetic);
    const double error = max_difference(got, want);
    ++target.cases;
    double& worst = target.worst[static_cast<int>(verify_case.kind())];
    worst = std::max(worst, error);
    if (error > verify_case.bound(arithmetic)) {
      char text[80];
      std::snprintf(text, sizeof text, ": error %.3g, bound %.3g", error, verify_case.bound(arithmetic));
      target.failures.push_back(verify_case.name() + text);
    }
    for (std::size_t i = 1; i < target.contexts.size(); ++i) {
      if (same_bits(verify_case.run(target.contexts[i], arithmetic), got)) continue;
      target.failures.push_back(verify_case.name() + ": other bits with " + std::to_string(kThreadCounts[i]) +
                                " threads than with 1");
    }
    // A layer's attention is F32's, also where its projections are INT8's. So a layer is not in the code of INT8, which
    // is to be the same without fused multiply-add.
    const bool is_layer = verify_case.kind() == VerifyKind::kLayer;
    if (!target.same_bits || (!target.fma && is_layer)) continue;
    if (first_fma == nullptr) {
      first_fma = &target;
      fma_bits = got;
      if (arithmetic != MHA_ARITHMETIC_INT8 || !is_layer) code.add(got);
    } else if (!same_bits(got, fma_bits)) {
      target.failures.push_back(verify_case.name() + ": other bits than " + first_fma->name);
    }
  }
}

// Not every target, and not every build, has BF16 and INT8.
bool has(const Context& context, mha_arithmetic arithmetic) {
  const float any = 0;
  mha_linear_config config{};
  config.in_features = config.out_features = 1;
  config.weight = view(&any);
  config.arithmetic = arithmetic;
  const Result<Linear> made = Linear::create(context, config);
  if (!made && made.status().code() == MHA_ERR_UNSUPPORTED) return false;
  check(made.status());
  return true;
}

void print_failures(const std::vector<std::string>& failures) {
  constexpr std::size_t kShown = 5;
  for (std::size_t i = 0; i < failures.size() && i < kShown; ++i) {
    std::printf("                 %s\n", failures[i].c_str());
  }
  if (failures.size() > kShown) std::printf("                 and %zu more\n", failures.size() - kShown);
}

// Returns whether the target passed.
bool print(const TargetState& target, const std::vector<TargetState>& targets, const char* arithmetic) {
  std::string equal = "same bits with 1, 2, 3 and 5 threads";
  for (const TargetState& other : targets) {
    if (&other != &target && other.same_bits && target.same_bits) equal += ", as " + other.name;
  }
  const bool pass = target.failures.empty();
  std::printf("%-11s %-4s %s  %lld cases, worst error", target.name.c_str(), arithmetic, pass ? "PASS" : "FAIL",
              static_cast<long long>(target.cases));
  for (int kind = 0; kind < 3; ++kind) std::printf(" %s %.1e,", kVerifyKindNames[kind], target.worst[kind]);
  std::printf(" %s\n", pass ? equal.c_str() : "the first failures:");
  print_failures(target.failures);
  return pass;
}

// "what: a, b, c", or nothing for an empty list.
void print_list(const char* what, const std::vector<std::string>& list) {
  for (std::size_t i = 0; i < list.size(); ++i) std::printf("%s%s", i == 0 ? what : ", ", list[i].c_str());
}

// Returns whether the target passed.
bool print(const StorageCheck& storage) {
  const bool pass = storage.failures.empty();
  std::printf("%-11s storage %s  %lld cases", storage.target.c_str(), pass ? "PASS" : "FAIL",
              static_cast<long long>(storage.cases));
  print_list(" with the bits of the widened floats: ", storage.formats);
  std::printf("\n");
  // A target or a build that lacks BF16 or codes says the same of many formats.
  if (!storage.missing.empty()) {
    std::printf("                 %zu combinations are not there, the first: %s\n", storage.missing.size(),
                storage.missing[0].c_str());
  }
  print_failures(storage.failures);
  return pass;
}

// Returns whether all targets passed.
bool verify_storage(const std::vector<std::int64_t>& indices, bool quick) {
  std::vector<StorageCheck> checks;
  {
    Progress progress("verify storage", static_cast<std::int64_t>(indices.size()));
    for (const std::int64_t i : indices) {
      checks.push_back(check_storage(mha_target_name(i), quick));
      progress.step();
    }
  }
  bool pass = true;
  for (const StorageCheck& storage : checks) pass = print(storage) && pass;
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
  command->add_flag("--quick", options->quick, "A quarter of the cases, a fifth of those of storage");
  command->callback([options, &status] {
    const std::vector<std::int64_t> indices = chosen_targets(options->target);
    std::vector<TargetState> targets[kArithmeticCount];
    for (int a = 0; a < kArithmeticCount; ++a) {
      for (TargetState& target : make_states(indices)) {
        // In INT8 all targets share their bits.
        if (kArithmetics[a].arithmetic == MHA_ARITHMETIC_INT8) target.same_bits = true;
        if (has(target.contexts[0], kArithmetics[a].arithmetic)) targets[a].push_back(std::move(target));
      }
    }
    Code codes[kArithmeticCount];
    const std::int64_t count = verify_case_count(options->quick);
    {
      Progress progress("verify", count);
      for (std::int64_t i = 0; i < count; ++i) {
        const auto verify_case = make_verify_case(i, options->quick);
        const std::vector<double> want = verify_case->reference();
        for (int a = 0; a < kArithmeticCount; ++a) {
          run_case(*verify_case, want, kArithmetics[a].arithmetic, targets[a], codes[a]);
        }
        progress.step();
      }
    }
    for (int a = 0; a < kArithmeticCount; ++a) {
      for (const TargetState& target : targets[a]) {
        if (!print(target, targets[a], kArithmetics[a].name)) status = 1;
      }
    }
    if (!verify_storage(indices, options->quick)) status = 1;
    std::printf("bits of %lld cases:", static_cast<long long>(count));
    for (int a = 0; a < kArithmeticCount; ++a) {
      std::printf("%s %s %s", a > 0 ? "," : "", kArithmetics[a].name, codes[a].text().c_str());
    }
    std::printf(" (the same code: the same results)\n");
  });
}

}  // namespace mha::cli
