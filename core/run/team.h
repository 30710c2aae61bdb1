// SPDX-License-Identifier: Apache-2.0
// What every team of threads does with a phase, OpenMP's and the context's own: taking items, timing the caller,
// keeping off its CPU.
#pragma once

#include "core/run/parallel.h"

namespace mha {

constexpr int64_t kMaxRanges = 32;

// Where a range of a phase stands, on a line of its own.
struct alignas(64) Counter {
  int64_t next;
};

// The ranges of one phase.
struct Ranges {
  Counter* counters;
  int64_t count;
};

// Gives each phase its ranges for so many threads, all at their begin. counters[kMaxPhases * kMaxRanges].
void start_ranges(int64_t threads, int count, Counter* counters, Ranges* ranges);

// Runs the items of a phase that nobody has taken, those of the range of its slot first; returns how many it ran.
int64_t drain(const Phase& phase, const Ranges& ranges, int64_t slot);

// The caller's part in the phases of a call, in seconds: its own items; all of them, had it been alone (judged by the
// CPU time of its own, only where it suspects its team).
struct CallerTimes {
  bool suspects;
  double worked, alone;
};
int64_t drain_timed(const Phase& phase, const Ranges& ranges, CallerTimes* times);

// -1 where that is not known.
int current_cpu();
// Moves the calling thread off that CPU if it may run on another one; its affinity is left as it was.
void move_from(int cpu);

}  // namespace mha
