// SPDX-License-Identifier: Apache-2.0
// The child of a process that called on two threads has none of them: it works alone, with the same bits, says so, and
// destroys its context without waiting for anybody.
#include "tests/support/child.h"

#include <cstring>

#include "core/base/process_id.h"
#include "tests/support/layers.h"
#include "tests/support/runners.h"
#include "tests/support/sanitizer.h"

using namespace mha::test;

namespace {

/// The call and its line of explain, without assertions, which belong to the parent.
struct Call {
  const AttentionProblem problem{{1, 1, 1, 9, 9000, 64, 64}, MaskKind::kNone, 150000};
  std::vector<float> output = poisoned(problem.shape.output().count());

  bool run(const mha_context* context, const std::vector<float>& want) {
    std::fill(output.begin(), output.end(), float_of_bits(kPoisonBits));
    AttentionCall args = problem.args();
    args.output = mut_view(output.data());
    return attention(context, args, nullptr) == MHA_OK && same_bits(output, want);
  }
  bool says_forked(const mha_context* context) {
    char text[4096];
    AttentionCall args = problem.args();
    args.output = mut_view(output.data());
    return attention_explain(context, args, text, sizeof(text), nullptr, nullptr) == MHA_OK &&
           std::strstr(text, "threads: 2 of 2, in the calling thread: this process was forked after") != nullptr;
  }
};

std::vector<Runner> own_runners() {
  std::vector<Runner> all;
  for (const Runner& runner : runners())
    if (!runner.by_host) all.push_back(runner);
  return all;
}

}  // namespace

TEST_CASE("fork: after calls on two threads the child works alone, says so, and ends", "[threads][fork]") {
  Call call;
  for (const std::string& target : supported_targets()) {
    const std::vector<float> want = run_attention(shared_context(target, 1), call.problem.args()).output;
    for (const Runner& runner : own_runners()) {
      if (runner.two() < 2) continue;  // one CPU: no threads to lose
      INFO("target " << target << " threads of " << runner.name);
      std::vector<int> statuses;
      bool parent = true;
      std::thread caller([&] {  // with a team of its own
        ContextPtr context = runner.make(target, 2);
        for (int n = 0; n < 3; ++n)
          parent = call.run(context.get(), want) && !call.says_forked(context.get()) && parent;
        for (int round = 0; round < 3; ++round) {
          statuses.push_back(in_child([&] {
            if (!call.says_forked(context.get())) return 1;
            for (int n = 0; n < 20; ++n)
              if (!call.run(context.get(), want)) return 2;
            context.reset();
            // Its own child loses nothing more.
            if (in_child([&] { return call.run(shared_context(target, 1), want) ? 0 : 1; }) != 0) return 3;
            return 0;
          }));
          std::this_thread::sleep_for(std::chrono::milliseconds(7 * round));  // threads awake, and asleep
          parent = call.run(context.get(), want) && !call.says_forked(context.get()) && parent;
        }
      });
      caller.join();
      CHECK(parent);
      CHECK(statuses == std::vector<int>{0, 0, 0});
    }
  }
}

#if !defined(MHA_TEST_SANITIZER)  // the thread sanitizer allows no new threads after a fork
TEST_CASE("fork: a context made in the child works, with OpenMP alone in the thread that had a team",
          "[not_emulated][threads][fork]") {
  Call call;
  const std::string target = supported_targets().front();
  const std::vector<float> want = run_attention(shared_context(target, 1), call.problem.args()).output;
  for (const Runner& runner : own_runners()) {
    if (runner.two() < 2) continue;
    INFO("threads of " << runner.name);
    int status = -1;
    std::thread caller([&] {
      const ContextPtr before = runner.make(target, 2);
      call.run(before.get(), want);
      status = in_child([&] {
        const ContextPtr context = runner.make(target, 2);
        const bool alone = runner.threading == MHA_THREADING_OPENMP;
        if (call.says_forked(context.get()) != alone) return 1;
        for (int n = 0; n < 20; ++n)
          if (!call.run(context.get(), want)) return 2;
        return num_tasks() == (alone ? 1 : 2) ? 0 : 3;
      });
    });
    caller.join();
    CHECK(status == 0);
  }
}

TEST_CASE("fork: a child of a process that has not called yet has OpenMP's threads",
          "[not_emulated][threads][fork][openmp]") {
  Call call;
  const std::string target = supported_targets().front();
  const std::vector<float> want = run_attention(shared_context(target, 1), call.problem.args()).output;
  for (const Runner& runner : own_runners()) {
    if (runner.threading != MHA_THREADING_OPENMP || runner.two() < 2) continue;
    int status = -1;
    std::thread caller([&] {  // this thread has not
      const ContextPtr context = runner.make(target, 2);
      status = in_child([&] {
        if (call.says_forked(context.get())) return 1;
        return call.run(context.get(), want) && num_tasks() == 2 ? 0 : 2;
      });
    });
    caller.join();
    CHECK(status == 0);
  }
}
#endif

TEST_CASE("fork: the kept process id is that of the process that asks", "[fork]") {
  mha::ProcessId id;
  CHECK(id.get() == getpid());  // not kept
  id.open();
  CHECK(id.get() == getpid());
  CHECK(id.get() == getpid());
  CHECK(in_child([&] {
          if (id.get() != getpid()) return 1;
          return in_child([&] { return id.get() == getpid() ? 0 : 1; });
        }) == 0);
  id.close();
  CHECK(id.get() == getpid());
}
