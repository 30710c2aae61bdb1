// SPDX-License-Identifier: Apache-2.0
// Bursts of the loops of machine_<family>.cpp on one thread or several.
#include "bench/machine.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <numeric>

namespace mha::bench {
namespace {

/// The share of `thread` of `threads` in a region, in whole kilobytes.
struct Share {
  const char* data;
  int64_t kilobytes;
};

Share share_of(const Region& region, int thread, int threads) {
  const int64_t total = static_cast<int64_t>(region.bytes / 1024);
  const int64_t begin = total * thread / threads;
  return {reinterpret_cast<const char*>(region.data) + begin * 1024, total * (thread + 1) / threads - begin};
}

/// Repeats `chunk`, which returns the units it did, for at least `seconds`; returns units a second.
template <class Chunk>
double rate_of(double seconds, Chunk chunk) {
  double units = 0;
  const double start = now();
  double elapsed = 0;
  do {
    units += chunk();
    elapsed = now() - start;
  } while (elapsed < seconds);
  return units / elapsed;
}

/// Of `threads` threads together.
double rate_of_turns(void (*multiply_add)(int64_t turns), double operations, int threads, double seconds) {
  constexpr int64_t kTurns = 2000;  // some 5 microseconds: what a thread does between two looks at the clock
  std::vector<double> rates(threads);
  auto body = [&](int thread) {
    multiply_add(4 * kTurns);  // wakes the wide units before the clock starts
    rates[thread] = rate_of(seconds, [&] {
      multiply_add(kTurns);
      return operations * kTurns;
    });
  };
  on_threads(threads, body);
  return std::accumulate(rates.begin(), rates.end(), 0.0);
}

}  // namespace

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void on_threads(int threads, void (*body)(void* data, int thread), void* data) {
  if (threads == 1) {
    body(data, 0);
    return;
  }
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static, 1)
#endif
  for (int thread = 0; thread < threads; ++thread) body(data, thread);
}

double measure_flops(const MachineLoops& loops, int threads, double seconds) {
  return rate_of_turns(loops.multiply_add, loops.flops_per_turn, threads, seconds);
}

double measure_operations(const IntegerLoop& loop, int threads, double seconds) {
  return rate_of_turns(loop.multiply_add, loop.operations_per_turn, threads, seconds);
}

double measure_read(const MachineLoops& loops, int loop, const std::vector<Region>& regions, int threads,
                    double seconds) {
  std::vector<double> rates(threads);
  auto body = [&](int thread) {
    rates[thread] = rate_of(seconds, [&] {
      double bytes = 0;
      for (const Region& region : regions) {
        const Share share = share_of(region, thread, threads);
        loops.read[loop](share.data, share.kilobytes);
        bytes += 1024.0 * static_cast<double>(share.kilobytes);
      }
      return bytes;
    });
  };
  on_threads(threads, body);
  return std::accumulate(rates.begin(), rates.end(), 0.0);
}

int fastest_read(const MachineLoops& loops, const std::vector<Region>& regions, int threads, double seconds) {
  constexpr int kTurns = 5;
  constexpr int kLoops = static_cast<int>(std::size(kReadStreams));
  double best[kLoops] = {};
  for (int turn = 0; turn < kTurns; ++turn) {
    for (int loop = 0; loop < kLoops; ++loop) {
      best[loop] = std::max(best[loop], measure_read(loops, loop, regions, threads, seconds));
    }
  }
  return static_cast<int>(std::max_element(best, best + kLoops) - best);
}

}  // namespace mha::bench
