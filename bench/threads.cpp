// SPDX-License-Identifier: Apache-2.0
// mha_threads: what the choice of threads costs and gains, OpenMP's beside the pool's. From which size on a second
// thread pays, compared with the cost model (useful_threads of core/plan/plan.h); two processes at once; calls inside
// the host's own parallel region; more threads than CPUs. mha_threads [sizes | sharing], two minutes.
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
#include "core/call/items.h"
#include "core/call/linear.h"
#include "core/call/validate.h"
#include "core/run/attention.h"
#include "core/run/project.h"

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
    const LinearJob job = make_linear_job(*context.table, threads, problem_);
    LinearPhase work = {};
    work.jobs[work.count++] = &job;
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
    mha::NormRopePhase last;
    const int count = attention_phases(job, phases, &last);
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

/// The mean time of a call: where CPUs are shared, a few slow calls hold most of the cost, so a median would miss it.
double mean_seconds(Call& call, const mha_context& context, int64_t threads, double budget, int pause_ms = 0) {
  const std::vector<double> times = times_of(call, context, threads, budget, pause_ms);
  return std::accumulate(times.begin(), times.end(), 0.0) / static_cast<double>(times.size());
}

constexpr mha_threading kRuntimes[] = {MHA_THREADING_OPENMP, MHA_THREADING_POOL};
constexpr const char* kRuntimeNames[] = {"OpenMP", "pool"};

Context make_threads(const std::string& target, int64_t threads, mha_threading threading) {
  mha_context_options options = {};
  options.num_threads = threads;
  options.target = target.empty() ? nullptr : target.c_str();
  options.threading = threading;
  return bench::require(Context::create(options));
}

/// OpenMP's threads spin for some milliseconds after a call; the next measurement must not share CPUs with them.
void let_threads_sleep() { std::this_thread::sleep_for(std::chrono::milliseconds(15)); }

/// Ways to make a call: on one thread, on two of each runtime; the same after 3 ms of sleep.
constexpr int kWays = 6;

/// From which work on two threads are faster in every row, busy and after sleep, for each runtime.
struct PaysFrom {
  double work[2][2] = {{-1, -1}, {-1, -1}};
  void add(double of_call, const double* t) {
    for (int slept : {0, 1}) {
      for (int runtime : {0, 1}) {
        double& from = work[runtime][slept];
        from = t[3 * slept + 1 + runtime] < t[3 * slept] ? (from < 0 ? of_call : from) : -1;
      }
    }
  }
};

void study_sizes(const Context* contexts, const char* kind, const Calls& calls) {
  std::printf("\n%-31s %7s | %8s %8s %5s %8s %5s | %8s %8s %5s %8s %5s | %5s\n", kind, "M madd", "1 thr us", "OpenMP 2",
              "x", "pool 2", "x", "slept 1", "OpenMP 2", "x", "pool 2", "x", "model");
  PaysFrom from;
  for (const auto& call : calls) {
    std::vector<double> times[kWays];
    for (int round = 0; round < 5; ++round) {
      for (int way = 0; way < kWays; ++way) {
        const bool slept = way >= 3;
        const int64_t threads = way % 3 == 0 ? 1 : 2;
        let_threads_sleep();
        times[way].push_back(
            median_of(times_of(*call, *contexts[way % 3 == 2].get(), threads, slept ? 0.03 : 0.01, slept ? 3 : 0)));
      }
    }
    double t[kWays];
    for (int way = 0; way < kWays; ++way) t[way] = median_of(times[way]);
    from.add(call->work(), t);
    std::printf("%-31s %7.3f |", call->name().c_str(), call->work() / 1e6);
    for (int n : {0, 3}) {
      std::printf(" %8.1f %8.1f %5.2f %8.1f %5.2f |", t[n] * 1e6, t[n + 1] * 1e6, t[n] / t[n + 1], t[n + 2] * 1e6,
                  t[n] / t[n + 2]);
    }
    std::printf(" %5lld\n", static_cast<long long>(useful_threads(2, call->work())));
  }
  for (int runtime : {0, 1}) {
    std::printf(
        "%s, %s: two threads pay from %.2f M multiply-adds on, from %.2f after 3 ms of sleep; the model's: %.2f\n",
        kind, kRuntimeNames[runtime], from.work[runtime][0] / 1e6, from.work[runtime][1] / 1e6,
        2 * kMultiplyAddsPerThread / 1e6);
  }
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
void work(const std::string& target, int64_t threads, size_t index, mha_threading threading) {
  const Context context = make_threads(target, threads, threading);
  const Calls calls = typical_calls(context);
  (void)mean_seconds(*calls[index], *context.get(), threads, 0.2);
  std::printf("%.9g\n", mean_seconds(*calls[index], *context.get(), threads, 1));
}

/// Two processes of `threads` each at once; the mean time of a call.
double two_processes(const char* self, const std::string& target, int threads, size_t index, mha_threading threading) {
  const std::string command = std::string(self) + " --work " + target + " " + std::to_string(threads) + " " +
                              std::to_string(index) + " " + std::to_string(threading);
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

/// Two outer threads, each calling with the threads of the context; the mean time of a call.
double in_outer_region(const Context& context, int levels, size_t index) {
  omp_set_max_active_levels(levels);
  const Calls calls[2] = {typical_calls(context), typical_calls(context)};
  double sum = 0;
#pragma omp parallel num_threads(2) reduction(+ : sum)
  {
    Call& call = *calls[omp_get_thread_num()][index];
    (void)mean_seconds(call, *context.get(), context.get()->num_threads, 0.1);
#pragma omp barrier
    sum += mean_seconds(call, *context.get(), context.get()->num_threads, 0.5);
  }
  omp_set_max_active_levels(1);
  return sum / 2;
}

/// A line: what it is about, then microseconds and their ratio to the first.
void print_line(const Call& call, const char* runtime, const std::vector<double>& seconds) {
  std::printf("%-34s %-6s %9.1f", call.name().c_str(), runtime, seconds[0] * 1e6);
  for (size_t n = 1; n < seconds.size(); ++n) std::printf(" %9.1f x%5.2f", seconds[n] * 1e6, seconds[n] / seconds[0]);
  std::printf("\n");
}

void study_sharing(const char* self, const std::string& target) {
  const Context one_thread = make_threads(target, 1, MHA_THREADING_DEFAULT);
  const Calls calls = typical_calls(one_thread);
  std::printf("\ntwo processes at once: us a call, one thread each, two each; x: to the first\n");
  for (size_t n = 0; n < calls.size(); ++n) {
    const double one = two_processes(self, target, 1, n, MHA_THREADING_DEFAULT);
    for (int r : {0, 1})
      print_line(*calls[n], kRuntimeNames[r], {one, two_processes(self, target, 2, n, kRuntimes[r])});
  }
  std::printf("\nouter region of two: us a call, one thread each, two each, two each nested\n");
  for (size_t n = 0; n < calls.size(); ++n) {
    const double one = in_outer_region(one_thread, 1, n);
    for (int r : {0, 1}) {
      const Context two = make_threads(target, 2, kRuntimes[r]);
      print_line(*calls[n], kRuntimeNames[r], {one, in_outer_region(two, 1, n), in_outer_region(two, 2, n)});
    }
  }
  std::printf("\nus a call, one after the other: 2 threads, 4, 16\n");
  for (const auto& call : calls) {
    for (int r : {0, 1}) {
      std::vector<double> times;
      for (int64_t threads : {2, 4, 16}) {
        let_threads_sleep();
        times.push_back(mean_seconds(*call, *make_threads(target, threads, kRuntimes[r]).get(), threads, 0.3));
      }
      print_line(*call, kRuntimeNames[r], times);
    }
  }
  std::printf("\nus a call after 50 ms of sleep: 1 thread, 2\n");
  for (const auto& call : calls) {
    const double one = mean_seconds(*call, *one_thread.get(), 1, 0.7, 50);
    for (int r : {0, 1}) {
      const Context two = make_threads(target, 2, kRuntimes[r]);
      print_line(*call, kRuntimeNames[r], {one, mean_seconds(*call, *two.get(), 2, 0.9, 50)});
    }
  }
}

void study_all_sizes(const Context* contexts) {
  const Context& context = contexts[0];
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
  study_sizes(contexts, "linear", linears);
  study_sizes(contexts, "attention, query as key", prefills);
  study_sizes(contexts, "attention, one query", decodes);
  study_sizes(contexts, "attention, one query, groups", grouped);
  study_sizes(contexts, "attention, one head", heads);
}

void run(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "--work" && argc == 6) {
    return work(argv[2], std::atoi(argv[3]), static_cast<size_t>(std::atoi(argv[4])),
                static_cast<mha_threading>(std::atoi(argv[5])));
  }
  const Context contexts[] = {make_threads("", 2, MHA_THREADING_OPENMP), make_threads("", 2, MHA_THREADING_POOL)};
  const char* target = mha_context_target(contexts[0].get());
  std::printf("target %s, %d CPUs\n", target, omp_get_num_procs());
  if (what != "sharing") study_all_sizes(contexts);
  if (what != "sizes") study_sharing(argv[0], target);
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
