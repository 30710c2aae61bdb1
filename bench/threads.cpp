// SPDX-License-Identifier: Apache-2.0
// mha_threads: what the choice of threads costs and gains. From which size on a second thread pays, beside the cost
// model (useful_threads of core/plan.h); two processes at once; calls inside the host's own parallel region; more
// threads than CPUs. mha_threads [sizes | sharing], under a minute.
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "bench/support.h"
#include "core/items.h"
#include "core/linear.h"
#include "core/run_attention.h"
#include "core/validate.h"

namespace mha::bench {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Throws with the message unless `status` is MHA_OK; for what is inside the library.
void require(mha_status status, const mha_error& error) {
  if (status != MHA_OK) throw std::runtime_error(std::string(mha_status_string(status)) + ": " + error.message);
}

double median_of(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

/// A call with its data. run_on takes as many threads as it is told, whatever the cost model says.
struct Call {
  virtual ~Call() = default;
  virtual std::string name() const = 0;
  virtual double work() const = 0;
  virtual void run_on(const mha_context& context, int64_t threads) = 0;
};

class LinearCall : public Call {
 public:
  LinearCall(const Context& context, int64_t rows, int64_t features)
      : input_(rows * features, 1, 1),
        weight_(features * features, 0.05F, 2),
        output_(rows * features),
        linear_(make_linear(context, features, features, weight_.data(), nullptr)) {
    mha_linear_args args = {};
    args.rows = rows, args.input = view(input_.data()), args.output = mut_view(output_.data());
    mha_error error = {};
    require(linear_problem(*linear_.get(), args, Check::kAll, &problem_, &error), error);
  }
  std::string name() const override {
    return "linear " + std::to_string(problem_.rows) + " x " + std::to_string(problem_.in_features) + " x " +
           std::to_string(problem_.out_features);
  }
  double work() const override { return problem_.work(); }
  void run_on(const mha_context& context, int64_t threads) override {
    LinearPhase work = {};
    work.jobs[work.count++] = make_linear_job(*context.table, threads, problem_);
    const Phase phase = linear_phase(work);
    run_phases(context, threads, &phase, 1);
  }

 private:
  Floats input_, weight_, output_;
  Linear linear_;
  mha::LinearProblem problem_ = {};
};

class AttentionCall : public Call {
 public:
  AttentionCall(int64_t heads, int64_t kv_heads, int64_t query_len, int64_t key_len, int64_t head_dim)
      : query_(query_len * heads * head_dim, kUnitVariance, 1),
        key_(key_len * kv_heads * head_dim, kUnitVariance, 2),
        value_(key_.size(), kUnitVariance, 3),
        output_(query_.size()) {
    mha_attention_args args = {};
    args.batch = 1, args.num_heads = heads, args.num_kv_heads = kv_heads, args.head_dim = head_dim;
    args.query_len = query_len, args.key_len = key_len;
    args.query = view(query_.data()), args.key = view(key_.data()), args.value = view(value_.data());
    args.output = mut_view(output_.data());
    mha_error error = {};
    require(validate_attention(&args, Check::kAll, &problem_, &error), error);
  }
  std::string name() const override {
    return "attention H " + std::to_string(problem_.heads) + "/" + std::to_string(problem_.kv_heads) + " Tq " +
           std::to_string(problem_.query_len) + " Tk " + std::to_string(problem_.key_len) + " D " +
           std::to_string(problem_.head_dim);
  }
  double work() const override { return mha::work_of_call(problem_); }
  void run_on(const mha_context& context, int64_t threads) override {
    AttentionJob job = {context.table, problem_, {}, nullptr, nullptr};
    mha_error error = {};
    require(plan_attention(*context.table, threads, problem_, false, &job.plan, &error), error);
    if (workspace_.size() * 4 < job.plan.bytes) workspace_ = Floats(job.plan.bytes / 4 + 1);
    job.workspace = reinterpret_cast<char*>(workspace_.data());
    Phase phases[kMaxPhases];
    const int count = attention_phases(job, phases);
    run_phases(context, threads, phases, count);
  }

 private:
  Floats query_, key_, value_, output_, workspace_;
  mha::AttentionProblem problem_ = {};
};

using Calls = std::vector<std::unique_ptr<Call>>;

/// Times of the calls made in `budget` seconds, each after a pause, as between an engine's calls.
std::vector<double> times_of(Call& call, const mha_context& context, int64_t threads, double budget, int pause_ms = 0) {
  std::vector<double> times;
  for (const auto start = Clock::now(); times.size() < 5 || seconds_since(start) < budget;) {
    if (pause_ms > 0) std::this_thread::sleep_for(std::chrono::milliseconds(pause_ms));
    const auto before = Clock::now();
    call.run_on(context, threads);
    times.push_back(seconds_since(before));
  }
  return times;
}

/// Seconds a call takes on the whole: where CPUs are shared, a few calls bear the cost of all.
double mean_seconds(Call& call, const mha_context& context, int64_t threads, double budget, int pause_ms = 0) {
  const std::vector<double> times = times_of(call, context, threads, budget, pause_ms);
  return std::accumulate(times.begin(), times.end(), 0.0) / static_cast<double>(times.size());
}

void study_sizes(const mha_context& context, const char* kind, const Calls& calls) {
  std::printf("\n%-32s %9s %9s %9s %7s %9s %9s %7s %7s\n", kind, "M mul-add", "1 thr us", "2 thr us", "1/2", "slept 1",
              "slept 2", "1/2", "model");
  double busy_from = -1, idle_from = -1;  // from there on two threads are faster in every row
  for (const auto& call : calls) {
    std::vector<double> times[4];
    for (int round = 0; round < 5; ++round)
      for (int way = 0; way < 4; ++way)
        times[way].push_back(median_of(times_of(*call, context, 1 + way % 2, way < 2 ? 0.01 : 0.03, way < 2 ? 0 : 3)));
    double t[4];
    for (int way = 0; way < 4; ++way) t[way] = median_of(times[way]);
    const double work = call->work();
    busy_from = t[1] < t[0] ? (busy_from < 0 ? work : busy_from) : -1;
    idle_from = t[3] < t[2] ? (idle_from < 0 ? work : idle_from) : -1;
    std::printf("%-32s %9.3f %9.1f %9.1f %7.2f %9.1f %9.1f %7.2f %7lld\n", call->name().c_str(), work / 1e6, t[0] * 1e6,
                t[1] * 1e6, t[0] / t[1], t[2] * 1e6, t[3] * 1e6, t[2] / t[3],
                static_cast<long long>(useful_threads(2, work)));
  }
  std::printf(
      "%s: two threads pay from %.2f M multiply-adds on, from %.2f after 3 ms of sleep; the model's two: %.2f\n", kind,
      busy_from / 1e6, idle_from / 1e6, 2 * kMultiplyAddsPerThread / 1e6);
}

Calls typical_calls(const Context& context) {
  Calls calls;
  calls.push_back(std::make_unique<LinearCall>(context, 8, 1024));
  calls.push_back(std::make_unique<LinearCall>(context, 128, 1024));
  calls.push_back(std::make_unique<AttentionCall>(8, 8, 256, 256, 64));
  calls.push_back(std::make_unique<AttentionCall>(32, 32, 1, 4096, 128));
  return calls;
}

/// The second process: prints the mean time of call `index` over a second.
void work(const std::string& target, int64_t threads, size_t index) {
  const Context context = make_context(target, threads);
  const Calls calls = typical_calls(context);
  (void)mean_seconds(*calls[index], *context.get(), threads, 0.2);
  std::printf("%.9g\n", mean_seconds(*calls[index], *context.get(), threads, 1));
}

/// Two processes of `threads` each at once; the mean time of a call.
double two_processes(const char* self, const std::string& target, int threads, size_t index) {
  const std::string command =
      std::string(self) + " --work " + target + " " + std::to_string(threads) + " " + std::to_string(index);
  std::FILE* pipes[2];
  for (auto& pipe : pipes) pipe = popen(command.c_str(), "r");
  double sum = 0;
  for (auto& pipe : pipes) {
    double seconds = 0;
    if (pipe == nullptr || std::fscanf(pipe, "%lf", &seconds) != 1) throw std::runtime_error("no second process");
    sum += seconds;
    pclose(pipe);
  }
  return sum / 2;
}

/// Two outer threads, each calling with `threads` of its own; the mean time of a call.
double in_outer_region(const std::string& target, int threads, int levels, size_t index) {
  omp_set_max_active_levels(levels);
  const Context context = make_context(target, threads);
  const Calls calls[2] = {typical_calls(context), typical_calls(context)};
  double sum = 0;
#pragma omp parallel num_threads(2) reduction(+ : sum)
  {
    Call& call = *calls[omp_get_thread_num()][index];
    (void)mean_seconds(call, *context.get(), threads, 0.1);
#pragma omp barrier
    sum += mean_seconds(call, *context.get(), threads, 0.5);
  }
  omp_set_max_active_levels(1);
  return sum / 2;
}

void study_sharing(const char* self, const std::string& target) {
  const Context context = make_context(target, 2);
  const Calls calls = typical_calls(context);
  std::printf("\n%-36s %31s %29s\n%-36s %15s %15s %12s %12s %12s\n", "us a call; x: to one thread each",
              "two processes at once", "outer region of two", "", "1 each", "2 each", "1 each", "2 each", "2 nested");
  for (size_t n = 0; n < calls.size(); ++n) {
    const double one = two_processes(self, target, 1, n), two = two_processes(self, target, 2, n);
    const double outer_one = in_outer_region(target, 1, 1, n), outer_two = in_outer_region(target, 2, 1, n);
    const double nested = in_outer_region(target, 2, 2, n);
    std::printf("%-36s %15.1f %8.1f x%5.2f %12.1f %6.1f x%4.2f %6.1f x%4.2f\n", calls[n]->name().c_str(), one * 1e6,
                two * 1e6, two / one, outer_one * 1e6, outer_two * 1e6, outer_two / outer_one, nested * 1e6,
                nested / outer_one);
  }
  std::printf("\n%-36s %9s %15s %15s %12s %12s\n", "us a call; after 50 ms of sleep", "2 threads", "4 threads",
              "16 threads", "1, slept", "2, slept");
  for (const auto& call : calls) {
    double t[5];
    for (int64_t threads : {2, 4, 16})
      t[threads / 8 + (threads == 4)] = mean_seconds(*call, *context.get(), threads, 0.3);
    for (int64_t threads : {1, 2}) t[2 + threads] = mean_seconds(*call, *context.get(), threads, 0.7, 50);
    std::printf("%-36s %9.1f %8.1f x%5.2f %8.1f x%5.2f %12.1f %6.1f x%4.1f\n", call->name().c_str(), t[0] * 1e6,
                t[1] * 1e6, t[1] / t[0], t[2] * 1e6, t[2] / t[0], t[3] * 1e6, t[4] * 1e6, t[4] / t[3]);
  }
}

void study_all_sizes(const Context& context) {
  Calls linears, prefills, decodes, grouped, heads;
  for (int64_t rows : {1, 2, 4, 6, 8, 12, 16, 24, 32, 64, 128})
    linears.push_back(std::make_unique<LinearCall>(context, rows, 256));
  for (int64_t length : {16, 24, 32, 48, 64, 80, 96, 128, 192})
    prefills.push_back(std::make_unique<AttentionCall>(4, 4, length, length, 64));
  for (int64_t length : {256, 512, 768, 1024, 2048, 4096, 8192})
    decodes.push_back(std::make_unique<AttentionCall>(8, 8, 1, length, 64));
  for (int64_t length : {64, 128, 256, 257, 300, 512, 768, 1024, 4096})
    grouped.push_back(std::make_unique<AttentionCall>(32, 8, 1, length, 128));
  for (int64_t head_dim : {64, 128})
    for (int64_t rows : {128, 256, 512}) heads.push_back(std::make_unique<AttentionCall>(1, 1, rows, 4096, head_dim));
  study_sizes(*context.get(), "linear", linears);
  study_sizes(*context.get(), "attention, query as key", prefills);
  study_sizes(*context.get(), "attention, one query", decodes);
  study_sizes(*context.get(), "attention, one query, groups", grouped);
  study_sizes(*context.get(), "attention, one head", heads);
}

void run(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "--work" && argc == 5) return work(argv[2], std::atoi(argv[3]), static_cast<size_t>(std::atoi(argv[4])));
  const Context context = make_context("", 2);
  std::printf("target %s, %d CPUs\n", context.target(), omp_get_num_procs());
  if (what != "sharing") study_all_sizes(context);
  if (what != "sizes") study_sharing(argv[0], context.target());
}

}  // namespace
}  // namespace mha::bench

int main(int argc, char** argv) {
  try {
    mha::bench::run(argc, argv);
    return 0;
  } catch (const std::exception& exception) {
    std::fprintf(stderr, "mha_threads: %s\n", exception.what());
    return 2;
  }
}
