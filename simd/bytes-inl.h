// SPDX-License-Identifier: Apache-2.0
// Integers of 8 and 4 bits as vectors of floats, exactly. Included by algorithms-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

// flip_bytes: each 32 bits with some of them inverted. signed_floats, unsigned_floats: 16 bytes as floats; round_to_bytes:
// whole floats of -128 .. 127 as bytes. store_nibbles: bytes of 0 .. 15, the first of two in the lower half of its byte.
// store_both: 32 bytes at once, so that a wide load of them soon after need not wait.
#if defined(MHA_ISA_X86)
using Bytes16 = __m128i;
MHA_INLINE Bytes16 load_bytes(const char* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
// The nibbles of 8 bytes, a lower one before the upper one of its byte.
MHA_INLINE Bytes16 load_nibbles(const char* p) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)), low = _mm_set1_epi8(15);
  return _mm_unpacklo_epi8(_mm_and_si128(bytes, low), _mm_and_si128(_mm_srli_epi16(bytes, 4), low));
}
MHA_INLINE Bytes16 lower_nibbles(Bytes16 bytes) { return _mm_and_si128(bytes, _mm_set1_epi8(15)); }
MHA_INLINE Bytes16 upper_nibbles(Bytes16 bytes) { return lower_nibbles(_mm_srli_epi16(bytes, 4)); }
MHA_INLINE Bytes16 flip_bytes(Bytes16 bytes, uint32_t bits) {
  return _mm_xor_si128(bytes, _mm_set1_epi32(static_cast<int>(bits)));
}
MHA_INLINE Bytes16 set1_bytes(int value) { return _mm_set1_epi8(static_cast<char>(value)); }
MHA_INLINE Bytes16 sub_bytes(Bytes16 a, Bytes16 b) { return _mm_sub_epi8(a, b); }
MHA_INLINE void store_bytes(char* p, Bytes16 bytes) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes); }
MHA_INLINE void store_both(char* p, Bytes16 first, Bytes16 second) {
#if defined(MHA_ISA_SSE2)
  store_bytes(p, first), store_bytes(p + kLanes, second);
#else
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_set_m128i(second, first));
#endif
}
MHA_INLINE void store_nibbles(char* p, Bytes16 bytes) {
  const __m128i pairs = _mm_and_si128(_mm_or_si128(bytes, _mm_srli_epi16(bytes, 4)), _mm_set1_epi16(255));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(pairs, pairs));
}
#else
using Bytes16 = uint8x16_t;
MHA_INLINE Bytes16 load_bytes(const char* p) { return vld1q_u8(reinterpret_cast<const uint8_t*>(p)); }
MHA_INLINE Bytes16 load_nibbles(const char* p) {
  const uint8x8_t bytes = vld1_u8(reinterpret_cast<const uint8_t*>(p));
  const uint8x8x2_t pairs = vzip_u8(vand_u8(bytes, vdup_n_u8(15)), vshr_n_u8(bytes, 4));
  return vcombine_u8(pairs.val[0], pairs.val[1]);
}
MHA_INLINE Bytes16 lower_nibbles(Bytes16 bytes) { return vandq_u8(bytes, vdupq_n_u8(15)); }
MHA_INLINE Bytes16 upper_nibbles(Bytes16 bytes) { return vshrq_n_u8(bytes, 4); }
MHA_INLINE Bytes16 flip_bytes(Bytes16 bytes, uint32_t bits) {
  return veorq_u8(bytes, vreinterpretq_u8_u32(vdupq_n_u32(bits)));
}
MHA_INLINE Bytes16 set1_bytes(int value) { return vdupq_n_u8(static_cast<uint8_t>(value)); }
MHA_INLINE Bytes16 sub_bytes(Bytes16 a, Bytes16 b) { return vsubq_u8(a, b); }
MHA_INLINE void store_bytes(char* p, Bytes16 bytes) { vst1q_u8(reinterpret_cast<uint8_t*>(p), bytes); }
MHA_INLINE void store_both(char* p, Bytes16 first, Bytes16 second) {
  store_bytes(p, first), store_bytes(p + kLanes, second);
}
MHA_INLINE void store_nibbles(char* p, Bytes16 bytes) {
  const uint8x16_t pairs = vorrq_u8(vuzp1q_u8(bytes, bytes), vshlq_n_u8(vuzp2q_u8(bytes, bytes), 4));
  vst1_u8(reinterpret_cast<uint8_t*>(p), vget_low_u8(pairs));
}
#endif

#if defined(MHA_ISA_AVX512)
MHA_INLINE Vec signed_floats(Bytes16 b) { return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(b))}; }
MHA_INLINE Vec unsigned_floats(Bytes16 b) { return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(b))}; }
MHA_INLINE Bytes16 round_to_bytes(const Vec& v) { return _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v.r[0])); }
#elif defined(MHA_ISA_AVX2)
MHA_INLINE Vec signed_floats(Bytes16 b) {
  return {{_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b)),
           _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(b, b)))}};
}
MHA_INLINE Vec unsigned_floats(Bytes16 b) {
  return {{_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(b)),
           _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(b, b)))}};
}
MHA_INLINE Bytes16 round_to_bytes(const Vec& v) {
  const __m256i words = _mm256_permute4x64_epi64(
      _mm256_packs_epi32(_mm256_cvtps_epi32(v.r[0]), _mm256_cvtps_epi32(v.r[1])), 0xd8);  // halves back in order
  return _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}
#elif defined(MHA_ISA_SSE2)
// `upper`: the bytes that extend each byte to 16 bits, or each 16 bits to 32.
MHA_INLINE Vec floats_of(Bytes16 b, bool is_signed) {
  const __m128i none = _mm_setzero_si128();
  const __m128i upper = is_signed ? _mm_cmpgt_epi8(none, b) : none;
  const __m128i halves[2] = {_mm_unpacklo_epi8(b, upper), _mm_unpackhi_epi8(b, upper)};
  return map([&](int i) MHA_ALWAYS_INLINE {
    const __m128i half = halves[i / 2], sign = _mm_srai_epi16(half, 15);
    return Reg(_mm_cvtepi32_ps(i % 2 == 0 ? _mm_unpacklo_epi16(half, sign) : _mm_unpackhi_epi16(half, sign)));
  });
}
MHA_INLINE Vec signed_floats(Bytes16 b) { return floats_of(b, true); }
MHA_INLINE Vec unsigned_floats(Bytes16 b) { return floats_of(b, false); }
MHA_INLINE Bytes16 round_to_bytes(const Vec& v) {
  return _mm_packs_epi16(_mm_packs_epi32(_mm_cvtps_epi32(v.r[0]), _mm_cvtps_epi32(v.r[1])),
                         _mm_packs_epi32(_mm_cvtps_epi32(v.r[2]), _mm_cvtps_epi32(v.r[3])));
}
#elif defined(MHA_ISA_NEON)
MHA_INLINE Vec signed_floats(Bytes16 b) {
  const int8x16_t s = vreinterpretq_s8_u8(b);
  const int16x8_t halves[2] = {vmovl_s8(vget_low_s8(s)), vmovl_s8(vget_high_s8(s))};
  return map([&](int i) MHA_ALWAYS_INLINE {
    const int16x8_t half = halves[i / 2];
    return Reg(vcvtq_f32_s32(vmovl_s16(i % 2 == 0 ? vget_low_s16(half) : vget_high_s16(half))));
  });
}
MHA_INLINE Vec unsigned_floats(Bytes16 b) {
  const uint16x8_t halves[2] = {vmovl_u8(vget_low_u8(b)), vmovl_u8(vget_high_u8(b))};
  return map([&](int i) MHA_ALWAYS_INLINE {
    const uint16x8_t half = halves[i / 2];
    return Reg(vcvtq_f32_u32(vmovl_u16(i % 2 == 0 ? vget_low_u16(half) : vget_high_u16(half))));
  });
}
MHA_INLINE Bytes16 round_to_bytes(const Vec& v) {
  int16x4_t quads[4];
  for (int i = 0; i < 4; ++i) quads[i] = vqmovn_s32(vcvtnq_s32_f32(v.r[i]));
  return vreinterpretq_u8_s8(
      vcombine_s8(vqmovn_s16(vcombine_s16(quads[0], quads[1])), vqmovn_s16(vcombine_s16(quads[2], quads[3]))));
}
#endif

// Codes of 4 bits whose zero is 8, as words are read. nibble: the one of each word that a shift by kRight
// brings to the bottom, times 1 / kNibbleUnit; nibbles: 16 that follow each other. AVX-512 looks them up in a register of
// 16 floats; elsewhere the code, with its upper bit flipped, is the top of a signed integer.
#if defined(MHA_ISA_AVX512)
constexpr bool kReadsNibbles = true;
constexpr float kNibbleUnit = 1;
MHA_INLINE __m512 nibble_values() { return _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7); }
template <int kRight>
MHA_INLINE Reg nibble(Reg words) {
  return _mm512_permutexvar_ps(_mm512_srli_epi32(_mm512_castps_si512(words), kRight), nibble_values());
}
MHA_INLINE Vec nibbles(const char* p) {
  int32_t halves[2];
  memcpy(halves, p, sizeof(halves));
  const __m512i words = _mm512_mask_set1_epi32(_mm512_set1_epi32(halves[0]), 0xff00, halves[1]);
  const __m512i shifts = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
  return {_mm512_permutexvar_ps(_mm512_srlv_epi32(words, shifts), nibble_values())};
}
#elif defined(MHA_ISA_AVX2)
constexpr bool kReadsNibbles = true;
constexpr float kNibbleUnit = 0x1p-28f;
template <int kRight>
MHA_INLINE Reg nibble(Reg words) {
  const __m256i signs = _mm256_set1_epi32(INT32_MIN), top = _mm256_set1_epi32(INT32_MIN >> 3);
  const __m256i w = _mm256_slli_epi32(_mm256_castps_si256(words), 28 - kRight);
  return _mm256_cvtepi32_ps(_mm256_xor_si256(_mm256_and_si256(w, top), signs));
}
MHA_INLINE Vec nibbles(const char* p) {
  int32_t halves[2];
  memcpy(halves, p, sizeof(halves));
  const __m256i left = _mm256_setr_epi32(28, 24, 20, 16, 12, 8, 4, 0);
  const __m256i flip = _mm256_set1_epi32(static_cast<int>(0x88888888));
  return map([&](int i) MHA_ALWAYS_INLINE {
    const __m256i w = _mm256_sllv_epi32(_mm256_xor_si256(_mm256_set1_epi32(halves[i]), flip), left);
    return Reg(_mm256_cvtepi32_ps(_mm256_srai_epi32(w, 28)));
  });
}
#elif defined(MHA_ISA_NEON)
constexpr bool kReadsNibbles = true;
constexpr float kNibbleUnit = 0x1p-28f;
template <int kRight>
MHA_INLINE Reg nibble(Reg words) {
  const int32x4_t w = vshlq_n_s32(vreinterpretq_s32_f32(words), 28 - kRight);
  return vcvtq_f32_s32(veorq_s32(vandq_s32(w, vdupq_n_s32(INT32_MIN >> 3)), vdupq_n_s32(INT32_MIN)));
}
MHA_INLINE Vec nibbles(const char* p) {
  int32_t halves[2];
  memcpy(halves, p, sizeof(halves));
  const int32_t left[2][4] = {{28, 24, 20, 16}, {12, 8, 4, 0}};
  return map([&](int i) MHA_ALWAYS_INLINE {
    const int32x4_t w = veorq_s32(vdupq_n_s32(halves[i / 2]), vdupq_n_s32(static_cast<int>(0x88888888)));
    return Reg(vcvtq_f32_s32(vshrq_n_s32(vshlq_s32(w, vld1q_s32(left[i % 2])), 28)));
  });
}
#elif defined(MHA_ISA_SSE2)
constexpr bool kReadsNibbles = false;  // widening takes most of the time either way
constexpr float kNibbleUnit = 0x1p-28f;
template <int kRight>
MHA_INLINE Reg nibble(Reg words) {
  const __m128i signs = _mm_set1_epi32(INT32_MIN), top = _mm_set1_epi32(INT32_MIN >> 3);
  const __m128i w = _mm_slli_epi32(_mm_castps_si128(words), 28 - kRight);
  return _mm_cvtepi32_ps(_mm_xor_si128(_mm_and_si128(w, top), signs));
}
MHA_INLINE Vec nibbles(const char* p) { return signed_floats(_mm_sub_epi8(load_nibbles(p), _mm_set1_epi8(8))); }
#endif

// The words of a register: some bits inverted; byte kByte of each (0: the lowest), a signed integer, times 2^24.
#if defined(MHA_ISA_AVX512)
MHA_INLINE Reg flip_codes(Reg words, uint32_t bits) {
  return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(words), _mm512_set1_epi32(static_cast<int>(bits))));
}
template <int kByte>
MHA_INLINE Reg top_byte(Reg words) {
  const __m512i w = _mm512_castps_si512(words);
  if constexpr (kByte == 0) return _mm512_cvtepi32_ps(_mm512_slli_epi32(w, 24));
  if constexpr (kByte == 3) return _mm512_cvtepi32_ps(_mm512_and_si512(w, _mm512_set1_epi32(INT32_MIN >> 7)));
  const int place = kByte << 24 | 0x808080;  // bytes of 0x80 become zeros
  const __m512i places = _mm512_set4_epi32(place + 0x0c000000, place + 0x08000000, place + 0x04000000, place);
  return _mm512_cvtepi32_ps(_mm512_shuffle_epi8(w, places));
}
#elif defined(MHA_ISA_AVX2)
MHA_INLINE Reg flip_codes(Reg words, uint32_t bits) {
  return _mm256_castsi256_ps(_mm256_xor_si256(_mm256_castps_si256(words), _mm256_set1_epi32(static_cast<int>(bits))));
}
template <int kByte>
MHA_INLINE Reg top_byte(Reg words) {
  const __m256i w = _mm256_castps_si256(words);
  if constexpr (kByte == 0) return _mm256_cvtepi32_ps(_mm256_slli_epi32(w, 24));
  if constexpr (kByte == 3) return _mm256_cvtepi32_ps(_mm256_and_si256(w, _mm256_set1_epi32(INT32_MIN >> 7)));
  const int place = kByte << 24 | 0x808080;  // bytes of 0x80 become zeros
  const __m256i places = _mm256_setr_epi32(place, place + 0x04000000, place + 0x08000000, place + 0x0c000000, place,
                                           place + 0x04000000, place + 0x08000000, place + 0x0c000000);
  return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(w, places));
}
#elif defined(MHA_ISA_SSE2)
MHA_INLINE Reg flip_codes(Reg words, uint32_t bits) {
  return _mm_castsi128_ps(_mm_xor_si128(_mm_castps_si128(words), _mm_set1_epi32(static_cast<int>(bits))));
}
template <int kByte>
MHA_INLINE Reg top_byte(Reg words) {
  const __m128i w = _mm_slli_epi32(_mm_castps_si128(words), 24 - 8 * kByte);
  return _mm_cvtepi32_ps(_mm_and_si128(w, _mm_set1_epi32(INT32_MIN >> 7)));
}
#elif defined(MHA_ISA_NEON)
MHA_INLINE Reg flip_codes(Reg words, uint32_t bits) {
  return vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(words), vdupq_n_u32(bits)));
}
template <int kByte>
MHA_INLINE Reg top_byte(Reg words) {
  const int32x4_t w = vshlq_n_s32(vreinterpretq_s32_f32(words), 24 - 8 * kByte);
  return vcvtq_f32_s32(vandq_s32(w, vdupq_n_s32(INT32_MIN >> 7)));
}
#endif

}  // namespace
}  // namespace mha::MHA_TARGET_NS
