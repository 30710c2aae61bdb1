// SPDX-License-Identifier: Apache-2.0
// What is so on every thread of a team, whoever made it: OpenMP, the context's pool, the host.
#include "core/call/linear.h"
#include "core/run/project.h"
#include "simd/float_mode.h"
#include "tests/support/layers.h"
#include "tests/support/runners.h"

using namespace mha::test;

namespace {

/// output = input * weight^T, every product a denormal: zeros if denormals count as zero.
struct DenormalProduct {
  static constexpr int64_t kRows = 32, kFeatures = 256;
  std::vector<float> input, weight, output;
  LinearPtr linear;

  explicit DenormalProduct(const mha_context* context)
      : input(kRows * kFeatures, 1e-20f),
        weight(kFeatures * kFeatures, 1e-20f),
        output(poisoned(kRows * kFeatures)),
        linear(make_linear(context, kFeatures, kFeatures, weight.data(), nullptr)) {}

  /// On two threads, each of which is there before one goes on; how many there were. Twice: threads have the mode of
  /// the one that made them, and OpenMP's must not have been made by one that calls.
  int64_t run_on(const mha_context& context, int64_t threads) {
    const mha_linear_args args = linear_args(kRows, input.data(), output.data());
    mha::LinearProblem problem = {};
    mha_error error = {};
    require_ok(mha::linear_problem(*linear.get(), args, mha::Check::kAll, &problem, &error), error);
    const mha::LinearJob job = mha::make_linear_job(*context.table, 2, problem);
    mha::LinearPhase work = {};
    work.jobs[work.count++] = &job;
    const mha::Phase inner = mha::linear_phase(work);
    REQUIRE(inner.count >= 2);
    int64_t came = 0;
    // A thread of its own: the one that runs all tests may have lost its patience with OpenMP's threads.
    std::thread caller([&] {
      for (bool in_call : {false, true}) {
        const Meeting meeting(inner, threads);
        const mha::Phase phase = meeting.phase();
        std::fill(output.begin(), output.end(), float_of_bits(kPoisonBits));
        if (in_call) {
          const mha::FloatMode mode;  // as the caller of run_phases has it
          mha::run_phases(context, 2, &phase, 1);
        } else {
          mha::run_phases(context, 2, &phase, 1);
        }
        came = meeting.came();
      }
    });
    caller.join();
    return came;
  }
};

}  // namespace

#if defined(__x86_64__) || defined(__aarch64__)
TEST_CASE("team: denormals count as zero on every thread, whoever made it", "[threads]") {
  for (const std::string& target : supported_targets()) {
    for (const Runner& runner : runners()) {
      INFO("target " << target << " threads of " << runner.name);
      const ContextPtr context = runner.make(target, 2);
      DenormalProduct product(context.get());
      CHECK(product.run_on(*context.get(), runner.two()) == runner.two());
      CHECK(std::all_of(product.output.begin(), product.output.end(), [](float x) { return bits_of(x) == 0; }));
    }
  }
}

TEST_CASE("team: denormal inputs give the bits of one thread on two, whoever made them", "[threads]") {
  const AttentionShape shape = {1, 8, 8, 60, 300, 64, 64};
  AttentionProblem problem(shape, MaskKind::kNone, 84000);
  for (size_t n = 0; n < problem.query.size(); n += 3) problem.query[n] = 1e-39f;
  for (float& value : problem.value) value *= 1e-36f;  // results below the least normal number, above and between
  for (const std::string& target : supported_targets()) {
    const std::vector<float> want = run_attention(shared_context(target, 1), problem.args()).output;
    CHECK(std::any_of(want.begin(), want.end(), [](float x) { return x == 0; }));
    CHECK(std::any_of(want.begin(), want.end(), [](float x) { return x != 0; }));
    for (const Runner& runner : runners()) {
      INFO("target " << target << " threads of " << runner.name);
      const ContextPtr context = runner.make(target, 2);
      for (int round = 0; round < 20; ++round) {  // the second thread comes late, or not, to a call or two
        check_same_bits("output", run_attention(context.get(), problem.args()).output, want);
      }
    }
  }
}
#endif
