// SPDX-License-Identifier: Apache-2.0
// Frequencies of rotary pairs, and the cosines and sines of a position. Computed in double by the operations of
// elementary.cpp in the same order (its branches are selects here), so every target gives the same bits. Included by
// algorithms-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

template <int kCount>
MHA_INLINE Doubles polynomial(const double (&coefficients)[kCount], const Doubles& x) {
  Doubles y = all(coefficients[0]);
#pragma GCC unroll 16
  for (int i = 1; i < kCount; ++i) y = y * x + all(coefficients[i]);
  return y;
}

// e^x for x <= 0; 0 below elementary::kLowestExponent.
MHA_INLINE Doubles exp(const Doubles& x) {
  using namespace elementary;
  const Doubles n = whole(all(0.5) - x * all(kLog2e));  // minus the exponent of 2
  const Doubles r = (x + n * all(kLn2High)) + n * all(kLn2Low);
  const Doubles scale = power_of_two(all(kIntegers + 1023) - n);
  return select_less(x, all(kLowestExponent), all(0), polynomial(kExp, r) * scale);
}

struct SinCos {
  Doubles sin, cos;
};

MHA_INLINE SinCos sin_cos(const Doubles& x) {
  using namespace elementary;
  const Doubles n = whole(x * all(kTwoOverPi) + all(0.5));
  const Doubles r = ((x - n * all(kHalfPi1)) - n * all(kHalfPi2)) - n * all(kHalfPi3) - n * all(kHalfPi4);
  const Doubles r2 = r * r;
  const Doubles sin = r + r * r2 * polynomial(kSin, r2);
  const Doubles cos = all(1) + r2 * polynomial(kCos, r2);
  // In odd quarters of a turn sine and cosine change places. The sine is negative in quarters 2 and 3, the cosine in 1
  // and 2.
  const Doubles quarter = n + all(kIntegers), next = n + all(kIntegers + 1);
  return {negate_by_bit_1(quarter, select_odd(quarter, cos, sin)),
          negate_by_bit_1(next, select_odd(quarter, sin, cos))};
}

// Calls change(pair numbers, pointer to their frequencies) for all pairs, kDoubleLanes at a time.
template <class Change>
MHA_INLINE void for_pairs(const FrequencyArgs& a, Change change) {
  double numbers[kDoubleLanes];
  for (int i = 0; i < kDoubleLanes; ++i) numbers[i] = i;
  Doubles pair = load_doubles(numbers);
  for (int64_t d = 0; d < a.dims / 2; d += kDoubleLanes, pair = pair + all(kDoubleLanes))
    change(pair, a.frequencies + d);
}

inline void mix_by_ramp(const FrequencyArgs& a) {
  const Doubles factor = all(a.factor), low = all(a.low), range = all(a.high - a.low);
  for_pairs(a, [&](const Doubles& pair, double* at) MHA_ALWAYS_INLINE {
    const Doubles plain = load_doubles(at), along = (pair - low) / range;
    const Doubles share = select_less(along, all(0), all(0), select_less(all(1), along, all(1), along));
    store_doubles(at, plain / factor * share + plain * (all(1) - share));
  });
}

inline void mix_by_wavelength(const FrequencyArgs& a) {
  constexpr double kTwoPi = 6.28318530717958647693;
  const Doubles factor = all(a.factor), length = all(a.length), low = all(a.low), range = all(a.high - a.low);
  const Doubles shortest = all(a.length / a.high), longest = all(a.length / a.low);
  for_pairs(a, [&](const Doubles&, double* at) MHA_ALWAYS_INLINE {
    const Doubles plain = load_doubles(at), wavelength = all(kTwoPi) / plain;
    const Doubles share = (length / wavelength - low) / range;
    const Doubles mixed = (all(1) - share) * plain / factor + share * plain;
    store_doubles(at,
                  select_less(wavelength, shortest, plain, select_less(longest, wavelength, plain / factor, mixed)));
  });
}

inline void rope_frequencies(const FrequencyArgs* args) {
  const FrequencyArgs& a = *args;
  const Doubles dims = all(static_cast<double>(a.dims)), log_base = all(a.log_base);
  for_pairs(a, [&](const Doubles& pair, double* at)
                   MHA_ALWAYS_INLINE { store_doubles(at, exp(-(all(2) * pair / dims) * log_base)); });
  if (a.scaling == FrequencyScaling::kRamp) mix_by_ramp(a);
  if (a.scaling == FrequencyScaling::kWavelengths) mix_by_wavelength(a);
  if (a.scaling != FrequencyScaling::kAll) return;
  const Doubles factor = all(a.factor);
  for_pairs(a, [&](const Doubles&, double* at) MHA_ALWAYS_INLINE { store_doubles(at, load_doubles(at) / factor); });
}

inline void rope_angles(const AngleArgs* args) {
  const AngleArgs a = *args;
  const Doubles position = all(a.position), amplitude = all(a.amplitude);
  for (int64_t d = 0; d < a.pairs; d += kDoubleLanes) {
    const SinCos angle = sin_cos(position * load_doubles(a.frequencies + d));
    const Doubles cos = angle.cos * amplitude, sin = angle.sin * amplitude;
    if (!a.interleaved) {
      store_as_floats(a.cos + d, cos);
      store_as_floats(a.sin + d, sin);
      continue;
    }
    float c[kDoubleLanes], s[kDoubleLanes];
    store_as_floats(c, cos);
    store_as_floats(s, sin);
    for (int i = 0; i < kDoubleLanes; ++i) {
      a.cos[2 * (d + i)] = a.cos[2 * (d + i) + 1] = c[i];
      a.sin[2 * (d + i)] = -s[i], a.sin[2 * (d + i) + 1] = s[i];
    }
  }
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
