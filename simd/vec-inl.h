// SPDX-License-Identifier: Apache-2.0
// The vector type of the kernels: 16 floats on every target, as one, two or four registers of xsimd::batch. The only
// file that knows xsimd and its versions (8.1 to 14.x). It, functions-inl.h, element-inl.h and bytes-inl.h branch on the
// instruction set. Compiled once per target, see targets/.
//
// A fixed width of 16 is what makes results equal on every target: a reduction over the 16 lanes has one fixed tree,
// and a packed panel (16 columns wide) is the same bytes everywhere.
#if !defined(MHA_TARGET_NS) || !defined(MHA_TARGET_ARCH)
#error "vec-inl.h is included by simd/targets/<family>/<target>.cpp only"
#endif
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "mha must not be built with -ffast-math: masks need infinities and NaN"
#endif

// The target's file (MHA_ISA_*) chooses the code, not the compiler's macros: those also follow the flags of a parent
// project (-march=native), and an sse2 target must stay one.
#if defined(MHA_ISA_AVX512) || defined(MHA_ISA_AVX2) || defined(MHA_ISA_SSE2)
#define MHA_ISA_X86
#endif
#if (defined(MHA_ISA_AVX2) && defined(__AVX512F__)) || (defined(MHA_ISA_SSE2) && defined(__SSE3__))
#error "the compiler may use more instructions than this target has; tools/cmake/targets.cmake takes flags back"
#endif

#define MHA_CAT_(a, b) a##b
#define MHA_CAT(a, b) MHA_CAT_(a, b)
// One private copy of xsimd per target: otherwise the linker keeps one copy of its inline functions for all targets,
// and an AVX-512 copy may run on a CPU without it.
#define xsimd MHA_CAT(xsimd_, MHA_TARGET_NS)
#include <xsimd/xsimd.hpp>

#include <cstdint>
#include <cstring>

#if defined(MHA_ISA_X86)
#include <immintrin.h>
#elif defined(MHA_ISA_NEON)
#include <arm_neon.h>
#endif

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // false alarms inside gcc's own avx512fintrin.h
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define MHA_ALWAYS_INLINE __attribute__((always_inline))
#define MHA_INLINE inline MHA_ALWAYS_INLINE
// For the functions around a register tile: inlined into their callers, they would run out of integer registers.
#define MHA_NOINLINE __attribute__((noinline))
// For code that few calls need: compiled for size, once.
#define MHA_COLD __attribute__((noinline, cold))

namespace mha::MHA_TARGET_NS {
namespace {

constexpr int kLanes = 16;
using Reg = xsimd::batch<float, xsimd::MHA_TARGET_ARCH>;
using IntReg = xsimd::batch<int32_t, xsimd::MHA_TARGET_ARCH>;
constexpr int kRegLanes = static_cast<int>(Reg::size);
constexpr int kRegs = kLanes / kRegLanes;

#if defined(MHA_ISA_AVX512) || defined(MHA_ISA_NEON)
constexpr int kVectorRegisters = 32;
#else
constexpr int kVectorRegisters = 16;
#endif

struct Vec {
  Reg r[kRegs];
};

// --- Per register: what xsimd lacks, or does differently from version to version -------------------------------------

#if defined(MHA_ISA_X86)
// Any 16 bytes as the bits of four floats.
MHA_INLINE __m128 load_16_bytes(const char* p) {
  return _mm_castsi128_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
#endif

#if defined(MHA_ISA_AVX512)
constexpr bool kHasFma = true;
MHA_INLINE Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }  // xsimd 8.1 multiplies, then adds
// The greater of two; `second` where either is NaN.
MHA_INLINE Reg max_or_second(Reg first, Reg second) { return _mm512_max_ps(first, second); }
MHA_INLINE Reg min_or_second(Reg first, Reg second) { return _mm512_min_ps(first, second); }
// Lane l = a where bit l of `bits` is set, else b.
MHA_INLINE Reg select_bits(uint32_t bits, Reg a, Reg b) {
  return _mm512_mask_blend_ps(static_cast<__mmask16>(bits), b, a);
}
// Bit l set where x[l] is v.
MHA_INLINE uint32_t equal_bits(const int32_t* x, int32_t v) {
  return _mm512_cmpeq_epi32_mask(_mm512_loadu_si512(x), _mm512_set1_epi32(v));
}
// Lane l of 128 bits = the four floats at p + l * 4 * stride.
MHA_INLINE Reg load_quads(const float* p, int64_t stride) {
  const __m512 low = _mm512_insertf32x4(_mm512_castps128_ps512(_mm_loadu_ps(p)), _mm_loadu_ps(p + 4 * stride), 1);
  return _mm512_insertf32x4(_mm512_insertf32x4(low, _mm_loadu_ps(p + 8 * stride), 2), _mm_loadu_ps(p + 12 * stride), 3);
}
// Lane l of 128 bits = the four floats at rows[l * 4] + d.
MHA_INLINE Reg load_quads(const float* const* rows, int64_t d) {
  const __m512 low =
      _mm512_insertf32x4(_mm512_castps128_ps512(_mm_loadu_ps(rows[0] + d)), _mm_loadu_ps(rows[4] + d), 1);
  return _mm512_insertf32x4(_mm512_insertf32x4(low, _mm_loadu_ps(rows[8] + d), 2), _mm_loadu_ps(rows[12] + d), 3);
}
// Elements 2i and 2i + 1 change places.
MHA_INLINE Reg swap_pairs(Reg a) { return _mm512_permute_ps(a, 0xb1); }
// The two halves of every four elements change places; then those of every eight, and of sixteen.
MHA_INLINE Reg swap_halves_of_4(Reg a) { return _mm512_permute_ps(a, 0x4e); }
MHA_INLINE Reg swap_halves_of_8(Reg a) { return _mm512_shuffle_f32x4(a, a, 0xb1); }
MHA_INLINE Reg swap_halves_of_16(Reg a) { return _mm512_shuffle_f32x4(a, a, 0x4e); }
MHA_INLINE void transpose_quads(Reg r[4]) {
  const __m512 t0 = _mm512_unpacklo_ps(r[0], r[1]), t1 = _mm512_unpackhi_ps(r[0], r[1]);
  const __m512 t2 = _mm512_unpacklo_ps(r[2], r[3]), t3 = _mm512_unpackhi_ps(r[2], r[3]);
  r[0] = _mm512_shuffle_ps(t0, t2, 0x44), r[1] = _mm512_shuffle_ps(t0, t2, 0xee);
  r[2] = _mm512_shuffle_ps(t1, t3, 0x44), r[3] = _mm512_shuffle_ps(t1, t3, 0xee);
}
#elif defined(MHA_ISA_AVX2)
constexpr bool kHasFma = true;
MHA_INLINE Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
MHA_INLINE Reg max_or_second(Reg first, Reg second) { return _mm256_max_ps(first, second); }
MHA_INLINE Reg min_or_second(Reg first, Reg second) { return _mm256_min_ps(first, second); }
MHA_INLINE Reg select_bits(uint32_t bits, Reg a, Reg b) {
  const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), lane);
  return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, lane)));
}
MHA_INLINE uint32_t equal_bits(const int32_t* x, int32_t v) {
  const __m256i at = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  const __m256i equal = _mm256_cmpeq_epi32(at, _mm256_set1_epi32(v));
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(equal)));
}
// The bits of a float, shifted left by 23 and read as a float again.
MHA_INLINE Reg shift_bits_left_23(Reg a) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), 23)); }
MHA_INLINE Reg load_quads(const float* p, int64_t stride) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + 4 * stride), 1);
}
MHA_INLINE Reg load_quads(const char* p, int64_t stride) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(load_16_bytes(p)), load_16_bytes(p + 4 * stride), 1);
}
MHA_INLINE Reg load_quads(const float* const* rows, int64_t d) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(rows[0] + d)), _mm_loadu_ps(rows[4] + d), 1);
}
MHA_INLINE Reg swap_pairs(Reg a) { return _mm256_permute_ps(a, 0xb1); }
MHA_INLINE Reg swap_halves_of_4(Reg a) { return _mm256_permute_ps(a, 0x4e); }
MHA_INLINE Reg swap_halves_of_8(Reg a) { return _mm256_permute2f128_ps(a, a, 1); }
MHA_INLINE void transpose_quads(Reg r[4]) {
  const __m256 t0 = _mm256_unpacklo_ps(r[0], r[1]), t1 = _mm256_unpackhi_ps(r[0], r[1]);
  const __m256 t2 = _mm256_unpacklo_ps(r[2], r[3]), t3 = _mm256_unpackhi_ps(r[2], r[3]);
  r[0] = _mm256_shuffle_ps(t0, t2, 0x44), r[1] = _mm256_shuffle_ps(t0, t2, 0xee);
  r[2] = _mm256_shuffle_ps(t1, t3, 0x44), r[3] = _mm256_shuffle_ps(t1, t3, 0xee);
}
#elif defined(MHA_ISA_SSE2)
constexpr bool kHasFma = false;
MHA_INLINE Reg fma(Reg a, Reg b, Reg c) { return a * b + c; }  // rounds twice: exempt from the same-bits promise
MHA_INLINE Reg max_or_second(Reg first, Reg second) { return _mm_max_ps(first, second); }
MHA_INLINE Reg min_or_second(Reg first, Reg second) { return _mm_min_ps(first, second); }
MHA_INLINE Reg select_bits(uint32_t bits, Reg a, Reg b) {
  const __m128i lane = _mm_setr_epi32(1, 2, 4, 8);
  const __m128i set = _mm_and_si128(_mm_set1_epi32(static_cast<int>(bits)), lane);
  const __m128 chosen = _mm_castsi128_ps(_mm_cmpeq_epi32(set, lane));
  return _mm_or_ps(_mm_and_ps(chosen, a), _mm_andnot_ps(chosen, b));
}
MHA_INLINE uint32_t equal_bits(const int32_t* x, int32_t v) {
  const __m128i at = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
  return static_cast<uint32_t>(_mm_movemask_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(at, _mm_set1_epi32(v)))));
}
MHA_INLINE Reg shift_bits_left_23(Reg a) { return _mm_castsi128_ps(_mm_slli_epi32(_mm_castps_si128(a), 23)); }
MHA_INLINE Reg load_quads(const float* p, int64_t) { return _mm_loadu_ps(p); }
MHA_INLINE Reg load_quads(const char* p, int64_t) { return load_16_bytes(p); }
MHA_INLINE Reg load_quads(const float* const* rows, int64_t d) { return _mm_loadu_ps(rows[0] + d); }
MHA_INLINE Reg swap_pairs(Reg a) { return _mm_shuffle_ps(a, a, 0xb1); }
MHA_INLINE Reg swap_halves_of_4(Reg a) { return _mm_shuffle_ps(a, a, 0x4e); }
MHA_INLINE void transpose_quads(Reg r[4]) {
  const __m128 t0 = _mm_unpacklo_ps(r[0], r[1]), t1 = _mm_unpackhi_ps(r[0], r[1]);
  const __m128 t2 = _mm_unpacklo_ps(r[2], r[3]), t3 = _mm_unpackhi_ps(r[2], r[3]);
  r[0] = _mm_shuffle_ps(t0, t2, 0x44), r[1] = _mm_shuffle_ps(t0, t2, 0xee);
  r[2] = _mm_shuffle_ps(t1, t3, 0x44), r[3] = _mm_shuffle_ps(t1, t3, 0xee);
}
#elif defined(MHA_ISA_NEON)
constexpr bool kHasFma = true;
MHA_INLINE Reg fma(Reg a, Reg b, Reg c) { return vfmaq_f32(c, a, b); }
MHA_INLINE Reg max_or_second(Reg first, Reg second) {
  const float32x4_t a = first, b = second;
  return vbslq_f32(vcgtq_f32(a, b), a, b);
}
MHA_INLINE Reg min_or_second(Reg first, Reg second) {
  const float32x4_t a = first, b = second;
  return vbslq_f32(vcltq_f32(a, b), a, b);
}
alignas(16) constexpr uint32_t kLaneBits[4] = {1, 2, 4, 8};
MHA_INLINE Reg select_bits(uint32_t bits, Reg a, Reg b) {
  return vbslq_f32(vtstq_u32(vdupq_n_u32(bits), vld1q_u32(kLaneBits)), a, b);
}
MHA_INLINE uint32_t equal_bits(const int32_t* x, int32_t v) {
  return vaddvq_u32(vandq_u32(vceqq_s32(vld1q_s32(x), vdupq_n_s32(v)), vld1q_u32(kLaneBits)));
}
MHA_INLINE Reg shift_bits_left_23(Reg a) { return vreinterpretq_f32_s32(vshlq_n_s32(vreinterpretq_s32_f32(a), 23)); }
MHA_INLINE Reg divide(Reg a, Reg b) { return vdivq_f32(a, b); }  // xsimd 8.1 estimates the reciprocal
MHA_INLINE Reg load_quads(const float* p, int64_t) { return vld1q_f32(p); }
MHA_INLINE Reg load_quads(const char* p, int64_t) {
  return vreinterpretq_f32_u8(vld1q_u8(reinterpret_cast<const uint8_t*>(p)));
}
MHA_INLINE Reg load_quads(const float* const* rows, int64_t d) { return vld1q_f32(rows[0] + d); }
MHA_INLINE Reg swap_pairs(Reg a) { return vrev64q_f32(a); }
MHA_INLINE Reg swap_halves_of_4(Reg a) { return vextq_f32(a, a, 2); }
MHA_INLINE void transpose_quads(Reg r[4]) {
  const float32x4x2_t a = vtrnq_f32(r[0], r[1]), b = vtrnq_f32(r[2], r[3]);
  r[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
  r[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
  r[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
  r[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}
#else
#error "vec-inl.h has no instruction set for this target"
#endif

#if !defined(MHA_ISA_NEON)
MHA_INLINE Reg divide(Reg a, Reg b) { return a / b; }
#endif

// --- The 16-lane vector ----------------------------------------------------------------------------------------------

template <class Op>
MHA_INLINE Vec map(Op op) {
  Vec v;
#pragma GCC unroll 4
  for (int i = 0; i < kRegs; ++i) v.r[i] = op(i);
  return v;
}

template <int kNumber>
struct Number {
  static constexpr int value = kNumber;
};

// Calls take for each number below kCount, in ascending order; the number is a constant: take(Number<0>()), and so on.
template <int kCount, int kFirst = 0, class Take>
MHA_INLINE void for_each_number(Take take) {
  if constexpr (kFirst < kCount) {
    take(Number<kFirst>());
    for_each_number<kCount, kFirst + 1>(take);
  }
}

MHA_INLINE Vec set1(float x) {
  const Reg r(x);
  return map([&](int) MHA_ALWAYS_INLINE { return r; });
}
MHA_INLINE Vec zero() { return set1(0.0f); }
MHA_INLINE Vec load(const float* p) {
  return map([&](int i) MHA_ALWAYS_INLINE { return Reg::load_unaligned(p + i * kRegLanes); });
}
MHA_INLINE void store(float* p, const Vec& v) {
#pragma GCC unroll 4
  for (int i = 0; i < kRegs; ++i) v.r[i].store_unaligned(p + i * kRegLanes);
}
MHA_INLINE Vec add(const Vec& a, const Vec& b) {
  return map([&](int i) MHA_ALWAYS_INLINE { return a.r[i] + b.r[i]; });
}
MHA_INLINE Vec sub(const Vec& a, const Vec& b) {
  return map([&](int i) MHA_ALWAYS_INLINE { return a.r[i] - b.r[i]; });
}
MHA_INLINE Vec mul(const Vec& a, const Vec& b) {
  return map([&](int i) MHA_ALWAYS_INLINE { return a.r[i] * b.r[i]; });
}
MHA_INLINE Vec divide(const Vec& a, const Vec& b) {
  return map([&](int i) MHA_ALWAYS_INLINE { return divide(a.r[i], b.r[i]); });
}
MHA_INLINE Vec fma(const Vec& a, const Vec& b, const Vec& c) {
  return map([&](int i) MHA_ALWAYS_INLINE { return fma(a.r[i], b.r[i], c.r[i]); });
}
// Lane-wise maximum; `second` where either is NaN.
MHA_INLINE Vec max_or_second(const Vec& first, const Vec& second) {
  return map([&](int i) MHA_ALWAYS_INLINE { return max_or_second(first.r[i], second.r[i]); });
}
// Lane-wise minimum; `second` where either is NaN.
MHA_INLINE Vec min_or_second(const Vec& first, const Vec& second) {
  return map([&](int i) MHA_ALWAYS_INLINE { return min_or_second(first.r[i], second.r[i]); });
}
MHA_INLINE Vec absolute(const Vec& x) {
  return map([&](int i) MHA_ALWAYS_INLINE { return xsimd::abs(x.r[i]); });
}
// Lane l = a where bit l of `bits` is set, else b.
MHA_INLINE Vec select_bits(uint32_t bits, const Vec& a, const Vec& b) {
  return map([&](int i) MHA_ALWAYS_INLINE { return select_bits(bits >> (i * kRegLanes), a.r[i], b.r[i]); });
}
// a where x > y, else b (also where x or y is NaN).
MHA_INLINE Vec select_greater(const Vec& x, const Vec& y, const Vec& a, const Vec& b) {
  return map([&](int i) MHA_ALWAYS_INLINE { return xsimd::select(x.r[i] > y.r[i], a.r[i], b.r[i]); });
}
// 1 / x, 0 where x is 0.
MHA_INLINE Vec inverse_or_zero(const Vec& x) {
  return map([&](int i) MHA_ALWAYS_INLINE {
    return xsimd::select(x.r[i] == Reg(0.0f), Reg(0.0f), divide(Reg(1.0f), x.r[i]));
  });
}
MHA_INLINE Vec swap_pairs(const Vec& a) {
  return map([&](int i) MHA_ALWAYS_INLINE { return swap_pairs(a.r[i]); });
}
// Lane l = lane (l ^ kDistance) of a; kDistance is 1, 2, 4 or 8.
template <int kDistance>
MHA_INLINE Vec exchange_lanes(const Vec& a) {
  if constexpr (kDistance >= kRegLanes) {
    return map([&](int i) MHA_ALWAYS_INLINE { return a.r[i ^ (kDistance / kRegLanes)]; });
  } else if constexpr (kDistance == 1) {
    return swap_pairs(a);
  } else if constexpr (kDistance == 2) {
    return map([&](int i) MHA_ALWAYS_INLINE { return swap_halves_of_4(a.r[i]); });
#if defined(MHA_ISA_AVX512) || defined(MHA_ISA_AVX2)
  } else if constexpr (kDistance == 4) {
    return map([&](int i) MHA_ALWAYS_INLINE { return swap_halves_of_8(a.r[i]); });
#endif
#if defined(MHA_ISA_AVX512)
  } else {
    return map([&](int i) MHA_ALWAYS_INLINE { return swap_halves_of_16(a.r[i]); });
#endif
  }
}
// 1 / sqrt(x), both rounded correctly (xsimd's rsqrt estimates).
MHA_INLINE float inverse_square_root(float x) {
#if defined(MHA_ISA_X86)
  return 1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x)));
#else
  return 1.0f / vget_lane_f32(vsqrt_f32(vdup_n_f32(x)), 0);
#endif
}
// {0, 1, ..., 15}
MHA_INLINE Vec lane_numbers() {
  alignas(64) static constexpr float kNumbers[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return load(kNumbers);
}

MHA_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }
MHA_INLINE void prefetch_to_write(const void* p) { __builtin_prefetch(p, 1); }
MHA_INLINE void prefetch_to_l2(const void* p) { __builtin_prefetch(p, 0, 2); }

// Reads or writes the first `count` of four floats (any number; more than 4 counts as 4). load_quad fills with zeros. A
// memcpy of so few is a call, and a load of what it just wrote waits for it.
#if defined(__SSE2__)
MHA_INLINE __m128 load_quad(const float* p, int count) {
  if (count >= 4) return _mm_loadu_ps(p);
  if (count <= 0) return _mm_setzero_ps();
  if (count == 1) return _mm_load_ss(p);
  const __m128 two = _mm_loadl_pi(_mm_setzero_ps(), reinterpret_cast<const __m64*>(p));
  return count == 2 ? two : _mm_movelh_ps(two, _mm_load_ss(p + 2));
}
MHA_INLINE void store_quad(float* p, __m128 v, int count) {
  if (count >= 4) return _mm_storeu_ps(p, v);
  if (count >= 2) _mm_storel_pi(reinterpret_cast<__m64*>(p), v);
  if (count == 1) _mm_store_ss(p, v);
  if (count == 3) _mm_store_ss(p + 2, _mm_movehl_ps(v, v));
}
#else
MHA_INLINE float32x4_t load_quad(const float* p, int count) {
  if (count >= 4) return vld1q_f32(p);
  const float32x4_t none = vdupq_n_f32(0.0f);
  if (count <= 0) return none;
  if (count == 1) return vld1q_lane_f32(p, none, 0);
  const float32x4_t two = vcombine_f32(vld1_f32(p), vget_low_f32(none));
  return count == 2 ? two : vld1q_lane_f32(p + 2, two, 2);
}
MHA_INLINE void store_quad(float* p, float32x4_t v, int count) {
  if (count >= 4) return vst1q_f32(p, v);
  if (count >= 2) vst1_f32(p, vget_low_f32(v));
  if (count == 1) vst1q_lane_f32(p, v, 0);
  if (count == 3) vst1q_lane_f32(p + 2, v, 2);
}
#endif

// The first `count` (0..16) floats; nothing beyond is touched. load_first fills with zeros.
MHA_INLINE Vec load_first(const float* p, int count) {
#if defined(MHA_ISA_AVX512)
  return Vec{{_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p)}};
#elif defined(MHA_ISA_AVX2)
  const __m256i last = _mm256_set1_epi32(count), lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i low = _mm256_cmpgt_epi32(last, lanes);
  const __m256i high = _mm256_cmpgt_epi32(last, _mm256_add_epi32(lanes, _mm256_set1_epi32(8)));
  return Vec{{_mm256_maskload_ps(p, low), _mm256_maskload_ps(p + 8, high)}};
#else
  return map([&](int i) MHA_ALWAYS_INLINE { return load_quad(p + i * 4, count - i * 4); });
#endif
}
// dst[0..16) = load_first(p, count).
MHA_INLINE void copy_first(float* dst, const float* p, int count) { store(dst, load_first(p, count)); }
MHA_INLINE void store_first(float* p, const Vec& v, int count) {
#if defined(MHA_ISA_AVX512)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), v.r[0]);
#elif defined(MHA_ISA_AVX2)
#pragma GCC unroll 2
  for (int i = 0; i < kRegs; ++i) {
    store_quad(p + i * 8, _mm256_castps256_ps128(v.r[i]), count - i * 8);
    store_quad(p + i * 8 + 4, _mm256_extractf128_ps(v.r[i], 1), count - i * 8 - 4);
  }
#else
#pragma GCC unroll 4
  for (int i = 0; i < kRegs; ++i) store_quad(p + i * 4, v.r[i], count - i * 4);
#endif
}

// Bit l, l < count (0..16), is set where p[l] is not 0.
MHA_INLINE uint32_t nonzero_bits(const uint8_t* p, int count) {
  alignas(16) uint8_t bytes[kLanes] = {};
  if (count < kLanes) {
    if (count > 0) memcpy(bytes, p, static_cast<size_t>(count));
    p = bytes;
  }
#if defined(MHA_ISA_X86)
  const __m128i zeros = _mm_cmpeq_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), _mm_setzero_si128());
  return ~static_cast<uint32_t>(_mm_movemask_epi8(zeros)) & 0xffffu;
#else
  alignas(16) static constexpr uint8_t kBits[kLanes] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t at = vld1q_u8(p), set = vandq_u8(vtstq_u8(at, at), vld1q_u8(kBits));
  return vaddv_u8(vget_low_u8(set)) | static_cast<uint32_t>(vaddv_u8(vget_high_u8(set))) << 8;
#endif
}
// Bit l, l < count (0..16), is set where x[l] is v.
MHA_INLINE uint32_t equal_bits_first(const int32_t* x, int32_t v, int count) {
  alignas(64) int32_t buffer[kLanes] = {};
  if (count < kLanes) {
    if (count > 0) memcpy(buffer, x, static_cast<size_t>(count) * sizeof(int32_t));
    x = buffer;
  }
  uint32_t bits = 0;
#pragma GCC unroll 4
  for (int i = 0; i < kRegs; ++i) bits |= equal_bits(x + i * kRegLanes, v) << (i * kRegLanes);
  return bits & ((1u << count) - 1);
}

// Folds 16 lanes to one by a fixed tree: lanes i and i + 8, then i + 4, i + 2, i + 1. The tree is part of the canonical
// order, so it is the same for every register width.
template <class Op128, class OpReg>
MHA_INLINE float fold(const Vec& v, Op128 op, OpReg op_reg) {
#if defined(MHA_ISA_X86)
#if defined(MHA_ISA_AVX512)
  const __m256 half = op_reg(_mm512_castps512_ps256(v.r[0]), _mm512_extractf32x8_ps(v.r[0], 1));
  const __m128 quad = op(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#elif defined(MHA_ISA_AVX2)
  const __m256 half = op_reg(v.r[0], v.r[1]);
  const __m128 quad = op(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#else
  (void)op_reg;
  const __m128 quad = op(op(v.r[0], v.r[2]), op(v.r[1], v.r[3]));
#endif
  const __m128 pair = op(quad, _mm_movehl_ps(quad, quad));
  return _mm_cvtss_f32(op(pair, _mm_shuffle_ps(pair, pair, 1)));
#else
  (void)op_reg;
  const float32x4_t quad = op(op(v.r[0], v.r[2]), op(v.r[1], v.r[3]));
  const float32x4_t pair = op(quad, vextq_f32(quad, quad, 2));
  return vgetq_lane_f32(op(pair, vextq_f32(pair, pair, 1)), 0);
#endif
}
#if defined(MHA_ISA_X86)
#if defined(MHA_ISA_AVX512) || defined(MHA_ISA_AVX2)
MHA_INLINE __m256 add_half(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
MHA_INLINE __m256 max_half(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
#else
constexpr int add_half = 0, max_half = 0;
#endif
MHA_INLINE float sum(const Vec& v) {
  return fold(
      v, [](__m128 a, __m128 b) MHA_ALWAYS_INLINE { return _mm_add_ps(a, b); }, add_half);
}
MHA_INLINE float max(const Vec& v) {
  return fold(
      v, [](__m128 a, __m128 b) MHA_ALWAYS_INLINE { return _mm_max_ps(a, b); }, max_half);
}
#else
MHA_INLINE float sum(const Vec& v) {
  return fold(
      v, [](float32x4_t a, float32x4_t b) MHA_ALWAYS_INLINE { return vaddq_f32(a, b); }, 0);
}
MHA_INLINE float max(const Vec& v) {
  return fold(
      v, [](float32x4_t a, float32x4_t b) MHA_ALWAYS_INLINE { return vmaxq_f32(a, b); }, 0);
}
#endif

// Lane r = the fold of row r of rows[16][16], by the same tree. On AVX-512 16 rows at once take 45 operations, one by
// one 128.
#if defined(MHA_ISA_AVX512)
template <class Op>
MHA_INLINE Vec fold_rows(const float* rows, Op op) {
  // The shuffles below permute the rows: row r is loaded as v[kSlots[r]], so that its fold ends in lane r.
  constexpr int kSlots[kLanes] = {0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15};
  __m512 v[kLanes];
#pragma GCC unroll 16
  for (int r = 0; r < kLanes; ++r) v[kSlots[r]] = _mm512_loadu_ps(rows + r * kLanes);
#pragma GCC unroll 8
  for (int r = 0; r < 8; ++r) {
    v[r] = op(_mm512_shuffle_f32x4(v[r], v[r + 8], 0x44), _mm512_shuffle_f32x4(v[r], v[r + 8], 0xee));
  }
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    v[r] = op(_mm512_shuffle_f32x4(v[r], v[r + 4], 0x88), _mm512_shuffle_f32x4(v[r], v[r + 4], 0xdd));
  }
#pragma GCC unroll 2
  for (int r = 0; r < 2; ++r) {
    v[r] = op(_mm512_shuffle_ps(v[r], v[r + 2], 0x44), _mm512_shuffle_ps(v[r], v[r + 2], 0xee));
  }
  return {op(_mm512_shuffle_ps(v[0], v[1], 0x88), _mm512_shuffle_ps(v[0], v[1], 0xdd))};
}
MHA_INLINE Vec sum_rows(const float* rows) {
  return fold_rows(rows, [](__m512 a, __m512 b) MHA_ALWAYS_INLINE { return _mm512_add_ps(a, b); });
}
MHA_INLINE Vec max_rows(const float* rows) {
  return fold_rows(rows, [](__m512 a, __m512 b) MHA_ALWAYS_INLINE { return _mm512_max_ps(a, b); });
}
#else
MHA_INLINE Vec sum_rows(const float* rows) {
  alignas(64) float folded[kLanes];
  for (int r = 0; r < kLanes; ++r) folded[r] = sum(load(rows + r * kLanes));
  return load(folded);
}
MHA_INLINE Vec max_rows(const float* rows) {
  alignas(64) float folded[kLanes];
  for (int r = 0; r < kLanes; ++r) folded[r] = max(load(rows + r * kLanes));
  return load(folded);
}
#endif

// columns[c] lane r = src[r * stride + c] for 16 rows r and 4 columns c.
MHA_INLINE void transpose_16x4(const float* src, int64_t stride, Vec columns[4]) {
#pragma GCC unroll 4
  for (int g = 0; g < kRegs; ++g) {
    const float* rows = src + g * kRegLanes * stride;
    Reg q[4] = {load_quads(rows, stride), load_quads(rows + stride, stride), load_quads(rows + 2 * stride, stride),
                load_quads(rows + 3 * stride, stride)};
    transpose_quads(q);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) columns[c].r[g] = q[c];
  }
}

// words[c] lane r = the c-th 32 bits of row r, for kRegLanes rows, `stride` bytes apart: rows 0 to 7 from `low` on, rows
// 8 to 15, where a register holds so many, from `high` on. Words come from as many bytes of a row at once as pay: loads
// of 16 bytes from rows that are a power of two apart meet in one bank of L1.
#if defined(MHA_ISA_AVX512)
constexpr int kWords = 8;
MHA_INLINE void transpose_words(const char* low, const char* high, int64_t stride, Reg words[kWords]) {
  __m512 rows[8], pairs[8];
#pragma GCC unroll 8
  for (int r = 0; r < 8; ++r) {  // row r, row r + 8
    const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(high + r * stride));
    const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(low + r * stride));
    rows[r] = _mm512_castsi512_ps(_mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1));
  }
#pragma GCC unroll 4
  for (int r = 0; r < 8; r += 2) {
    pairs[r] = _mm512_unpacklo_ps(rows[r], rows[r + 1]), pairs[r + 1] = _mm512_unpackhi_ps(rows[r], rows[r + 1]);
  }
  // Lanes of 128 bits: rows 0 to 3, the same 4 words on, rows 8 to 11, the same 4 words on; then rows 4 to 7, 12 to 15.
  __m512 upper[4], lower[4];
#pragma GCC unroll 2
  for (int c = 0; c < 4; c += 2) {
    upper[c] = _mm512_shuffle_ps(pairs[c / 2], pairs[c / 2 + 2], 0x44);
    upper[c + 1] = _mm512_shuffle_ps(pairs[c / 2], pairs[c / 2 + 2], 0xee);
    lower[c] = _mm512_shuffle_ps(pairs[c / 2 + 4], pairs[c / 2 + 6], 0x44);
    lower[c + 1] = _mm512_shuffle_ps(pairs[c / 2 + 4], pairs[c / 2 + 6], 0xee);
  }
  const __m512i near = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), far = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512d a = _mm512_castps_pd(upper[c]), b = _mm512_castps_pd(lower[c]);
    words[c] = _mm512_castpd_ps(_mm512_permutex2var_pd(a, near, b));
    words[c + 4] = _mm512_castpd_ps(_mm512_permutex2var_pd(a, far, b));
  }
}
#else
constexpr int kWords = 4;
MHA_INLINE void transpose_words(const char* low, const char*, int64_t stride, Reg words[kWords]) {
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) words[q] = load_quads(low + q * stride, stride);
  transpose_quads(words);
}
#endif

// transpose_16x4 for 16 rows at any addresses, columns d to d + 3.
MHA_INLINE void transpose_16x4(const float* const* rows, int64_t d, Vec columns[4]) {
#pragma GCC unroll 4
  for (int g = 0; g < kRegs; ++g) {
    const float* const* at = rows + g * kRegLanes;
    Reg q[4] = {load_quads(at, d), load_quads(at + 1, d), load_quads(at + 2, d), load_quads(at + 3, d)};
    transpose_quads(q);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) columns[c].r[g] = q[c];
  }
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
