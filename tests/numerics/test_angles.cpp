// SPDX-License-Identifier: Apache-2.0
// Frequencies and angles of rotary pairs through the kernel table: on every target the bits of core/math/elementary, double
// by double.
#include "core/math/elementary.h"
#include "simd/float_mode.h"
#include "tests/numerics/tables.h"
#include "tests/support/compare.h"
#include "tests/support/targets.h"

using namespace mha::test;
using mha::FrequencyScaling;

namespace {

constexpr int64_t kUnit = 32;  // pairs, to whose multiple the kernels may write
constexpr double kSlack = 77;

uint64_t bits_of_double(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

/// One pair, with branches, as the kernel's contract says.
double frequency(const mha::FrequencyArgs& a, int64_t d) {
  const double pair = static_cast<double>(d);
  const double plain = mha::elementary::exp(-(2 * pair / static_cast<double>(a.dims)) * a.log_base);
  switch (a.scaling) {
    case FrequencyScaling::kNone:
      return plain;
    case FrequencyScaling::kAll:
      return plain / a.factor;
    case FrequencyScaling::kRamp: {
      const double along = (pair - a.low) / (a.high - a.low);
      const double share = along < 0 ? 0 : (along > 1 ? 1 : along);
      return plain / a.factor * share + plain * (1 - share);
    }
    default: {
      const double wavelength = 6.28318530717958647693 / plain;
      if (wavelength < a.length / a.high) return plain;
      if (wavelength > a.length / a.low) return plain / a.factor;
      const double share = (a.length / wavelength - a.low) / (a.high - a.low);
      return (1 - share) * plain / a.factor + share * plain;
    }
  }
}

void check_frequencies(mha::FrequencyArgs args) {
  const mha::FloatMode mode;  // as kernels run
  const int64_t pairs = args.dims / 2, room = mha::round_up(pairs, kUnit);
  for (const std::string& target : supported_targets()) {
    std::vector<double> got(static_cast<size_t>(room + 1), kSlack);
    args.frequencies = got.data();
    row_kernels_of(target).rope_frequencies(&args);
    for (int64_t d = 0; d < pairs; ++d) {
      INFO(target << " scaling " << static_cast<int>(args.scaling) << " dims " << args.dims << " log " << args.log_base
                  << " pair " << d);
      REQUIRE(bits_of_double(got[static_cast<size_t>(d)]) == bits_of_double(frequency(args, d)));
    }
    REQUIRE(got.back() == kSlack);
  }
}

void check_angles(const std::vector<double>& frequencies, int64_t pairs, double position, double amplitude) {
  const mha::FloatMode mode;
  for (const std::string& target : supported_targets()) {
    for (const bool interleaved : {false, true}) {
      const size_t room = static_cast<size_t>(mha::round_up(pairs, kUnit) * (interleaved ? 2 : 1));
      std::vector<float> cos = poisoned(static_cast<int64_t>(room) + 1), sin = cos;
      const mha::AngleArgs args = {frequencies.data(), pairs, position, amplitude, interleaved, cos.data(), sin.data()};
      row_kernels_of(target).rope_angles(&args);
      for (size_t d = 0; d < static_cast<size_t>(pairs); ++d) {
        const mha::elementary::SinCos angle = mha::elementary::sin_cos(position * frequencies[d]);
        const float c = static_cast<float>(angle.cos * amplitude), s = static_cast<float>(angle.sin * amplitude);
        INFO(target << " position " << position << " frequency " << frequencies[d] << " interleaved " << interleaved);
        const size_t first = interleaved ? 2 * d : d, second = interleaved ? 2 * d + 1 : d;
        REQUIRE(bits_of(cos[first]) == bits_of(c));
        REQUIRE(bits_of(cos[second]) == bits_of(c));
        REQUIRE(bits_of(sin[first]) == bits_of(interleaved ? -s : s));
        REQUIRE(bits_of(sin[second]) == bits_of(s));
      }
      REQUIRE(is_poison(cos.back()));
      REQUIRE(is_poison(sin.back()));
    }
  }
}

}  // namespace

TEST_CASE("angles: frequencies have the bits of the elementary functions, every scaling", "[rope]") {
  for (const int64_t dims : {2, 6, 20, 62, 64, 66, 96, 128, 130, 1024}) {
    for (const double base : {1.0000001, 2.0, 10000.0, 500000.0, 1e6, 1e300, 1.7e308}) {
      mha::FrequencyArgs args = {};
      args.dims = dims, args.log_base = mha::elementary::log(base);
      check_frequencies(args);
      for (const double factor : {1.0, 8.0, 39.5}) {
        args.factor = factor;
        args.scaling = FrequencyScaling::kAll;
        check_frequencies(args);
        args.scaling = FrequencyScaling::kWavelengths, args.length = 8192, args.low = 1, args.high = 4;
        check_frequencies(args);
        args.length = 4096, args.low = 0.3, args.high = 6.5;
        check_frequencies(args);
        args.scaling = FrequencyScaling::kRamp, args.low = 3, args.high = 17;
        check_frequencies(args);
        args.low = 0, args.high = 0.001;
        check_frequencies(args);
      }
    }
  }
}

TEST_CASE("angles: cosines and sines have the bits of the elementary functions", "[rope]") {
  Random random(190000);
  for (const int64_t pairs : {1, 3, 10, 16, 31, 32, 33, 64, 512}) {
    std::vector<double> frequencies(static_cast<size_t>(mha::round_up(pairs, kUnit)));
    for (double position : {0.0, 1.0, 2.0, 777.0, 131071.0, 1e6, 2147483647.0}) {
      for (double& f : frequencies) {
        const double u = static_cast<double>(random.bits() >> 11) * 0x1p-53;
        f = std::exp(-20 * u);
      }
      // Where a quarter of a turn begins, and nothing at all.
      frequencies[0] = position > 0 ? 1.57079632679489661923 * std::floor(position / 2) / position : 1;
      frequencies[static_cast<size_t>(pairs) - 1] = random.below(2) == 0 ? 0.0 : 1.0;
      check_angles(frequencies, pairs, position, 1);
      check_angles(frequencies, pairs, position, 1.2079441541679836);
    }
  }
  std::vector<double> ones(kUnit, 1.0);
  for (int64_t n = 0; n < 20000; ++n) check_angles(ones, 1, static_cast<double>(n), 1);
}
