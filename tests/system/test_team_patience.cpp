// SPDX-License-Identifier: Apache-2.0
// When a caller stops calling its team, and for how long: calls on a clock of the test's own.
#include "core/run/team_patience.h"
#include "tests/support/compare.h"

namespace {

constexpr double kMicro = 1e-6, kMilli = 1e-3;

/// One caller and its calls, which take no time but what they are given.
class Caller {
 public:
  bool alone() const {
    return patience_.alone([this] { return now_; });
  }
  bool suspects() const { return patience_.suspects(); }
  /// A call of the team.
  void call(const mha::TeamTimes& times) {
    now_ += times.elapsed;
    patience_.report(now_, times);
  }
  void work_alone(double seconds) { now_ += seconds; }

  /// Calls alike until the caller is alone, at most `most`: how many there were.
  int64_t calls_until_alone(const mha::TeamTimes& times, int64_t most = 1000) {
    for (int64_t n = 0; n < most; ++n) {
      if (alone()) return n;
      call(times);
    }
    return most;
  }
  /// How long it works alone.
  double time_alone() {
    const double from = now_;
    while (alone()) work_alone(kMilli);
    return now_ - from;
  }

 private:
  double now_ = 100;
  mha::TeamPatience patience_;
};

constexpr mha::TeamTimes kPunctual = {33 * kMicro, 3 * kMicro, 60 * kMicro};
constexpr mha::TeamTimes kTooLate = {6 * kMilli, 5.97 * kMilli, 60 * kMicro};

}  // namespace

TEST_CASE("team patience: a punctual team is called for ever, without a look at slow clocks", "[threads]") {
  Caller caller;
  CHECK(caller.calls_until_alone(kPunctual, 100000) == 100000);
  CHECK(caller.calls_until_alone({0.41 * kMilli, 0.4 * kMilli, 20 * kMicro}) == 1000);  // slow to wake
  CHECK_FALSE(caller.suspects());
}

TEST_CASE("team patience: a team that is always late is soon left alone, and seldom tried again", "[threads]") {
  // A small call; a large one of two threads with half a CPU each.
  for (const mha::TeamTimes& times : {kTooLate, mha::TeamTimes{16 * kMilli, 7 * kMilli, 9 * kMilli}}) {
    Caller caller;
    CHECK(caller.calls_until_alone(times) <= 4);
    CHECK(caller.time_alone() == Approx(0.05).epsilon(0.05));
    for (double expected : {0.1, 0.2, 0.4, 0.8, 1.0, 1.0}) {
      CHECK(caller.calls_until_alone(times) <= 3);
      CHECK(caller.time_alone() == Approx(expected).epsilon(0.02));
    }
  }
}

TEST_CASE("team patience: one late call is forgiven: a new team, one that slept, a short preemption", "[threads]") {
  Caller caller;
  caller.call(kTooLate);
  CHECK(caller.suspects());
  CHECK(caller.calls_until_alone(kPunctual, 1000) == 1000);
  CHECK_FALSE(caller.suspects());
  for (int n = 0; n < 1000; ++n) {
    caller.call({3 * kMilli, 2.97 * kMilli, 60 * kMicro});
    CHECK(caller.calls_until_alone(kPunctual, 1000) == 1000);
  }
  Caller slept;
  slept.calls_until_alone(kTooLate);
  slept.time_alone();
  slept.call(kTooLate);  // its first call after that
  CHECK(slept.calls_until_alone(kPunctual, 1000) == 1000);
}

TEST_CASE("team patience: a team that sleeps between calls and is late to one in ten is worth having", "[threads]") {
  Caller caller;
  for (int n = 0; n < 1000; ++n) {
    CHECK(caller.calls_until_alone({0.75 * kMilli, 0.05 * kMilli, 1.4 * kMilli}, 9) == 9);
    caller.call({4.7 * kMilli, 4 * kMilli, 1.4 * kMilli});
  }
  CHECK_FALSE(caller.alone());
}

TEST_CASE("team patience: work that is cut unevenly is no reason to work alone", "[threads]") {
  Caller caller;
  CHECK(caller.calls_until_alone({25 * kMilli, 20 * kMilli, 30 * kMilli}) == 1000);
}

TEST_CASE("team patience: a team that was punctual for long enough is trusted again", "[threads]") {
  Caller caller;
  for (int n = 0; n < 4; ++n) {
    caller.calls_until_alone(kTooLate);
    caller.time_alone();
  }
  CHECK(caller.calls_until_alone(kPunctual, 10000) == 10000);
  CHECK_FALSE(caller.suspects());
  CHECK(caller.calls_until_alone(kTooLate) <= 4);
  CHECK(caller.time_alone() == Approx(0.05).epsilon(0.05));
}
