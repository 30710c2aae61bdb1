// SPDX-License-Identifier: Apache-2.0
// Calls from inside the host's own OpenMP parallel region, and OpenMP settings left as found. Built only where the
// library has OpenMP.
#include <omp.h>
#include <sched.h>

#include <atomic>
#include <thread>

#include "tests/support/layers.h"
#include "tests/support/runners.h"

using namespace mha::test;

namespace {

const mha_layer_config kConfig = {40, 4, 2, 12, 20, 0, 0, 50, 0};
constexpr int kCalls = 12;

}  // namespace

TEST_CASE("openmp: calls from inside an outer parallel region", "[threads][openmp]") {
  for (const std::string& target : supported_targets()) {
    INFO("target " << target);
    const mha_context* context = shared_context(target, 3);
    std::vector<std::unique_ptr<LayerProblem>> problems;
    std::vector<std::vector<float>> want;
    const LayerPtr layer = LayerProblem(kConfig, 1, 1, 1, Biases::kAll, 130000).make(context);
    for (int n = 0; n < kCalls; ++n) {
      // Enough multiply-adds for three threads inside.
      problems.push_back(std::make_unique<LayerProblem>(kConfig, 1, 20 + n, 3000, Biases::kAll,
                                                        130100u + 100u * static_cast<unsigned>(n)));
      want.push_back(run_layer(context, layer.get(), problems.back()->args()).output);
    }
    for (int levels : {1, 2}) {  // nested regions on one thread, and nested regions in earnest
      omp_set_max_active_levels(levels);
      std::atomic<int> wrong{0}, team{0};
#pragma omp parallel for num_threads(4) schedule(dynamic)
      for (int n = 0; n < kCalls; ++n) {
        team = omp_get_num_threads();
        std::vector<float> output = poisoned(static_cast<int64_t>(want[static_cast<size_t>(n)].size()));
        LayerCall args = problems[static_cast<size_t>(n)]->args();
        args.output = mut_view(output.data());
        if (layer_forward(context, layer.get(), args, nullptr) != MHA_OK ||
            !same_bits(output, want[static_cast<size_t>(n)]))
          ++wrong;
      }
      CHECK(wrong == 0);
      CHECK(team > 1);  // the region was one
    }
    omp_set_max_active_levels(1);
  }
}

TEST_CASE("openmp: inside an outer region a call starts no threads, nested regions allowed or not",
          "[threads][openmp]") {
  const AttentionProblem problem({1, 1, 1, 9, 9000, 64, 64}, MaskKind::kNone, 132000);
  for (const std::string& target : supported_targets()) {
    const mha_context* context = shared_context(target, 3);
    const std::vector<float> want = run_attention(context, problem.args()).output;
    for (int levels : {1, 2}) {
      omp_set_max_active_levels(levels);
      std::atomic<int> sink{0};
#pragma omp parallel num_threads(4)
      ++sink;  // the outer team is there
      const auto before = num_tasks();
      std::atomic<int> wrong{0};
#pragma omp parallel num_threads(4)
      {
        std::vector<float> output = poisoned(static_cast<int64_t>(want.size()));
        AttentionCall args = problem.args();
        args.output = mut_view(output.data());
        if (attention(context, args, nullptr) != MHA_OK || !same_bits(output, want)) ++wrong;
      }
      CHECK(wrong == 0);
      INFO("levels " << levels << ", threads before " << before);
      CHECK(num_tasks() <= before);
    }
    omp_set_max_active_levels(1);
  }
}

TEST_CASE("openmp: a call starts no more threads than there are CPUs", "[threads][openmp]") {
  const AttentionProblem problem({1, 1, 1, 9, 9000, 64, 64}, MaskKind::kNone, 133000);
  const int64_t cpus = omp_get_num_procs();
  const std::string target = supported_targets().front();
  const mha_context* context = shared_context(target, 4 * cpus);
  const std::vector<float> want = run_attention(shared_context(target, 1), problem.args()).output;
  int64_t started = 0;
  bool same = false;
  std::thread caller([&] {  // has no team yet
    const int64_t before = num_tasks();
    same = same_bits(run_attention(context, problem.args()).output, want);
    started = num_tasks() - before;
  });
  caller.join();
  CHECK(same);
  CHECK(started <= cpus - 1);
  if (cpus > 1) CHECK(started > 0);
}

#if defined(__linux__)
TEST_CASE("openmp: a thread that wakes on the caller's CPU moves, and may run where it might before",
          "[threads][openmp]") {
  const AttentionProblem problem({1, 1, 1, 9, 9000, 64, 64}, MaskKind::kNone, 134000);
  const mha_context* context = shared_context(supported_targets().front(), 2);
  cpu_set_t allowed;
  REQUIRE(sched_getaffinity(0, sizeof(allowed), &allowed) == 0);
  std::atomic<int> same_masks{0};
  std::thread caller([&] {  // its team ends with it
    for (int n = 0; n < 20; ++n) {
      const int cpu = sched_getcpu();
      cpu_set_t here;
      CPU_ZERO(&here);
      CPU_SET(cpu, &here);
#pragma omp parallel num_threads(2)
      {
        if (omp_get_thread_num() > 0) {  // comes here, and may go
          sched_setaffinity(0, sizeof(here), &here);
          sched_setaffinity(0, sizeof(allowed), &allowed);
        }
      }
      run_attention(context, problem.args());
#pragma omp parallel num_threads(2)
      {
        cpu_set_t mask;
        if (omp_get_thread_num() > 0 && sched_getaffinity(0, sizeof(mask), &mask) == 0 && CPU_EQUAL(&mask, &allowed)) {
          ++same_masks;
        }
      }
    }
  });
  caller.join();
  CHECK(same_masks == (omp_get_num_procs() > 1 ? 20 : 0));
}
#endif

TEST_CASE("openmp: the host's settings are left as found, and a smaller team than asked for is enough",
          "[threads][openmp]") {
  const AttentionProblem problem({1, 1, 1, 9, 9000, 64, 64}, MaskKind::kNone, 131000);
  for (const std::string& target : supported_targets()) {
    const AttentionResult want = run_attention(shared_context(target, 1), problem.args());
    omp_sched_t kind_before, kind_after;
    int chunk_before = 0, chunk_after = 0;
    omp_set_num_threads(1);
    omp_set_dynamic(1);
    omp_get_schedule(&kind_before, &chunk_before);
    const AttentionResult got = run_attention(shared_context(target, 5), problem.args());
    omp_get_schedule(&kind_after, &chunk_after);
    CHECK(omp_get_max_threads() == 1);
    CHECK(omp_get_dynamic() == 1);
    CHECK(kind_before == kind_after);
    CHECK(chunk_before == chunk_after);
    omp_set_dynamic(0);
    omp_set_num_threads(omp_get_num_procs());
    check_same_bits("output", got.output, want.output);
  }
}
