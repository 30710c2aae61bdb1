// SPDX-License-Identifier: Apache-2.0
// What tests compare with: no difference may hide in an infinity or a NaN.
#include "tests/support/compare.h"
#include "tests/support/golden.h"

using namespace mha::test;

namespace {

double worst_error(float got, double want) { return measure_errors({1.0f, got}, {1.0, want}).worst; }

}  // namespace

TEST_CASE("comparators: an infinity agrees with itself alone", "[comparators]") {
  for (const float infinite : {kInf, -kInf}) {
    CHECK(worst_error(infinite, infinite) == 0);
    CHECK(worst_error(infinite, -infinite) == HUGE_VAL);
    CHECK(worst_error(infinite, 3) == HUGE_VAL);
    CHECK(worst_error(3, infinite) == HUGE_VAL);
    CHECK(rounds_to(infinite, infinite));
    CHECK_FALSE(rounds_to(infinite, -infinite));
    CHECK_FALSE(rounds_to(infinite, 3));
    CHECK_FALSE(rounds_to(3, infinite));
  }
}

TEST_CASE("comparators: a NaN agrees with nothing, numbers by their distance", "[comparators]") {
  for (const double other : {0.0, 1.0, static_cast<double>(kInf), static_cast<double>(kNan)}) {
    CHECK(measure_errors({kNan}, {other}).has_nan);
    CHECK(measure_errors({static_cast<float>(other)}, {static_cast<double>(kNan)}).has_nan);
    CHECK_FALSE(rounds_to(static_cast<double>(kNan), other));
    CHECK_FALSE(rounds_to(other, static_cast<double>(kNan)));
  }
  CHECK(worst_error(0.5f, 0.25) == 0.25);  // of small values the difference,
  CHECK(worst_error(10.0f, 8.0) == 0.25);  // of large ones the share
  const Errors errors = measure_errors({1.0f, 1.5f, 1.0f}, {1.0, 1.0, 1.0});
  CHECK(errors.worst_at == 1);
  CHECK(errors.median == 0);
  CHECK(rounds_to(1 + 0x1p-25, 1));
  CHECK_FALSE(rounds_to(1 + 0x1p-23, 1));
}
