// SPDX-License-Identifier: Apache-2.0
// Comparators: close to the double reference (a NaN on either side fails), and equal in every bit.
#ifndef MHA_TESTS_SUPPORT_COMPARE_H
#define MHA_TESTS_SUPPORT_COMPARE_H

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/tensors.h"

namespace mha::test {

/// Bounds on the error |got - want| / max(1, |want|).
struct Bound {
  double worst;
  double median;
};

struct Errors {
  double worst = 0;
  double median = 0;
  size_t worst_at = 0;
  bool has_nan = false;  // then worst_at is the first
};

/// An infinity agrees with itself alone: anything else beside it is an infinite error.
inline Errors measure_errors(const std::vector<float>& got, const std::vector<double>& want) {
  Errors errors;
  std::vector<double> all(got.size());
  for (size_t n = 0; n < got.size(); ++n) {
    if (std::isnan(got[n]) || std::isnan(want[n])) return {kNan, kNan, n, true};
    if (got[n] != want[n]) {
      const bool finite = std::isfinite(got[n]) && std::isfinite(want[n]);
      all[n] = finite ? std::fabs(got[n] - want[n]) / std::max(1.0, std::fabs(want[n])) : HUGE_VAL;
    }
    if (all[n] > errors.worst) {
      errors.worst = all[n];
      errors.worst_at = n;
    }
  }
  if (!all.empty()) {
    std::nth_element(all.begin(), all.begin() + all.size() / 2, all.end());
    errors.median = all[all.size() / 2];
  }
  return errors;
}

/// Fails unless every element is within the bound. With MHA_TEST_MEASURE set in the environment prints what it
/// measured: that is where the bounds come from.
inline void check_close(const std::string& what, const std::vector<float>& got, const std::vector<double>& want,
                        const Bound& bound) {
  REQUIRE(got.size() == want.size());
  const Errors errors = measure_errors(got, want);
  static const bool print = std::getenv("MHA_TEST_MEASURE") != nullptr;
  if (print) std::printf("measured %s worst %.3g median %.3g\n", what.c_str(), errors.worst, errors.median);
  if (!errors.has_nan && errors.worst <= bound.worst && errors.median <= bound.median) {
    SUCCEED();
    return;
  }
  std::ostringstream text;
  text << what << ": ";
  if (errors.has_nan)
    text << "NaN";
  else
    text << "max error " << errors.worst << " (bound " << bound.worst << "), median " << errors.median << " (bound "
         << bound.median << ")";
  text << " at element " << errors.worst_at << " of " << got.size() << ": got " << got[errors.worst_at] << ", want "
       << want[errors.worst_at];
  FAIL_CHECK(text.str());
}

/// Equal bits, where one NaN is as good as another. Returns the first difference, or -1.
inline int64_t first_bit_difference(const float* a, const float* b, size_t count) {
  for (size_t n = 0; n < count; ++n) {
    if (bits_of(a[n]) == bits_of(b[n])) continue;
    if (std::isnan(a[n]) && std::isnan(b[n]) && is_poison(a[n]) == is_poison(b[n])) continue;
    return static_cast<int64_t>(n);
  }
  return -1;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && first_bit_difference(a.data(), b.data(), a.size()) < 0;
}

/// Fails unless the two are equal bit for bit; says where they are not.
inline void check_same_bits(const std::string& what, const std::vector<float>& got, const std::vector<float>& want) {
  REQUIRE(got.size() == want.size());
  const int64_t n = first_bit_difference(got.data(), want.data(), got.size());
  if (n < 0) {
    SUCCEED();
    return;
  }
  std::ostringstream text;
  text.precision(9);
  text << what << ": element " << n << " of " << got.size() << " is " << got[n] << ", not " << want[n];
  FAIL_CHECK(text.str());
}

inline bool all_zero(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float value) { return value == 0; });
}

inline bool none_poison(const std::vector<float>& values) {
  return std::none_of(values.begin(), values.end(), is_poison);
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_COMPARE_H
