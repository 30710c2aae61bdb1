// SPDX-License-Identifier: Apache-2.0
// Vectors of doubles for the angles of positions, in the compiler's own vector types, which need no intrinsics. With 32
// registers four vectors are computed at a time, so that their independent chains hide the latency of the operations;
// 16 registers are too few even for two. Nothing is fused (-ffp-contract=off): each lane has the bits of the same
// operations on one double, on every target. Included by algorithms-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

constexpr int kDoubleRegs = kVectorRegisters >= 32 ? 4 : 1;
constexpr int kDoubleRegLanes = static_cast<int>(sizeof(Reg) / sizeof(double));
constexpr int kDoubleLanes = kDoubleRegs * kDoubleRegLanes;
using DoubleReg = double __attribute__((vector_size(sizeof(Reg))));
using BitsReg = uint64_t __attribute__((vector_size(sizeof(Reg))));

struct Doubles {
  DoubleReg r[kDoubleRegs];
};

template <class Op>
MHA_INLINE Doubles map_doubles(Op op) {
  Doubles v;
#pragma GCC unroll 4
  for (int i = 0; i < kDoubleRegs; ++i) v.r[i] = op(i);
  return v;
}

MHA_INLINE Doubles all(double x) {
  return map_doubles([&](int) MHA_ALWAYS_INLINE { return x - DoubleReg{}; });
}
MHA_INLINE Doubles load_doubles(const double* p) {
  Doubles v;
  memcpy(&v, p, sizeof(v));
  return v;
}
MHA_INLINE void store_doubles(double* p, const Doubles& v) { memcpy(p, &v, sizeof(v)); }

// The lanes, rounded to float.
MHA_INLINE void store_as_floats(float* p, const Doubles& v) {
  using Floats = float __attribute__((vector_size(sizeof(Reg) / 2)));
#pragma GCC unroll 4
  for (int i = 0; i < kDoubleRegs; ++i) {
    const Floats rounded = __builtin_convertvector(v.r[i], Floats);
    memcpy(p + i * kDoubleRegLanes, &rounded, sizeof(rounded));
  }
}

MHA_INLINE Doubles operator+(const Doubles& a, const Doubles& b) {
  return map_doubles([&](int i) MHA_ALWAYS_INLINE { return a.r[i] + b.r[i]; });
}
MHA_INLINE Doubles operator-(const Doubles& a, const Doubles& b) {
  return map_doubles([&](int i) MHA_ALWAYS_INLINE { return a.r[i] - b.r[i]; });
}
MHA_INLINE Doubles operator*(const Doubles& a, const Doubles& b) {
  return map_doubles([&](int i) MHA_ALWAYS_INLINE { return a.r[i] * b.r[i]; });
}
MHA_INLINE Doubles operator/(const Doubles& a, const Doubles& b) {
  return map_doubles([&](int i) MHA_ALWAYS_INLINE { return a.r[i] / b.r[i]; });
}
MHA_INLINE Doubles operator-(const Doubles& a) {
  return map_doubles([&](int i) MHA_ALWAYS_INLINE { return -a.r[i]; });
}
// Lane by lane: less where x < y, else other.
MHA_INLINE Doubles select_less(const Doubles& x, const Doubles& y, const Doubles& less, const Doubles& other) {
  return map_doubles([&](int i) MHA_ALWAYS_INLINE { return x.r[i] < y.r[i] ? less.r[i] : other.r[i]; });
}

MHA_INLINE BitsReg bits_of(DoubleReg x) { return reinterpret_cast<BitsReg>(x); }
MHA_INLINE DoubleReg double_of(BitsReg bits) { return reinterpret_cast<DoubleReg>(bits); }

// From 2^52 on, doubles are the integers: x + kIntegers holds x, rounded to an integer, in its low bits.
constexpr double kIntegers = 0x1p52;

// x without its fraction, 0 <= x < 2^51.
MHA_INLINE Doubles whole(const Doubles& x) {
  const Doubles nearest = (x + all(kIntegers)) - all(kIntegers);
  return select_less(x, nearest, nearest - all(1), nearest);
}

// 2^(i - 1023), i being the integer in the low bits of n; normal results only.
MHA_INLINE Doubles power_of_two(const Doubles& n) {
  return map_doubles([&](int i) MHA_ALWAYS_INLINE { return double_of(bits_of(n.r[i]) << 52); });
}
// x where the integer in the low bits of n is odd, y where it is even.
MHA_INLINE Doubles select_odd(const Doubles& n, const Doubles& x, const Doubles& y) {
  return map_doubles([&](int i) MHA_ALWAYS_INLINE {
    const BitsReg odd = -(bits_of(n.r[i]) & 1);
    return double_of((odd & bits_of(x.r[i])) | (~odd & bits_of(y.r[i])));
  });
}
// -x where bit 1 of n is set, else x.
MHA_INLINE Doubles negate_by_bit_1(const Doubles& n, const Doubles& x) {
  return map_doubles([&](int i)
                         MHA_ALWAYS_INLINE { return double_of(bits_of(x.r[i]) ^ ((bits_of(n.r[i]) & 2) << 62)); });
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
