// SPDX-License-Identifier: Apache-2.0
// AMX's tiles: who may use them, and what of them the rest of the process sees. On a CPU without tiles: that their target
// is refused for that reason, and that nobody is asked.
#include "simd/permission.h"

#include <cstring>

#include "simd/cpu.h"
#include "tests/support/child.h"
#include "tests/support/shapes.h"

#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#endif

using namespace mha::test;

namespace {

constexpr int kTileData = 18;  // XFEATURE_XTILEDATA

/// What the kernel has permitted to this process; 0 where there is no such thing.
unsigned long long permitted() {
  unsigned long long mask = 0;
#if defined(__linux__) && defined(__x86_64__)
  constexpr long kGetPermitted = 0x1022;  // ARCH_GET_XCOMP_PERM
  if (syscall(SYS_arch_prctl, kGetPermitted, &mask) != 0) mask = 0;
#endif
  return mask;
}

/// The state that is not in its initial configuration (XGETBV of 1), on a CPU with tiles.
unsigned in_use() {
  unsigned low = 0;
  [[maybe_unused]] unsigned high = 0;
#if defined(__x86_64__)
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(1));
#endif
  return low;
}

bool has_amx_target() {
  for (int64_t n = 0; n < mha_target_count(); ++n)
    if (std::strcmp(mha_target_name(n), "amx") == 0) return true;
  return false;
}
bool runs_amx() { return std::count(all_targets().begin(), all_targets().end(), "amx") > 0; }

mha_context_options without_permissions() {
  mha_context_options options = {};
  options.num_threads = 1;
  options.no_process_permissions = 1;
  return options;
}

AttentionProblem small_problem() { return {{1, 2, 1, 40, 300, 64, 64}, MaskKind::kCausal, 606000}; }

AttentionCall in_bf16(AttentionCall args) {
  args.arithmetic = MHA_ARITHMETIC_BF16;
  return args;
}

}  // namespace

TEST_CASE("permission: whether tiles are there is found out without asking for them", "[targets][tiles]") {
  const unsigned long long before = permitted();
  const bool there = mha::has_tiles();
  for (int64_t n = 0; n < mha_target_count(); ++n) {
    if (std::strcmp(mha_target_name(n), "amx") != 0) continue;
    CHECK(mha_target_supported(n) == (there && mha::cpu_features().amx ? 1 : 0));
  }
  CHECK(permitted() == before);
}

TEST_CASE("permission: no_process_permissions leaves tiles alone, and the library works without", "[targets][tiles]") {
  const unsigned long long before = permitted();
  const ContextPtr context = make_context(without_permissions());
  CHECK(mha_context_target(context.get()) != std::string("amx"));
  const AttentionProblem p = small_problem();
  check_same_bits("output", run_attention(context.get(), p.args()).output,
                  run_attention(shared_context(mha_context_target(context.get()), 1), p.args()).output);
  CHECK(permitted() == before);
}

TEST_CASE("permission: a target of tiles that may not be used is refused by name", "[targets][tiles][status]") {
  if (!has_amx_target()) return;
  mha_context_options options = without_permissions();
  options.target = "amx";
  mha_context* context = nullptr;
  mha_error error = {};
  CHECK(mha_context_create(&options, &context, &error) == MHA_ERR_TARGET);
  CHECK(context == nullptr);
  INFO(error.message);
  CHECK(mentions(error, runs_amx() ? "no_process_permissions" : "does not support"));
}

TEST_CASE("permission: tiles and a signal stack too small for them exclude each other", "[targets][tiles][status]") {
  if (!runs_amx()) return;
  const int status = in_child([] {
    static char memory[4096];
    stack_t stack = {};
    stack.ss_sp = memory, stack.ss_size = sizeof(memory);
    if (sigaltstack(&stack, nullptr) != 0) return mha::permit_tiles() ? 0 : 1;  // tiles were permitted before
    if (mha::permit_tiles()) return 2;
    mha_context* context = nullptr;
    mha_error error = {};
    mha_context_options options = {};
    options.target = "amx";
    if (mha_context_create(&options, &context, &error) != MHA_ERR_TARGET || !mentions(error, "does not permit"))
      return 3;
    options.target = nullptr;  // the next target serves
    if (mha_context_create(&options, &context, &error) != MHA_OK) return 4;
    const bool other = std::strcmp(mha_context_target(context), "amx") != 0;
    mha_context_destroy(context);
    return other ? 0 : 5;
  });
  CHECK(status == 0);
}

TEST_CASE("permission: after a call no tile is in use, and a child of the process computes the same",
          "[targets][tiles][fork]") {
  const AttentionProblem p = small_problem();
  for (const std::string& target : targets_of(MHA_ARITHMETIC_BF16)) {
    INFO("target " << target);
    const mha_context* context = shared_context(target, 1);
    const std::vector<float> want = run_attention(context, in_bf16(p.args())).output;
    if (runs_amx()) CHECK((in_use() >> kTileData & 1) == 0);
    std::vector<float> got(want.size());
    AttentionCall args = in_bf16(p.args());
    args.output = mut_view(got.data());
    size_t bytes = 0;
    REQUIRE(attention_workspace_bytes(context, args, &bytes, nullptr) == MHA_OK);
    std::vector<unsigned char> workspace(bytes);
    args.resources.workspace = workspace.data(), args.resources.workspace_bytes = bytes;
    CHECK(in_child([&] {
            if (attention(context, args, nullptr) != MHA_OK) return 1;
            return same_bits(got, want) ? 0 : 2;
          }) == 0);
  }
}
