// SPDX-License-Identifier: Apache-2.0
// What every team of threads, OpenMP's or the context's own, does with a phase: takes items, times the caller, keeps
// off the caller's CPU.
#pragma once

#include "core/run/parallel.h"

namespace mha {

constexpr int64_t kMaxRanges = 32;

// The next item of a range that nobody has taken, on a cache line of its own.
struct alignas(64) Counter {
  int64_t next;
};

// The ranges of one phase.
struct Ranges {
  Counter* counters;
  int64_t count;
};

// Cuts each phase into ranges for so many threads, with no item taken. counters [kMaxPhases * kMaxRanges].
void start_ranges(int64_t threads, int count, Counter* counters, Ranges* ranges);

// Runs the items of a phase that nobody has taken, first those of its slot's range; returns how many it ran.
int64_t drain(const Phase& phase, const Ranges& ranges, int64_t slot);

// The caller's part in the phases of a call, in seconds. worked: the time that it spent on items. alone: what all items
// would have taken it, judged by the CPU time of its own; only computed if it suspects its team.
struct CallerTimes {
  bool suspects;
  double worked, alone;
};
int64_t drain_timed(const Phase& phase, const Ranges& ranges, CallerTimes* times);

// The CPU of the calling thread; -1: not known.
int current_cpu();
// Moves the calling thread off that CPU if it may run on another one; its affinity is left as it was.
void move_from(int cpu);

}  // namespace mha
