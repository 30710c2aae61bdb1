// SPDX-License-Identifier: Apache-2.0
// Exact products of four bytes in each lane's word, for targets that have them in one instruction (AVX512-VNNI, AVX-VNNI,
// Arm's dotprod). On x86 one of the two operands is unsigned, on Arm both are signed. Included by algorithms-inl.h, once per
// such target.
namespace mha::MHA_TARGET_NS {
namespace {

#if defined(MHA_ISA_AVX512)
constexpr bool kSignedDots = false;
MHA_INLINE Reg add_dots(Reg is_unsigned, Reg is_signed, Reg sum) {
  __m512 to = sum;
  asm("vpdpbusd %2, %1, %0" : "+v"(to) : "v"(__m512(is_unsigned)), "v"(__m512(is_signed)));
  return to;
}
// The same four signed bytes in each lane: the broadcast is part of the instruction.
MHA_INLINE Reg add_dots_of_word(Reg is_unsigned, const float& is_signed, Reg sum) {
  __m512 to = sum;
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(to) : "v"(__m512(is_unsigned)), "m"(is_signed));
  return to;
}
MHA_INLINE Reg set_bytes(int value) { return reg(_mm512_set1_epi8(static_cast<char>(value))); }
// 64 integers of 16 bits as their upper bytes and their lower ones.
MHA_INLINE void split_bytes(const Vec ints[4], Reg* upper, Reg* lower) {
  const __m512i low = _mm512_packs_epi32(bits(ints[0].r[0]), bits(ints[1].r[0]));
  const __m512i high = _mm512_packs_epi32(bits(ints[2].r[0]), bits(ints[3].r[0]));
  const __m512i byte = _mm512_set1_epi16(255);
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);  // of packing in lanes
  const __m512i tops = _mm512_packs_epi16(_mm512_srai_epi16(low, 8), _mm512_srai_epi16(high, 8));
  const __m512i rest = _mm512_packus_epi16(_mm512_and_si512(low, byte), _mm512_and_si512(high, byte));
  *upper = reg(_mm512_permutexvar_epi32(order, tops)), *lower = reg(_mm512_permutexvar_epi32(order, rest));
}
template <int kRight>
MHA_INLINE Reg shift_right(Reg a) {
  return reg(_mm512_srai_epi32(bits(a), kRight));
}
MHA_INLINE Vec columns_of(const Bytes16 quads[4]) {
  const __m256i low = _mm256_set_m128i(quads[1], quads[0]), high = _mm256_set_m128i(quads[3], quads[2]);
  return {{reg(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1))}};
}
#elif defined(MHA_ISA_AVX2)
constexpr bool kSignedDots = false;
MHA_INLINE Reg add_dots(Reg is_unsigned, Reg is_signed, Reg sum) {
  __m256 to = sum;
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(to) : "x"(__m256(is_unsigned)), "x"(__m256(is_signed)));
  return to;
}
template <int kRight>
MHA_INLINE Reg shift_right(Reg a) {
  return reg(_mm256_srai_epi32(bits(a), kRight));
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
template <int kRight>
MHA_INLINE Reg shift_right(Reg a) {
  return reg(vshrq_n_s32(bits(a), kRight));
}
#endif

#if !defined(MHA_ISA_AVX512)
MHA_INLINE Reg add_dots_of_word(Reg a, const float& b, Reg sum) { return add_dots(a, Reg(b), sum); }
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
// Half of the words of the bytes of four rows at `column`, 4 * kRegLanes of them, in the order that unpacking within lanes of
// 128 bits gives: of lane l, register i of all four has columns 16 l + 4 i to 16 l + 4 i + 3. put_in_order: each register its
// own columns.
#if defined(MHA_ISA_AVX512)
template <int kHalf>
MHA_INLINE void columns_of_rows(const char* const rows[4], int64_t column, Reg columns[2]) {
  const auto two = [&](int i) MHA_ALWAYS_INLINE {
    const __m512i a = _mm512_loadu_si512(rows[i] + column), b = _mm512_loadu_si512(rows[i + 1] + column);
    return kHalf == 0 ? _mm512_unpacklo_epi8(a, b) : _mm512_unpackhi_epi8(a, b);
  };
  const __m512i near = two(0), next = two(2);
  columns[0] = reg(_mm512_unpacklo_epi16(near, next)), columns[1] = reg(_mm512_unpackhi_epi16(near, next));
}
MHA_INLINE void put_in_order(Reg columns[4]) {
  const __m512i a = bits(columns[0]), b = bits(columns[1]), c = bits(columns[2]), d = bits(columns[3]);
  const __m512i ab = _mm512_shuffle_i32x4(a, b, 0x44), cd = _mm512_shuffle_i32x4(c, d, 0x44);  // lanes 0, 1 of each
  const __m512i ab_high = _mm512_shuffle_i32x4(a, b, 0xee), cd_high = _mm512_shuffle_i32x4(c, d, 0xee);
  columns[0] = reg(_mm512_shuffle_i32x4(ab, cd, 0x88)), columns[1] = reg(_mm512_shuffle_i32x4(ab, cd, 0xdd));
  columns[2] = reg(_mm512_shuffle_i32x4(ab_high, cd_high, 0x88));
  columns[3] = reg(_mm512_shuffle_i32x4(ab_high, cd_high, 0xdd));
}
#else
template <int kHalf>
MHA_INLINE void columns_of_rows(const char* const rows[4], int64_t column, Reg columns[2]) {
  const auto two = [&](int i) MHA_ALWAYS_INLINE {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[i] + column));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[i + 1] + column));
    return kHalf == 0 ? _mm256_unpacklo_epi8(a, b) : _mm256_unpackhi_epi8(a, b);
  };
  const __m256i near = two(0), next = two(2);
  columns[0] = reg(_mm256_unpacklo_epi16(near, next)), columns[1] = reg(_mm256_unpackhi_epi16(near, next));
}
MHA_INLINE void put_in_order(Reg columns[4]) {
  const __m256i a = bits(columns[0]), b = bits(columns[1]), c = bits(columns[2]), d = bits(columns[3]);
  columns[0] = reg(_mm256_permute2x128_si256(a, b, 0x20)), columns[1] = reg(_mm256_permute2x128_si256(c, d, 0x20));
  columns[2] = reg(_mm256_permute2x128_si256(a, b, 0x31)), columns[3] = reg(_mm256_permute2x128_si256(c, d, 0x31));
}
#endif

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
