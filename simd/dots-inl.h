// SPDX-License-Identifier: Apache-2.0
// Exact products of four bytes in each lane's word, for targets that have them in one instruction (AVX512-VNNI, AVX-VNNI,
// Arm's dotprod). On x86 one of the two operands is unsigned, on Arm both are signed. Included by algorithms-inl.h, once per
// such target.
namespace mha::MHA_TARGET_NS {
namespace {

#if defined(MHA_ISA_AVX512)
constexpr bool kSignedDots = false;
MHA_INLINE Reg add_dots(Reg is_unsigned, Reg is_signed, Reg sum) {
  return reg(_mm512_dpbusd_epi32(bits(sum), bits(is_unsigned), bits(is_signed)));
}
template <int kRight>
MHA_INLINE Reg shift_right(Reg a) {
  return reg(_mm512_srai_epi32(bits(a), kRight));
}
MHA_INLINE Bytes16 lowest_bytes(const Vec& ints) { return _mm512_cvtepi32_epi8(bits(ints.r[0])); }
MHA_INLINE Vec columns_of(const Bytes16 quads[4]) {
  const __m256i low = _mm256_set_m128i(quads[1], quads[0]), high = _mm256_set_m128i(quads[3], quads[2]);
  return {{reg(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1))}};
}
#elif defined(MHA_ISA_AVX2)
constexpr bool kSignedDots = false;
MHA_INLINE Reg add_dots(Reg is_unsigned, Reg is_signed, Reg sum) {
  return reg(_mm256_dpbusd_avx_epi32(bits(sum), bits(is_unsigned), bits(is_signed)));
}
template <int kRight>
MHA_INLINE Reg shift_right(Reg a) {
  return reg(_mm256_srai_epi32(bits(a), kRight));
}
MHA_INLINE Bytes16 lowest_bytes(const Vec& ints) {
  const __m256i byte = _mm256_set1_epi32(255);
  const __m256i taken =
      _mm256_packs_epi32(_mm256_and_si256(bits(ints.r[0]), byte), _mm256_and_si256(bits(ints.r[1]), byte));
  const __m256i halves = _mm256_permute4x64_epi64(taken, 0xd8);  // back in order
  return _mm_packus_epi16(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}
MHA_INLINE Vec columns_of(const Bytes16 quads[4]) {
  return {{reg(_mm256_set_m128i(quads[1], quads[0])), reg(_mm256_set_m128i(quads[3], quads[2]))}};
}
#elif defined(MHA_ISA_NEON)
constexpr bool kSignedDots = true;
MHA_INLINE int8x16_t signed_bytes(Reg r) { return vreinterpretq_s8_f32(r); }
MHA_INLINE Reg add_dots(Reg a, Reg b, Reg sum) { return reg(vdotq_s32(bits(sum), signed_bytes(a), signed_bytes(b))); }
MHA_INLINE Reg lower_nibbles(Reg w) { return vreinterpretq_f32_u8(vandq_u8(vreinterpretq_u8_f32(w), vdupq_n_u8(15))); }
MHA_INLINE Reg upper_nibbles(Reg w) { return vreinterpretq_f32_u8(vshrq_n_u8(vreinterpretq_u8_f32(w), 4)); }
MHA_INLINE Bytes16 lowest_bytes(const Vec& ints) {
  int16x8_t pairs[2];
  for (int i = 0; i < 2; ++i) {
    pairs[i] = vcombine_s16(vmovn_s32(bits(ints.r[2 * i])), vmovn_s32(bits(ints.r[2 * i + 1])));
  }
  return vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(pairs[0]), vmovn_s16(pairs[1])));
}
template <int kRight>
MHA_INLINE Reg shift_right(Reg a) {
  return reg(vshrq_n_s32(bits(a), kRight));
}
#endif

template <int kRight>
MHA_INLINE Vec shift_right(const Vec& a) {
  return map([&](int i) MHA_ALWAYS_INLINE { return shift_right<kRight>(a.r[i]); });
}
MHA_INLINE Vec add_dots(const Vec& a, const Vec& b, const Vec& sum) {
  return map([&](int i) MHA_ALWAYS_INLINE { return add_dots(a.r[i], b.r[i], sum.r[i]); });
}
MHA_INLINE Vec lower_nibbles(const Vec& w) {
  return map([&](int i) MHA_ALWAYS_INLINE { return lower_nibbles(w.r[i]); });
}
MHA_INLINE Vec upper_nibbles(const Vec& w) {
  return map([&](int i) MHA_ALWAYS_INLINE { return upper_nibbles(w.r[i]); });
}

#if defined(MHA_ISA_X86)
// Words of the bytes of four rows, a lane for each of 16 columns.
MHA_INLINE Vec line_of_four(const Bytes16* rows) {
  const __m128i low = _mm_unpacklo_epi8(rows[0], rows[1]), high = _mm_unpackhi_epi8(rows[0], rows[1]);
  const __m128i next_low = _mm_unpacklo_epi8(rows[2], rows[3]), next_high = _mm_unpackhi_epi8(rows[2], rows[3]);
  const Bytes16 quads[4] = {_mm_unpacklo_epi16(low, next_low), _mm_unpackhi_epi16(low, next_low),
                            _mm_unpacklo_epi16(high, next_high), _mm_unpackhi_epi16(high, next_high)};
  return columns_of(quads);
}
#endif

}  // namespace
}  // namespace mha::MHA_TARGET_NS
