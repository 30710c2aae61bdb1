// SPDX-License-Identifier: Apache-2.0
// When a caller stops calling its team, and for how long: calls on a clock of the test's own.
#include "core/team_patience.h"
#include "support/compare.h"

namespace {

constexpr double kMicro = 1e-6, kMilli = 1e-3;

/// One caller and its calls, which take no time but what they are given.
class Caller {
 public:
  explicit Caller(int64_t threads) : threads_(threads) {}

  bool alone() const {
    return patience_.alone([this] { return now_; });
  }
  /// A call of the team; `preempted`: the scheduler took a CPU meanwhile.
  void call(const mha::TeamTimes& times, bool preempted) {
    now_ += times.called + times.worked + times.waited;
    preemptions_ += preempted ? 1 : 0;
    patience_.report(now_, threads_, times, [this] { return preemptions_; });
  }
  void work_alone(double seconds) { now_ += seconds; }
  double now() const { return now_; }

  /// Calls alike until the caller is alone, at most `most`: how many there were.
  int64_t calls_until_alone(const mha::TeamTimes& times, bool preempted, int64_t most = 1000) {
    for (int64_t n = 0; n < most; ++n) {
      if (alone()) return n;
      call(times, preempted);
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
  int64_t threads_, preemptions_ = 0;
  double now_ = 100;
  mha::TeamPatience patience_;
};

constexpr mha::TeamTimes kPunctual = {1 * kMicro, 30 * kMicro, 2 * kMicro};
constexpr mha::TeamTimes kLate = {1 * kMicro, 60 * kMicro, 6 * kMilli};

}  // namespace

TEST_CASE("team patience: a punctual team is called for ever", "[threads]") {
  Caller caller(2);
  CHECK(caller.calls_until_alone(kPunctual, true, 100000) == 100000);
  CHECK(caller.calls_until_alone({0, 10 * kMicro, 0.4 * kMilli}, true, 1000) == 1000);  // slow to wake
}

TEST_CASE("team patience: a team that is always late is soon left alone, and seldom tried again", "[threads]") {
  for (const mha::TeamTimes& times :
       {kLate, mha::TeamTimes{0, 9.5 * kMilli, 7 * kMilli}, mha::TeamTimes{0, 16.5 * kMilli, 6.7 * kMilli}}) {
    Caller caller(2);
    CHECK(caller.calls_until_alone(times, true) <= 6);
    CHECK(caller.time_alone() == Approx(0.2).epsilon(0.02));
    CHECK(caller.calls_until_alone(times, true) <= 3);
    CHECK(caller.time_alone() == Approx(0.4).epsilon(0.02));
    caller.calls_until_alone(times, true);
    caller.time_alone();
    for (int n = 0; n < 3; ++n) {
      CHECK(caller.calls_until_alone(times, true) <= 3);
      CHECK(caller.time_alone() == Approx(1).epsilon(0.02));
    }
  }
}

TEST_CASE("team patience: a team that does not come together is late whoever was preempted", "[threads]") {
  Caller caller(2);
  CHECK(caller.calls_until_alone({7 * kMilli, 50 * kMicro, 1 * kMicro}, false) == 3);
}

TEST_CASE("team patience: one late call is forgiven: a new team, one that slept, a short preemption", "[threads]") {
  Caller caller(2);
  caller.call(kLate, true);
  CHECK(caller.calls_until_alone(kPunctual, false, 1000) == 1000);
  for (int n = 0; n < 1000; ++n) {  // 3 ms in every 60, in 1000 calls
    caller.call({0, 30 * kMicro, 3 * kMilli}, true);
    CHECK(caller.calls_until_alone(kPunctual, true, 1000) == 1000);
  }
  Caller slept(2);
  slept.calls_until_alone(kLate, true);
  slept.time_alone();
  slept.call(kLate, true);  // its first call after that
  CHECK(slept.calls_until_alone(kPunctual, false, 1000) == 1000);
}

TEST_CASE("team patience: work that is cut unevenly is no reason to work alone", "[threads]") {
  Caller caller(2);
  caller.call(kLate, true);
  CHECK(caller.calls_until_alone({0, 5 * kMilli, 20 * kMilli}, false) == 1000);
}

TEST_CASE("team patience: what many threads do outweighs one that is late", "[threads]") {
  Caller caller(16);
  CHECK(caller.calls_until_alone({0, 3 * kMilli, 7 * kMilli}, true) == 1000);
  CHECK(caller.calls_until_alone(kLate, true) < 10);
}

TEST_CASE("team patience: a team that was punctual for long enough is trusted again", "[threads]") {
  Caller caller(2);
  for (int n = 0; n < 4; ++n) {
    caller.calls_until_alone(kLate, true);
    caller.time_alone();
  }
  CHECK(caller.calls_until_alone(kPunctual, true, 10000) == 10000);
  CHECK(caller.calls_until_alone(kLate, true) <= 5);
  CHECK(caller.time_alone() == Approx(0.2).epsilon(0.02));
}
