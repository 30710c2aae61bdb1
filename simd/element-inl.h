// SPDX-License-Identifier: Apache-2.0
// Element types as kernels read and write them: 16 elements to and from a vector of floats. Included by algorithms-inl.h, once
// per target.
//
// Widening is exact. Rounding is to nearest even. Values beyond the greatest become infinity. Denormal results are
// kept; those of BF16 are denormal as floats, too, so kernels read them as 0. A NaN keeps its sign and the upper bits
// of its payload and becomes quiet (widening BF16 keeps a signalling NaN). Only integer operations are used, and
// instructions whose results do not depend on the modes for denormals, so every target gives the same bits.
namespace mha::MHA_TARGET_NS {
namespace {

#if defined(MHA_ISA_AVX512)
using Half16 = __m256i;  // 16 elements of 16 bits
MHA_INLINE Half16 load_halves(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
MHA_INLINE void store_halves(void* p, Half16 h) { _mm256_storeu_si256(static_cast<__m256i*>(p), h); }
MHA_INLINE Half16 load_halves_first(const void* p, int count) {
  return _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << count) - 1), p);
}
MHA_INLINE void store_halves_first(void* p, Half16 h, int count) {
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << count) - 1), h);
}
MHA_INLINE Vec widen_bf16(Half16 h) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16))}; }
MHA_INLINE Vec widen_f16(Half16 h) { return {_mm512_cvtph_ps(h)}; }
MHA_INLINE Half16 round_to_f16(const Vec& v) {
  return _mm512_cvtps_ph(v.r[0], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
MHA_INLINE Half16 round_to_bf16(const Vec& v) {
  const __m512i u = _mm512_castps_si512(v.r[0]), upper = _mm512_srli_epi32(u, 16);
  const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  const __m512i sum = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(v.r[0], v.r[0], _CMP_UNORD_Q);
  const __m512i rounded = _mm512_srli_epi32(sum, 16);
  return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40)));
}
#elif defined(MHA_ISA_X86)
struct Half16 {
  __m128i r[2];
};
MHA_INLINE Half16 load_halves(const void* p) {
  const __m128i* at = static_cast<const __m128i*>(p);
  return {{_mm_loadu_si128(at), _mm_loadu_si128(at + 1)}};
}
MHA_INLINE void store_halves(void* p, const Half16& h) {
  _mm_storeu_si128(static_cast<__m128i*>(p), h.r[0]);
  _mm_storeu_si128(static_cast<__m128i*>(p) + 1, h.r[1]);
}
#endif

#if defined(MHA_ISA_AVX2)
MHA_INLINE Vec widen_bf16(const Half16& h) {
  return map([&](int i) MHA_ALWAYS_INLINE {
    return Reg(_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h.r[i]), 16)));
  });
}
MHA_INLINE Vec widen_f16(const Half16& h) {
  return map([&](int i) MHA_ALWAYS_INLINE { return Reg(_mm256_cvtph_ps(h.r[i])); });
}
MHA_INLINE Half16 round_to_f16(const Vec& v) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {{_mm256_cvtps_ph(v.r[0], kNearest), _mm256_cvtps_ph(v.r[1], kNearest)}};
}
MHA_INLINE __m256i bf16_of(Reg x) {  // in the lower halves of 32 bits
  const __m256i u = _mm256_castps_si256(x), upper = _mm256_srli_epi32(u, 16);
  const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  const __m256i sum = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  return _mm256_blendv_epi8(_mm256_srli_epi32(sum, 16), quiet, nan);
}
MHA_INLINE Half16 round_to_bf16(const Vec& v) {
  const __m256i packed = _mm256_packus_epi32(bf16_of(v.r[0]), bf16_of(v.r[1]));  // within halves of 128 bits
  const __m256i ordered = _mm256_permute4x64_epi64(packed, 0xd8);
  return {{_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1)}};
}
#elif defined(MHA_ISA_SSE2)
MHA_INLINE Vec widen_bf16(const Half16& h) {
  const __m128i none = _mm_setzero_si128();
  return map([&](int i) MHA_ALWAYS_INLINE {
    const __m128i part = h.r[i / 2];
    return Reg(_mm_castsi128_ps(i % 2 == 0 ? _mm_unpacklo_epi16(none, part) : _mm_unpackhi_epi16(none, part)));
  });
}
MHA_INLINE __m128i select_mask(__m128i mask, __m128i a, __m128i b) {
  return _mm_or_si128(_mm_and_si128(mask, a), _mm_andnot_si128(mask, b));
}
// The exponent's bias grows by 112. A denormal is normalised by subtracting two floats that are normal.
MHA_INLINE __m128 f16_to_float(__m128i h) {
  const __m128i bits = _mm_slli_epi32(_mm_and_si128(h, _mm_set1_epi32(0x7fff)), 13);
  const __m128i sign = _mm_slli_epi32(_mm_and_si128(h, _mm_set1_epi32(0x8000)), 16);
  const __m128i moved = _mm_add_epi32(bits, _mm_set1_epi32(112 << 23));
  const __m128i special = _mm_cmpgt_epi32(bits, _mm_set1_epi32((0x7c00 << 13) - 1));
  const __m128i nan = _mm_cmpgt_epi32(bits, _mm_set1_epi32(0x7c00 << 13));
  __m128i normal = _mm_add_epi32(moved, _mm_and_si128(special, _mm_set1_epi32(112 << 23)));
  normal = _mm_or_si128(normal, _mm_and_si128(nan, _mm_set1_epi32(0x400000)));
  const __m128i least = _mm_set1_epi32(113 << 23);
  const __m128 small = _mm_sub_ps(_mm_castsi128_ps(_mm_add_epi32(bits, least)), _mm_castsi128_ps(least));
  const __m128i is_small = _mm_cmpgt_epi32(_mm_set1_epi32(0x0400 << 13), bits);
  return _mm_castsi128_ps(_mm_or_si128(sign, select_mask(is_small, _mm_castps_si128(small), normal)));
}
MHA_INLINE Vec widen_f16(const Half16& h) {
  const __m128i none = _mm_setzero_si128();
  return map([&](int i) MHA_ALWAYS_INLINE {
    const __m128i part = h.r[i / 2];
    return Reg(f16_to_float(i % 2 == 0 ? _mm_unpacklo_epi16(part, none) : _mm_unpackhi_epi16(part, none)));
  });
}
// Packs the lower halves of 32-bit lanes. They are sign extended first, so that the pack, which saturates, keeps all 16
// bits.
MHA_INLINE __m128i pack_lower(__m128i a, __m128i b) {
  return _mm_packs_epi32(_mm_srai_epi32(_mm_slli_epi32(a, 16), 16), _mm_srai_epi32(_mm_slli_epi32(b, 16), 16));
}
// A denormal result is made by adding 1/2: the unit in the last place of the sum is the step of F16's denormals.
MHA_INLINE __m128i float_to_f16(__m128 x) {
  const __m128i u = _mm_castps_si128(x), sign = _mm_and_si128(u, _mm_set1_epi32(INT32_MIN));
  const __m128i a = _mm_xor_si128(u, sign);
  const __m128i beyond = _mm_cmpgt_epi32(a, _mm_set1_epi32(0x47800000));  // 2^16
  const __m128i clamped = select_mask(beyond, _mm_set1_epi32(0x47800000), a);
  const __m128i odd = _mm_and_si128(_mm_srli_epi32(clamped, 13), _mm_set1_epi32(1));
  const __m128i sum = _mm_add_epi32(clamped, _mm_add_epi32(odd, _mm_set1_epi32(0xfff - (112 << 23))));
  const __m128i normal = _mm_srli_epi32(sum, 13);
  const __m128 half = _mm_set1_ps(0.5f);
  const __m128i small = _mm_sub_epi32(_mm_castps_si128(_mm_add_ps(_mm_castsi128_ps(a), half)), _mm_castps_si128(half));
  const __m128i is_small = _mm_cmpgt_epi32(_mm_set1_epi32(113 << 23), a);
  const __m128i nan = _mm_cmpgt_epi32(a, _mm_set1_epi32(0x7f800000));
  const __m128i payload = _mm_and_si128(_mm_srli_epi32(a, 13), _mm_set1_epi32(0x3ff));
  const __m128i quiet = _mm_or_si128(payload, _mm_set1_epi32(0x7e00));
  const __m128i finite = select_mask(is_small, small, normal);
  return _mm_or_si128(_mm_srli_epi32(sign, 16), select_mask(nan, quiet, finite));
}
MHA_INLINE Half16 round_to_f16(const Vec& v) {
  return {
      {pack_lower(float_to_f16(v.r[0]), float_to_f16(v.r[1])), pack_lower(float_to_f16(v.r[2]), float_to_f16(v.r[3]))}};
}
MHA_INLINE __m128i bf16_of(Reg x) {
  const __m128i u = _mm_castps_si128(x), upper = _mm_srli_epi32(u, 16);
  const __m128i odd = _mm_and_si128(upper, _mm_set1_epi32(1));
  const __m128i sum = _mm_add_epi32(u, _mm_add_epi32(odd, _mm_set1_epi32(0x7fff)));
  const __m128i nan = _mm_castps_si128(_mm_cmpunord_ps(x, x));
  return select_mask(nan, _mm_or_si128(upper, _mm_set1_epi32(0x40)), _mm_srli_epi32(sum, 16));
}
MHA_INLINE Half16 round_to_bf16(const Vec& v) {
  return {{pack_lower(bf16_of(v.r[0]), bf16_of(v.r[1])), pack_lower(bf16_of(v.r[2]), bf16_of(v.r[3]))}};
}
#elif defined(MHA_ISA_NEON)
struct Half16 {
  uint16x4_t r[4];
};
MHA_INLINE Half16 load_halves(const void* p) {
  const uint16_t* at = static_cast<const uint16_t*>(p);
  return {{vld1_u16(at), vld1_u16(at + 4), vld1_u16(at + 8), vld1_u16(at + 12)}};
}
MHA_INLINE void store_halves(void* p, const Half16& h) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) vst1_u16(static_cast<uint16_t*>(p) + i * 4, h.r[i]);
}
MHA_INLINE Vec widen_bf16(const Half16& h) {
  return map([&](int i) MHA_ALWAYS_INLINE { return Reg(vreinterpretq_f32_u32(vshll_n_u16(h.r[i], 16))); });
}
MHA_INLINE Vec widen_f16(const Half16& h) {
  return map([&](int i) MHA_ALWAYS_INLINE { return Reg(vcvt_f32_f16(vreinterpret_f16_u16(h.r[i]))); });
}
MHA_INLINE Half16 round_to_f16(const Vec& v) {
  Half16 h;
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) h.r[i] = vreinterpret_u16_f16(vcvt_f16_f32(v.r[i]));
  return h;
}
MHA_INLINE Half16 round_to_bf16(const Vec& v) {
  Half16 h;
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const float32x4_t x = v.r[i];
    const uint32x4_t u = vreinterpretq_u32_f32(x), upper = vshrq_n_u32(u, 16);
    const uint32x4_t sum = vaddq_u32(u, vaddq_u32(vandq_u32(upper, vdupq_n_u32(1)), vdupq_n_u32(0x7fff)));
    const uint32x4_t quiet = vorrq_u32(upper, vdupq_n_u32(0x40));
    h.r[i] = vmovn_u32(vbslq_u32(vceqq_f32(x, x), vshrq_n_u32(sum, 16), quiet));
  }
  return h;
}
#endif

#if !defined(MHA_ISA_AVX512)
MHA_INLINE Half16 load_halves_first(const void* p, int count) {
  uint16_t buffer[kLanes] = {};
  for (int i = 0; i < count; ++i) buffer[i] = static_cast<const uint16_t*>(p)[i];
  return load_halves(buffer);
}
MHA_INLINE void store_halves_first(void* p, const Half16& h, int count) {
  uint16_t buffer[kLanes];
  store_halves(buffer, h);
  for (int i = 0; i < count; ++i) static_cast<uint16_t*>(p)[i] = buffer[i];
}
#endif

// The two 16-bit elements in each 32 bits of a register, widened: the lower ones, then the upper ones.
#if defined(MHA_ISA_AVX512)
MHA_INLINE void split_bf16(Reg words, Reg parts[2]) {
  const __m512i w = _mm512_castps_si512(words);
  parts[0] = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
  parts[1] = _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32(INT32_MIN >> 15)));
}
MHA_INLINE void split_f16(Reg words, Reg parts[2]) {
  alignas(64) static constexpr uint16_t kLowerThenUpper[32] = {0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20,
                                                               22, 24, 26, 28, 30, 1,  3,  5,  7,  9,  11,
                                                               13, 15, 17, 19, 21, 23, 25, 27, 29, 31};
  const __m512i halves = _mm512_permutexvar_epi16(_mm512_load_si512(kLowerThenUpper), _mm512_castps_si512(words));
  parts[0] = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
  parts[1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1));
}
#elif defined(MHA_ISA_AVX2)
MHA_INLINE void split_bf16(Reg words, Reg parts[2]) {
  const __m256i w = _mm256_castps_si256(words);
  parts[0] = _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
  parts[1] = _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32(INT32_MIN >> 15)));
}
MHA_INLINE void split_f16(Reg words, Reg parts[2]) {
  const __m256i w = _mm256_castps_si256(words), lower = _mm256_and_si256(w, _mm256_set1_epi32(0xffff));
  const __m256i packed = _mm256_packus_epi32(lower, _mm256_srli_epi32(w, 16));  // within halves of 128 bits
  const __m256i halves = _mm256_permute4x64_epi64(packed, 0xd8);
  parts[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
  parts[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1));
}
#elif defined(MHA_ISA_SSE2)
MHA_INLINE void split_bf16(Reg words, Reg parts[2]) {
  const __m128i w = _mm_castps_si128(words);
  parts[0] = _mm_castsi128_ps(_mm_slli_epi32(w, 16));
  parts[1] = _mm_castsi128_ps(_mm_and_si128(w, _mm_set1_epi32(INT32_MIN >> 15)));
}
MHA_INLINE void split_f16(Reg words, Reg parts[2]) {
  const __m128i w = _mm_castps_si128(words);
  parts[0] = f16_to_float(_mm_and_si128(w, _mm_set1_epi32(0xffff)));
  parts[1] = f16_to_float(_mm_srli_epi32(w, 16));
}
#elif defined(MHA_ISA_NEON)
MHA_INLINE void split_bf16(Reg words, Reg parts[2]) {
  const uint32x4_t w = vreinterpretq_u32_f32(words);
  parts[0] = vreinterpretq_f32_u32(vshlq_n_u32(w, 16));
  parts[1] = vreinterpretq_f32_u32(vandq_u32(w, vdupq_n_u32(0xffff0000u)));
}
MHA_INLINE void split_f16(Reg words, Reg parts[2]) {
  const uint32x4_t w = vreinterpretq_u32_f32(words);
  parts[0] = vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(w)));
  parts[1] = vcvt_f32_f16(vreinterpret_f16_u16(vshrn_n_u32(w, 16)));
}
#endif

// The element types of elements.def. kPerWord elements share 32 bits; part() gives one of them for all lanes.
struct F32 {
  static constexpr bool kIsCode = false;
  static constexpr int kPerWord = 1;
  template <int kNumber>
  static MHA_INLINE Reg part(Reg words) {
    return words;
  }
  static constexpr int64_t kBytes = 4;
  static MHA_INLINE Vec load(const char* p) { return MHA_TARGET_NS::load(reinterpret_cast<const float*>(p)); }
  static MHA_INLINE Vec load_first(const char* p, int count) {
    return MHA_TARGET_NS::load_first(reinterpret_cast<const float*>(p), count);
  }
  static MHA_INLINE void store(char* p, const Vec& v) { MHA_TARGET_NS::store(reinterpret_cast<float*>(p), v); }
  static MHA_INLINE void store_first(char* p, const Vec& v, int count) {
    MHA_TARGET_NS::store_first(reinterpret_cast<float*>(p), v, count);
  }
};

struct F16 {
  static constexpr bool kIsCode = false;
  static constexpr int kPerWord = 2;
  template <int kNumber>
  static MHA_INLINE Reg part(Reg words) {
    Reg parts[2];
    split_f16(words, parts);
    return parts[kNumber];
  }
  static constexpr int64_t kBytes = 2;
  static MHA_INLINE Vec load(const char* p) { return widen_f16(load_halves(p)); }
  static MHA_INLINE Vec load_first(const char* p, int count) { return widen_f16(load_halves_first(p, count)); }
  static MHA_INLINE void store(char* p, const Vec& v) { store_halves(p, round_to_f16(v)); }
  static MHA_INLINE void store_first(char* p, const Vec& v, int count) {
    store_halves_first(p, round_to_f16(v), count);
  }
};

struct Bf16 {
  static constexpr bool kIsCode = false;
  static constexpr int kPerWord = 2;
  template <int kNumber>
  static MHA_INLINE Reg part(Reg words) {
    Reg parts[2];
    split_bf16(words, parts);
    return parts[kNumber];
  }
  static constexpr int64_t kBytes = 2;
  static MHA_INLINE Vec load(const char* p) { return widen_bf16(load_halves(p)); }
  static MHA_INLINE Vec load_first(const char* p, int count) { return widen_bf16(load_halves_first(p, count)); }
  static MHA_INLINE void store(char* p, const Vec& v) { store_halves(p, round_to_bf16(v)); }
  static MHA_INLINE void store_first(char* p, const Vec& v, int count) {
    store_halves_first(p, round_to_bf16(v), count);
  }
};

// Floats rounded to bf16 and widened again; denormals count as 0, which the sum sees to.
MHA_INLINE Vec at_bf16(const Vec& x) { return widen_bf16(round_to_bf16(add(x, zero()))); }

// The same for x[0..count), `count` a multiple of 16.
MHA_NOINLINE void at_bf16(float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) store(x + i, at_bf16(load(x + i)));
}

// Elements of type E as BF16 arithmetic takes them.
template <class E>
struct AtBf16 {
  static constexpr int64_t kBytes = E::kBytes;
  static MHA_INLINE Vec load(const char* p) { return at_bf16(E::load(p)); }
  static MHA_INLINE Vec load_first(const char* p, int count) { return at_bf16(E::load_first(p, count)); }
};
template <>
struct AtBf16<Bf16> : Bf16 {};

// Calls take(F32()), take(F16()), ... according to `element`, which is known at run time only.
template <class Take>
MHA_INLINE auto with_element(Element element, Take take) {
  switch (element) {
#define MHA_ELEMENT(name, dtype, Type, bytes) \
  case Element::name:                         \
    return take(Type());
#include "core/kernels/elements.def"
    default:
      break;
  }
  __builtin_unreachable();
}

// dst[0..count) = the elements at `src`, widened.
template <class E>
MHA_INLINE void widen_elements(const char* src, int64_t count, float* dst) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(dst + i, E::load(src + i * E::kBytes));
  const int rest = static_cast<int>(count - i);
  if (rest > 0) store_first(dst + i, E::load_first(src + i * E::kBytes, rest), rest);
}

MHA_NOINLINE void widen_row(Element element, const char* src, int64_t count, float* dst) {
  with_element(element, [&](auto e) MHA_ALWAYS_INLINE { widen_elements<decltype(e)>(src, count, dst); });
}

// The elements at `dst` = src[0..count), rounded.
MHA_NOINLINE void round_row(Element element, const float* src, int64_t count, char* dst) {
  with_element(element, [&](auto e) MHA_ALWAYS_INLINE {
    using E = decltype(e);
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) E::store(dst + i * E::kBytes, load(src + i));
    const int rest = static_cast<int>(count - i);
    if (rest > 0) E::store_first(dst + i * E::kBytes, load_first(src + i, rest), rest);
  });
}

// `count` (0..16) elements from number `index` on, zeros beyond.
MHA_NOINLINE Vec load_elements(Element element, const char* row, int64_t index, int count) {
  return with_element(element, [&](auto e) MHA_ALWAYS_INLINE {
    using E = decltype(e);
    return E::load_first(row + index * E::kBytes, count);
  });
}

// The same, rounded.
MHA_NOINLINE void store_elements(Element element, char* row, int64_t index, const Vec& v, int count) {
  with_element(element, [&](auto e) MHA_ALWAYS_INLINE {
    using E = decltype(e);
    E::store_first(row + index * E::kBytes, v, count);
  });
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
