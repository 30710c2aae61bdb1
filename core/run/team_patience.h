// SPDX-License-Identifier: Apache-2.0
// Whether a team of threads is worth calling. If other processes, or other callers of this one, want the same CPUs, a
// thread of the team is late by whole slices of the scheduler, some milliseconds, while the threads that spin for it
// hold the CPU that it needs. Results do not depend on the team, so a caller that keeps losing time works alone for a
// while, then tries again. What counts is whether the caller alone would have been done sooner, not whether it waited:
// a team that sleeps between calls and comes some milliseconds late to one call in ten can still be worth having.
// No clock and no threads in here: times are given, in seconds.
#pragma once

#include <cstdint>

namespace mha {

// A call that waited less was not late: waking a thread takes 0.1 ms, a slice of the scheduler milliseconds.
constexpr double kLate = 0.5e-3;
// A caller works alone after it has lost kPatience in at least kLateCalls late calls, and trusts its team again after
// it has won as much. A thread that is new, slept, or was preempted once loses less.
constexpr double kPatience = 10e-3;
constexpr int64_t kLateCalls = 3;
// How long a caller works alone: doubled each time, until it trusts its team again.
constexpr double kShortestAlone = 0.05, kLongestAlone = 1;

// How one call went: how long it took, for how much of that its caller had nothing to do, and how long the caller would
// have taken alone, judged by its own work.
struct TeamTimes {
  double elapsed, idle, alone;
};

// What one calling thread knows of its teams.
class TeamPatience {
 public:
  template <typename Clock>
  bool alone(Clock now) const {
    return alone_until_ > 0 && now() < alone_until_;
  }

  // Whether report() uses TeamTimes::alone, which needs a clock that is slow to read.
  bool suspects() const { return suspects_; }

  // A call of the team ended at `now`.
  void report(double now, const TeamTimes& times) {
    if (!suspects_) {
      suspects_ = times.idle > kLate;
      return;
    }
    const double lost = times.elapsed - times.alone;
    debt_ += lost;
    if (lost > kLate) ++late_calls_;
    if (debt_ <= -kPatience) {
      *this = {};
    } else if (debt_ > kPatience && late_calls_ >= kLateCalls) {
      // The next try gets less patience.
      debt_ = kPatience / 2, late_calls_ = 1, alone_until_ = now + alone_;
      alone_ = 2 * alone_ < kLongestAlone ? 2 * alone_ : kLongestAlone;
    }
  }

 private:
  bool suspects_ = false;
  double debt_ = 0, alone_until_ = 0, alone_ = kShortestAlone;
  int64_t late_calls_ = 0;
};

}  // namespace mha
