// SPDX-License-Identifier: Apache-2.0
// 2^x and tanh of the softmax and the softcap, on the vectors of vec-inl.h. Included by algorithms-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

// How a product with a sum is rounded: once, or each of the two, which targets without FMA can do alike.
struct Fused {
  template <class V>
  static MHA_INLINE V multiply_add(const V& a, const V& b, const V& c) {
    return fma(a, b, c);
  }
};
struct UnfusedWithFma {
  static MHA_INLINE Reg multiply_add(Reg a, Reg b, Reg c) { return a * b + c; }
  static MHA_INLINE Vec multiply_add(const Vec& a, const Vec& b, const Vec& c) { return add(mul(a, b), c); }
};
template <bool kFma>
struct UnfusedWith {
  using Type = UnfusedWithFma;
};
template <>
struct UnfusedWith<false> {
  using Type = Fused;  // the same there
};
using Unfused = UnfusedWith<kHasFma>::Type;

// 2^x for x <= 0 (any x below 126 works), within 2 units in the last place (2.2 without FMA). Exactly 1 at 0, exactly 0
// below -126 and at -inf; NaN stays NaN. Never denormal: kernels run with denormals as zero.
// Method: n = round(x), f = x - n in [-1/2, 1/2]. 2^f is a degree-5 minimax polynomial with the constant fixed to 1
// (relative error 9.4e-8, by Lawson's iteration), evaluated as c 2^f with c a power of two, which changes no bit. The
// result is 2^f times 2^n.
template <class Rounding>
MHA_INLINE Reg scaled_exp2(Reg f, float c) {
  Reg p(0.0013269613f * c);
  p = Rounding::multiply_add(p, f, Reg(0.009671294f * c));
  p = Rounding::multiply_add(p, f, Reg(0.05550711f * c));
  p = Rounding::multiply_add(p, f, Reg(0.24022247f * c));
  p = Rounding::multiply_add(p, f, Reg(0.693147f * c));
  return Rounding::multiply_add(p, f, Reg(1.0f * c));
}
#if defined(MHA_ISA_AVX512)
template <class Rounding = Fused>
MHA_INLINE Reg exp2(Reg x) {
  const Reg f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  return _mm512_scalef_ps(scaled_exp2<Rounding>(f, 1.0f), x - f);
}
#else
// Adding 1.5 * 2^23 + 128 rounds x to n, and the low bits of the sum are n + 128. Shifted into the exponent they are
// the scale 2^(n+1), zero from n = -128 down. For n = -127 the product is denormal, and so zero too.
template <class Rounding = Fused>
MHA_INLINE Reg exp2(Reg x) {
  const Reg lowest(-128.0f), magic(12582912.0f + 128.0f);
  const Reg t = max_or_second(lowest, x);
  const Reg z = t + magic;
  return scaled_exp2<Rounding>(t - (z - magic), 0.5f) * shift_bits_left_23(z);
}
#endif
template <class Rounding = Fused>
MHA_INLINE Vec exp2(const Vec& x) {
  return map([&](int i) MHA_ALWAYS_INLINE { return exp2<Rounding>(x.r[i]); });
}

// tanh(x): odd, relative error at most 3.2e-7 (6e-7 without FMA), x itself near 0, never beyond 1; NaN stays NaN.
// Method: x P(x^2) / Q(x^2), degrees 4 and 4, on x clamped to [-8, 8], where tanh is 1 - 2.3e-7. The coefficients are
// minimax in relative error (6.5e-9), by Lawson's iteration; the rest of the error is the rounding of the two
// polynomials and the quotient.
template <class Rounding = Fused>
MHA_INLINE Vec tanh(const Vec& x) {
  const Reg highest(8.0f), lowest(-8.0f);
  return map([&](int i) MHA_ALWAYS_INLINE {
    const Reg t = min_or_second(highest, max_or_second(lowest, x.r[i]));
    const Reg s = t * t;
    Reg p(1.5231350e-8f), q(8.5228345e-7f);
    p = Rounding::multiply_add(p, s, Reg(2.1895355e-5f)), q = Rounding::multiply_add(q, s, Reg(3.4113612e-4f));
    p = Rounding::multiply_add(p, s, Reg(3.5716412e-3f)), q = Rounding::multiply_add(q, s, Reg(2.6164608e-2f));
    p = Rounding::multiply_add(p, s, Reg(0.13444534f)), q = Rounding::multiply_add(q, s, Reg(0.46777862f));
    p = Rounding::multiply_add(p, s, Reg(1.0f)), q = Rounding::multiply_add(q, s, Reg(1.0f));
    return divide(t * p, q);
  });
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
