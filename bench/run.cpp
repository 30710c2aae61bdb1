// SPDX-License-Identifier: Apache-2.0
// Runs a case under Google Benchmark: prepares and checks it once, then times samples of it between bursts of what the
// machine can do, so that noise hits both. Samples that another process interrupted do not count. Names carry no
// "/real_time": the clock asked for would be appended to them, and the counters are wall time anyway.
#include <benchmark/benchmark.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <stdexcept>

#include "bench/case.h"
#include "bench/support.h"

namespace mha::bench {
namespace {

// A sample is as many calls as fill this time, at least one. A burst takes a third of a sample, within these bounds. A
// core's frequency follows the load within milliseconds, so a long burst of multiply-adds without memory would speed up
// beyond what the call before it could reach (seen on a Xeon: 215 GFLOP/s for 2 to 4 ms after a call, then 240). Bursts
// of reads may be long: their frequency stays, and a short burst would see only a part of a large read.
constexpr double kSampleSeconds = 2e-3;
constexpr double kShortestBurst = 0.5e-3, kLongestBurst = 20e-3, kLongestFlopBurst = 1e-3;

bool case_failed = false;

double median(std::vector<double> values) {
  const size_t middle = values.size() / 2;
  std::nth_element(values.begin(), values.begin() + middle, values.end());
  return values[middle];
}

/// A case that is ready to be timed, or what is wrong with it. Google Benchmark comes back for every repetition and
/// every guess at the number of iterations; one case at a time is kept for that.
struct Prepared {
  std::string name, error;
  Context context;
  std::unique_ptr<Case> work;
  const MachineLoops* loops = nullptr;
  const IntegerLoop* integers = nullptr;  // null: the case has no use for them
  int64_t calls = 1;                      // of a sample
  double naive_seconds = 0, burst_seconds = 0;
  int read_loop = 0;  // of `loops`, the fastest for what the case reads
};

void prepare(const CaseSpec& spec, Prepared& p) {
  p.context = make_context(spec.target, spec.threads);
  p.loops = &machine_loops(p.context.target());
  p.work = spec.make(p.context);
  if (p.work->is_integer) p.integers = &integer_loop(p.context.target());
  const mha_status status = p.work->run();
  if (status != MHA_OK) throw std::runtime_error(mha_status_string(status));
  p.error = p.work->check();
  if (!p.error.empty()) return;

  p.naive_seconds = p.work->naive_seconds(spec.threads);
  // The quickest of a few: the first calls are cold.
  double seconds = std::numeric_limits<double>::infinity();
  const double start = now();
  for (int n = 0; n < 1000 && (n < 2 || now() - start < kSampleSeconds); ++n) {
    const double begin = now();
    (void)p.work->run();
    seconds = std::min(seconds, now() - begin);
  }
  p.calls = std::max<int64_t>(1, std::llround(kSampleSeconds / seconds));
  p.burst_seconds = std::clamp(seconds * static_cast<double>(p.calls) / 3, kShortestBurst, kLongestBurst);
  if (!p.work->streamed.empty()) {
    p.read_loop = fastest_read(*p.loops, p.work->streamed, spec.threads, p.burst_seconds);
  }
}

Prepared& prepared(const CaseSpec& spec) {
  static Prepared current;
  if (current.name == spec.name) return current;
  current.work.reset();  // before its context, and before the memory of the next one is asked for
  current = Prepared();
  current.name = spec.name;
  try {
    prepare(spec, current);
  } catch (const std::exception& exception) {
    current.error = exception.what();
  }
  return current;
}

/// How often the kernel took a CPU from a thread of this process that had use for it.
int64_t interruptions() {
  rusage usage = {};
  (void)getrusage(RUSAGE_SELF, &usage);
  return usage.ru_nivcsw;
}

struct Burst {
  double flops = 0, operations = 0, bytes = 0;  // a second; operations are those of integers
};

Burst burst(const Prepared& p, int threads) {
  Burst result;
  const double flop_seconds = std::min(p.burst_seconds, kLongestFlopBurst);
  result.flops = measure_flops(*p.loops, threads, flop_seconds);
  if (p.integers != nullptr) result.operations = measure_operations(*p.integers, threads, flop_seconds);
  // Last, so that a case bound by reading finds in the caches what reading its data leaves there.
  if (!p.work->streamed.empty())
    result.bytes = measure_read(*p.loops, p.read_loop, p.work->streamed, threads, p.burst_seconds);
  return result;
}

/// Some calls, and the bursts before and after them.
struct Sample {
  double seconds;       // a call
  double part_seconds;  // the same of run_parts(), or 0
  Burst machine;        // the mean of the two bursts
  bool is_clean;        // nothing was interrupted
};

/// Takes the samples of one repetition.
class Sampler {
 public:
  Sampler(const Prepared& prepared, int threads) : p_(prepared), threads_(threads) { restart(); }

  bool ok() const { return ok_; }
  /// The timed part of a sample.
  void run() { seconds_ = time_calls(&Case::run); }
  /// The rest of it.
  void finish() {
    const Burst after = burst(p_, threads_);
    const bool is_clean = interruptions() == interruptions_;
    const Burst mean = {(before_.flops + after.flops) / 2, (before_.operations + after.operations) / 2,
                        (before_.bytes + after.bytes) / 2};
    samples_.push_back({seconds_, 0, mean, is_clean});
    if (p_.work->has_parts()) {
      // The burst before run() reads what run() streams. Without the same here, only one of the two would find its data
      // in a cache.
      if (!p_.work->parts_streamed.empty())
        (void)measure_read(*p_.loops, p_.read_loop, p_.work->parts_streamed, threads_, p_.burst_seconds);
      samples_.back().part_seconds = time_calls(&Case::run_parts);
      samples_.back().is_clean = interruptions() == interruptions_;
    }
    if (samples_.back().is_clean) {
      before_ = after;
    } else {
      restart();
    }
  }
  const std::vector<Sample>& samples() const { return samples_; }

 private:
  void restart() {
    interruptions_ = interruptions();
    before_ = burst(p_, threads_);
  }
  double time_calls(mha_status (Case::*call)()) {
    const double start = now();
    for (int64_t n = 0; n < p_.calls; ++n) ok_ = ((*p_.work).*call)() == MHA_OK && ok_;
    return (now() - start) / static_cast<double>(p_.calls);
  }

  const Prepared& p_;
  int threads_;
  bool ok_ = true;
  int64_t interruptions_ = 0;
  double seconds_ = 0;
  Burst before_;
  std::vector<Sample> samples_;
};

/// The median over samples of what `value` makes of one.
template <class Value>
double median_of(const std::vector<Sample>& samples, Value value) {
  std::vector<double> values;
  values.reserve(samples.size());
  for (const Sample& sample : samples) values.push_back(value(sample));
  return median(values);
}

void set_counters(benchmark::State& state, const Prepared& p, std::vector<Sample> samples) {
  const size_t taken = samples.size();
  const auto first_dirty =
      std::stable_partition(samples.begin(), samples.end(), [](const Sample& s) { return s.is_clean; });
  const auto clean = static_cast<size_t>(first_dirty - samples.begin());
  if (clean > 0) samples.resize(clean);  // none: better a disturbed figure than none; interrupted says so

  const Case& work = *p.work;
  const double seconds = median_of(samples, [](const Sample& s) { return s.seconds; });
  auto& counters = state.counters;
  counters["best_us"] = 1e6 * std::min_element(samples.begin(), samples.end(), [](const Sample& a, const Sample& b) {
                                return a.seconds < b.seconds;
                              })->seconds;
  counters["median_us"] = seconds * 1e6;
  counters["samples"] = static_cast<double>(taken);
  counters["interrupted"] = 1 - static_cast<double>(clean) / static_cast<double>(taken);
  counters["peak_GFLOPS"] = median_of(samples, [](const Sample& s) { return s.machine.flops * 1e-9; });
  if (work.flops > 0) {
    counters["GFLOPS"] = work.flops / seconds * 1e-9;
    counters["peak_fraction"] =
        median_of(samples, [&](const Sample& s) { return work.flops / s.seconds / s.machine.flops; });
  }
  if (p.integers != nullptr) {
    counters["int8_peak_GOPS"] = median_of(samples, [](const Sample& s) { return s.machine.operations * 1e-9; });
    counters["int8_peak_fraction"] =
        median_of(samples, [&](const Sample& s) { return work.flops / s.seconds / s.machine.operations; });
  }
  if (p.naive_seconds > 0) counters["naive_ratio"] = p.naive_seconds / seconds;
  counters["flops"] = work.flops;
  counters["bytes"] = work.bytes;
  if (!work.streamed.empty()) {
    double bytes = 0;
    for (const Region& region : work.streamed) bytes += static_cast<double>(region.bytes);
    counters["GBps"] = bytes / seconds * 1e-9;
    counters["read_streams"] = kReadStreams[p.read_loop];
    counters["read_GBps"] = median_of(samples, [](const Sample& s) { return s.machine.bytes * 1e-9; });
    counters["bandwidth_fraction"] =
        median_of(samples, [&](const Sample& s) { return bytes / s.seconds / s.machine.bytes; });
  }
  if (work.has_parts())
    counters[work.ratio_counter()] = median_of(samples, [](const Sample& s) { return s.seconds / s.part_seconds; });
}

void run_case(benchmark::State& state, const CaseSpec& spec) {
  Prepared& p = prepared(spec);
  if (!p.error.empty()) {
    case_failed = true;
    state.SkipWithError(p.error.c_str());
    return;
  }
  Sampler sampler(p, spec.threads);
  while (state.KeepRunningBatch(p.calls)) {
    sampler.run();
    state.PauseTiming();
    sampler.finish();
    state.ResumeTiming();
  }
  if (!sampler.ok()) {
    case_failed = true;
    state.SkipWithError("a call failed while it was timed");
    return;
  }
  set_counters(state, p, sampler.samples());
  state.SetLabel(p.context.target());
}

}  // namespace

void register_case(const CaseSpec& spec) {
  benchmark::RegisterBenchmark(spec.name.c_str(), [spec](benchmark::State& state) {
    run_case(state, spec);
  })->Unit(benchmark::kMicrosecond);
}

void register_machine(const std::string& target, int threads) {
  const MachineLoops* loops = &machine_loops(target);
  const std::string suffix = "/threads:" + std::to_string(threads);
  const auto fma = [=](benchmark::State& state) {
    std::vector<double> rates;
    for ([[maybe_unused]] auto _ : state) rates.push_back(measure_flops(*loops, threads, kSampleSeconds));
    state.counters["GFLOPS"] = median(rates) * 1e-9;
    state.SetLabel(loops->vectors);
  };
  benchmark::RegisterBenchmark(("machine_fma" + suffix).c_str(), fma)->Unit(benchmark::kMicrosecond);
  const IntegerLoop* integers = &integer_loop(target);
  const auto int8 = [=](benchmark::State& state) {
    std::vector<double> rates;
    for ([[maybe_unused]] auto _ : state) rates.push_back(measure_operations(*integers, threads, kSampleSeconds));
    state.counters["GOPS"] = median(rates) * 1e-9;
    state.SetLabel(integers->target);
  };
  benchmark::RegisterBenchmark(("machine_int8" + suffix).c_str(), int8)->Unit(benchmark::kMicrosecond);
  // Sizes that fit in a core's two caches, in the shared cache, and in none (except a server's largest).
  for (int64_t kilobytes : {16, 512, 16 << 10, 512 << 10}) {
    const auto read = [=](benchmark::State& state) {
      const Floats data(kilobytes * 256, 1, 1);
      const int loop = fastest_read(*loops, {data.region()}, threads, 0);
      std::vector<double> rates;
      for ([[maybe_unused]] auto _ : state)
        rates.push_back(measure_read(*loops, loop, {data.region()}, threads, kSampleSeconds));
      state.counters["GBps"] = median(rates) * 1e-9;
      state.counters["read_streams"] = kReadStreams[loop];
      state.SetLabel(loops->vectors);
    };
    benchmark::RegisterBenchmark(("machine_read/KiB:" + std::to_string(kilobytes) + suffix).c_str(), read)
        ->Unit(benchmark::kMicrosecond);
  }
}

bool any_case_failed() { return case_failed; }

}  // namespace mha::bench
