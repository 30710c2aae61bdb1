// SPDX-License-Identifier: Apache-2.0
// Whether a team of threads is worth calling. Where other processes, or other callers of this one, want the same CPUs,
// a thread of the team is late by whole slices of the scheduler, some milliseconds, while those that spin for it hold
// the CPU that it needs. Results do not depend on the team, so a caller that keeps losing time works alone for a while,
// then tries again. Two processes of two threads on two CPUs, against one thread each (mha_threads sharing): a linear
// of 0.15 ms 1.0 times instead of 43, attention of 0.9 ms 1.1 to 1.25 instead of 9, decoding of 8.4 ms 1.2 instead of
// 2.1; beside one busy process the linear takes 0.15 ms instead of 0.5, one of 0.09 ms 0.09 instead of 6.
// No clock and no threads in here: times are given, in seconds.
#pragma once

#include <cstdint>

namespace mha {

// A call that waited less was not late: waking a thread takes 0.1 ms, a slice of the scheduler milliseconds.
constexpr double kLate = 0.5e-3;
// The time lost, in at least so many late calls, after which a caller works alone; and the time won that is kept
// against what is lost later. More than what a thread loses that is new, slept, or was preempted once.
constexpr double kPatience = 10e-3;
constexpr int64_t kLateCalls = 3;
// How long a caller works alone; doubled each time, until a team has won kPatience.
constexpr double kShortestAlone = 0.2, kLongestAlone = 1;
// What counts as won, of the most that the others can have done. All of it would be fair if a caller knew how long the
// call takes alone; but of two threads with half a CPU each both work for twice as long and then wait.
constexpr double kShareWon = 0.25;

// How one call went: its caller waited for the team to come together, worked, and waited for the others' work.
struct TeamTimes {
  double called, worked, waited;
};

// What one calling thread knows of its teams.
class TeamPatience {
 public:
  template <typename Clock>
  bool alone(Clock now) const {
    return alone_until_ > 0 && now() < alone_until_;
  }

  // A call of `threads` ended at `now`. If its caller waited for the others' work, preemptions() says how often the
  // scheduler has taken a CPU from this process: if not once since the last such call, the CPUs are free and the work
  // was cut unevenly. To wait for the team itself is always a loss.
  template <typename Preemptions>
  void report(double now, int64_t threads, const TeamTimes& times, Preemptions preemptions) {
    const double won = kShareWon * static_cast<double>(threads - 1) * times.worked;
    double lost = times.called;
    if (times.waited > kLate) {
      const int64_t before = preemptions_;
      preemptions_ = preemptions();
      if (preemptions_ != before) lost += times.waited;
    }
    if (lost < kLate) lost = 0;
    if (lost > won + kLate) ++late_calls_;
    debt_ += lost - won;
    if (debt_ <= -kPatience) {
      debt_ = -kPatience, late_calls_ = 0, alone_ = kShortestAlone;
    } else if (debt_ > kPatience && late_calls_ >= kLateCalls) {
      // Tries again with less patience.
      debt_ = kPatience / 2, late_calls_ = 1, alone_until_ = now + alone_;
      alone_ = 2 * alone_ < kLongestAlone ? 2 * alone_ : kLongestAlone;
    }
  }

 private:
  double debt_ = 0, alone_until_ = 0, alone_ = kShortestAlone;
  int64_t late_calls_ = 0, preemptions_ = 0;
};

}  // namespace mha
