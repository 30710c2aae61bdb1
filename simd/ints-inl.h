// SPDX-License-Identifier: Apache-2.0
// Integers in the lanes of a vector, as bits, and exact products of them. Included by algorithms-inl.h, once per target.
//
// A line holds two integers of 16 bits for each of 16 lanes, in the order that the target multiplies fastest: both in the
// word of their lane, or (NEON) all firsts before all seconds. add_products multiplies them with the two of a word that all
// lanes share. line_of_rows: of 16 signed bytes and 16 others.
//
// lower_nibbles, upper_nibbles: those of each byte, 0 to 15, as bytes. add_byte_products: pairs of products of such bytes and
// signed ones, added in 16 bits; widened_halves: the sums of two neighbours of these, in 32 bits (AVX-512, AVX2).
//
// store_halves: 16 integers as 16 bits each, which they fit. store_pairs: the same in the order of packed weights' words: of
// kPerWord integers, those kPerWord / 2 apart are a word. store_quads: as bytes; a word is the four integers that are
// kPerWord / 4 apart. kDotStep codes of 8 bits are widened to 16 and multiplied with
// as many integers of 16 bits at once; sums_of: the sum of each register's lanes, in its lane.
namespace mha::MHA_TARGET_NS {
namespace {

#if defined(MHA_ISA_AVX512)
MHA_INLINE __m512i bits(Reg r) { return _mm512_castps_si512(r); }
MHA_INLINE Reg reg(__m512i i) { return _mm512_castsi512_ps(i); }
MHA_INLINE Reg to_ints(Reg x) { return reg(_mm512_cvtps_epi32(x)); }
MHA_INLINE Reg to_floats(Reg i) { return _mm512_cvtepi32_ps(bits(i)); }
MHA_INLINE Reg add_ints(Reg a, Reg b) { return reg(_mm512_add_epi32(bits(a), bits(b))); }
MHA_INLINE Reg sub_ints(Reg a, Reg b) { return reg(_mm512_sub_epi32(bits(a), bits(b))); }
MHA_INLINE Reg mul_ints(Reg a, Reg b) { return reg(_mm512_mullo_epi32(bits(a), bits(b))); }
MHA_INLINE Reg max_ints(Reg a, Reg b) { return reg(_mm512_max_epi32(bits(a), bits(b))); }
template <int kLeft>
MHA_INLINE Reg shift_left(Reg a) {
  return reg(_mm512_slli_epi32(bits(a), kLeft));
}
MHA_INLINE Reg add_products(Reg x, Reg line, Reg sum) {
  return reg(_mm512_add_epi32(bits(sum), _mm512_madd_epi16(bits(x), bits(line))));
}
// Bytes 0 and 2 of each word, or 1 and 3, as signed integers.
MHA_INLINE Reg even_bytes(Reg w) { return reg(_mm512_srai_epi16(_mm512_slli_epi16(bits(w), 8), 8)); }
MHA_INLINE Reg odd_bytes(Reg w) { return reg(_mm512_srai_epi16(bits(w), 8)); }
MHA_INLINE Vec line_of_rows(Bytes16 first, Bytes16 second) {
  const __m256i pairs = _mm256_set_m128i(_mm_unpackhi_epi8(first, second), _mm_unpacklo_epi8(first, second));
  return {{reg(_mm512_cvtepi8_epi16(pairs))}};
}
MHA_INLINE __m256i halves_of(const Vec& ints) { return _mm512_cvtepi32_epi16(bits(ints.r[0])); }
MHA_INLINE Bytes16 lowest_bytes(const Vec& ints) { return _mm512_cvtepi32_epi8(bits(ints.r[0])); }
constexpr int kDotStep = 32;
MHA_INLINE Reg widened_step(const char* p) {
  return reg(_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
}
MHA_INLINE Reg add_step(Reg codes, const float* x, Reg sum) { return add_products(codes, Reg::load_unaligned(x), sum); }
MHA_INLINE Reg sums_of(const Reg all[kRegLanes]) {
  alignas(64) float rows[kRegLanes * kRegLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kRegLanes; ++i) all[i].store_unaligned(rows + i * kRegLanes);
  return fold_rows(rows, [](__m512 a, __m512 b) MHA_ALWAYS_INLINE { return __m512(add_ints(a, b)); }).r[0];
}
MHA_INLINE Reg lower_nibbles(Reg w) { return reg(_mm512_and_si512(bits(w), _mm512_set1_epi32(0x0f0f0f0f))); }
MHA_INLINE Reg upper_nibbles(Reg w) { return lower_nibbles(reg(_mm512_srli_epi32(bits(w), 4))); }
MHA_INLINE Reg add_byte_products(Reg nibbles, Reg x, Reg halves) {
  return reg(_mm512_add_epi16(bits(halves), _mm512_maddubs_epi16(bits(nibbles), bits(x))));
}
MHA_INLINE Reg widened_halves(Reg halves) { return reg(_mm512_madd_epi16(bits(halves), _mm512_set1_epi16(1))); }
// Nibbles n and n + 4 of each word.
template <int kNumber>
MHA_INLINE Reg nibble_pair(Reg w) {
  return reg(_mm512_and_si512(_mm512_srli_epi16(bits(w), 4 * kNumber), _mm512_set1_epi32(0x000f000f)));
}
#elif defined(MHA_ISA_AVX2)
MHA_INLINE __m256i bits(Reg r) { return _mm256_castps_si256(r); }
MHA_INLINE Reg reg(__m256i i) { return _mm256_castsi256_ps(i); }
MHA_INLINE Reg to_ints(Reg x) { return reg(_mm256_cvtps_epi32(x)); }
MHA_INLINE Reg to_floats(Reg i) { return _mm256_cvtepi32_ps(bits(i)); }
MHA_INLINE Reg add_ints(Reg a, Reg b) { return reg(_mm256_add_epi32(bits(a), bits(b))); }
MHA_INLINE Reg sub_ints(Reg a, Reg b) { return reg(_mm256_sub_epi32(bits(a), bits(b))); }
MHA_INLINE Reg mul_ints(Reg a, Reg b) { return reg(_mm256_mullo_epi32(bits(a), bits(b))); }
MHA_INLINE Reg max_ints(Reg a, Reg b) { return reg(_mm256_max_epi32(bits(a), bits(b))); }
template <int kLeft>
MHA_INLINE Reg shift_left(Reg a) {
  return reg(_mm256_slli_epi32(bits(a), kLeft));
}
MHA_INLINE Reg add_products(Reg x, Reg line, Reg sum) {
  return reg(_mm256_add_epi32(bits(sum), _mm256_madd_epi16(bits(x), bits(line))));
}
MHA_INLINE Reg even_bytes(Reg w) { return reg(_mm256_srai_epi16(_mm256_slli_epi16(bits(w), 8), 8)); }
MHA_INLINE Reg odd_bytes(Reg w) { return reg(_mm256_srai_epi16(bits(w), 8)); }
MHA_INLINE Vec line_of_rows(Bytes16 first, Bytes16 second) {
  return {{reg(_mm256_cvtepi8_epi16(_mm_unpacklo_epi8(first, second))),
           reg(_mm256_cvtepi8_epi16(_mm_unpackhi_epi8(first, second)))}};
}
MHA_INLINE __m256i halves_of(const Vec& ints) {
  const __m256i taken = _mm256_packs_epi32(bits(ints.r[0]), bits(ints.r[1]));
  return _mm256_permute4x64_epi64(taken, 0xd8);  // halves back in order
}
MHA_INLINE Bytes16 lowest_bytes(const Vec& ints) {
  const __m256i byte = _mm256_set1_epi32(255);
  const __m256i taken =
      _mm256_packs_epi32(_mm256_and_si256(bits(ints.r[0]), byte), _mm256_and_si256(bits(ints.r[1]), byte));
  const __m256i halves = _mm256_permute4x64_epi64(taken, 0xd8);  // back in order
  return _mm_packus_epi16(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}
constexpr int kDotStep = 16;
MHA_INLINE Reg widened_step(const char* p) { return reg(_mm256_cvtepi8_epi16(load_bytes(p))); }
MHA_INLINE Reg add_step(Reg codes, const float* x, Reg sum) { return add_products(codes, Reg::load_unaligned(x), sum); }
MHA_INLINE Reg sums_of(const Reg all[kRegLanes]) {
  const auto quads = [&](int i) MHA_ALWAYS_INLINE {
    return _mm256_hadd_epi32(_mm256_hadd_epi32(bits(all[i]), bits(all[i + 1])),
                             _mm256_hadd_epi32(bits(all[i + 2]), bits(all[i + 3])));
  };
  const __m256i low = quads(0), high = quads(4);
  return reg(_mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20), _mm256_permute2x128_si256(low, high, 0x31)));
}
MHA_INLINE Reg lower_nibbles(Reg w) { return reg(_mm256_and_si256(bits(w), _mm256_set1_epi32(0x0f0f0f0f))); }
MHA_INLINE Reg upper_nibbles(Reg w) { return lower_nibbles(reg(_mm256_srli_epi32(bits(w), 4))); }
MHA_INLINE Reg add_byte_products(Reg nibbles, Reg x, Reg halves) {
  return reg(_mm256_add_epi16(bits(halves), _mm256_maddubs_epi16(bits(nibbles), bits(x))));
}
MHA_INLINE Reg widened_halves(Reg halves) { return reg(_mm256_madd_epi16(bits(halves), _mm256_set1_epi16(1))); }
template <int kNumber>
MHA_INLINE Reg nibble_pair(Reg w) {
  return reg(_mm256_and_si256(_mm256_srli_epi16(bits(w), 4 * kNumber), _mm256_set1_epi32(0x000f000f)));
}
#elif defined(MHA_ISA_SSE2)
MHA_INLINE __m128i bits(Reg r) { return _mm_castps_si128(r); }
MHA_INLINE Reg reg(__m128i i) { return _mm_castsi128_ps(i); }
MHA_INLINE Reg to_ints(Reg x) { return reg(_mm_cvtps_epi32(x)); }
MHA_INLINE Reg to_floats(Reg i) { return _mm_cvtepi32_ps(bits(i)); }
MHA_INLINE Reg add_ints(Reg a, Reg b) { return reg(_mm_add_epi32(bits(a), bits(b))); }
MHA_INLINE Reg sub_ints(Reg a, Reg b) { return reg(_mm_sub_epi32(bits(a), bits(b))); }
MHA_INLINE Reg mul_ints(Reg a, Reg b) {
  const __m128i even = _mm_mul_epu32(bits(a), bits(b));
  const __m128i odd = _mm_mul_epu32(_mm_srli_epi64(bits(a), 32), _mm_srli_epi64(bits(b), 32));
  return reg(_mm_unpacklo_epi32(_mm_shuffle_epi32(even, 0x08), _mm_shuffle_epi32(odd, 0x08)));
}
MHA_INLINE Reg max_ints(Reg a, Reg b) {
  const __m128i greater = _mm_cmpgt_epi32(bits(a), bits(b));
  return reg(_mm_or_si128(_mm_and_si128(greater, bits(a)), _mm_andnot_si128(greater, bits(b))));
}
template <int kLeft>
MHA_INLINE Reg shift_left(Reg a) {
  return reg(_mm_slli_epi32(bits(a), kLeft));
}
MHA_INLINE Reg add_products(Reg x, Reg line, Reg sum) {
  return reg(_mm_add_epi32(bits(sum), _mm_madd_epi16(bits(x), bits(line))));
}
MHA_INLINE Reg even_bytes(Reg w) { return reg(_mm_srai_epi16(_mm_slli_epi16(bits(w), 8), 8)); }
MHA_INLINE Reg odd_bytes(Reg w) { return reg(_mm_srai_epi16(bits(w), 8)); }
MHA_INLINE __m128i lower_halves(Bytes16 b) { return _mm_srai_epi16(_mm_unpacklo_epi8(b, b), 8); }
MHA_INLINE __m128i upper_halves(Bytes16 b) { return _mm_srai_epi16(_mm_unpackhi_epi8(b, b), 8); }
MHA_INLINE Vec line_of_rows(Bytes16 first, Bytes16 second) {
  const __m128i low = _mm_unpacklo_epi8(first, second), high = _mm_unpackhi_epi8(first, second);
  return {{reg(lower_halves(low)), reg(upper_halves(low)), reg(lower_halves(high)), reg(upper_halves(high))}};
}
MHA_INLINE __m128i halves_of(const Vec& ints, int i) {
  return _mm_packs_epi32(bits(ints.r[2 * i]), bits(ints.r[2 * i + 1]));
}
MHA_INLINE void store_halves(float* p, const Vec& ints) {
  reg(halves_of(ints, 0)).store_unaligned(p), reg(halves_of(ints, 1)).store_unaligned(p + 4);
}
template <int kPerWord>
MHA_INLINE void store_pairs(float* words, const Vec& ints) {
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const __m128i h = halves_of(ints, i);
    const __m128i paired = kPerWord == 4 ? _mm_shufflehi_epi16(_mm_shufflelo_epi16(h, 0xd8), 0xd8)
                                         : _mm_unpacklo_epi16(h, _mm_srli_si128(h, 8));
    reg(paired).store_unaligned(words + 4 * i);
  }
}
constexpr int kDotStep = 8;
MHA_INLINE Reg widened_step(const char* p) {
  return reg(lower_halves(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
MHA_INLINE Reg add_step(Reg codes, const float* x, Reg sum) { return add_products(codes, Reg::load_unaligned(x), sum); }
MHA_INLINE Reg sums_of(const Reg all[kRegLanes]) {
  Reg q[4] = {all[0], all[1], all[2], all[3]};
  transpose_quads(q);
  return add_ints(add_ints(q[0], q[1]), add_ints(q[2], q[3]));
}
template <int kNumber>
MHA_INLINE Reg nibble_pair(Reg w) {
  return reg(_mm_and_si128(_mm_srli_epi16(bits(w), 4 * kNumber), _mm_set1_epi32(0x000f000f)));
}
#elif defined(MHA_ISA_NEON)
MHA_INLINE int32x4_t bits(Reg r) { return vreinterpretq_s32_f32(r); }
MHA_INLINE Reg reg(int32x4_t i) { return vreinterpretq_f32_s32(i); }
MHA_INLINE Reg to_ints(Reg x) { return reg(vcvtnq_s32_f32(x)); }
MHA_INLINE Reg to_floats(Reg i) { return vcvtq_f32_s32(bits(i)); }
MHA_INLINE Reg add_ints(Reg a, Reg b) { return reg(vaddq_s32(bits(a), bits(b))); }
MHA_INLINE Reg sub_ints(Reg a, Reg b) { return reg(vsubq_s32(bits(a), bits(b))); }
MHA_INLINE Reg mul_ints(Reg a, Reg b) { return reg(vmulq_s32(bits(a), bits(b))); }
MHA_INLINE Reg max_ints(Reg a, Reg b) { return reg(vmaxq_s32(bits(a), bits(b))); }
template <int kLeft>
MHA_INLINE Reg shift_left(Reg a) {
  return reg(vshlq_n_s32(bits(a), kLeft));
}
MHA_INLINE int16x8_t halves(Reg r) { return vreinterpretq_s16_f32(r); }
MHA_INLINE Reg from_halves(int16x8_t h) { return vreinterpretq_f32_s16(h); }
MHA_INLINE Vec line_of_rows(Bytes16 first, Bytes16 second) {
  const int8x16_t a = vreinterpretq_s8_u8(first), b = vreinterpretq_s8_u8(second);
  return {{from_halves(vmovl_s8(vget_low_s8(a))), from_halves(vmovl_high_s8(a)), from_halves(vmovl_s8(vget_low_s8(b))),
           from_halves(vmovl_high_s8(b))}};
}
MHA_INLINE int16x8_t halves_of(const Vec& ints, int i) {
  return vcombine_s16(vmovn_s32(bits(ints.r[2 * i])), vmovn_s32(bits(ints.r[2 * i + 1])));
}
MHA_INLINE void store_halves(float* p, const Vec& ints) {
  from_halves(halves_of(ints, 0)).store_unaligned(p), from_halves(halves_of(ints, 1)).store_unaligned(p + 4);
}
template <int kPerWord>
MHA_INLINE void store_pairs(float* words, const Vec& ints) {
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const int16x8_t h = halves_of(ints, i);
    if constexpr (kPerWord == 4) {
      alignas(16) static constexpr uint8_t kOrder[16] = {0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15};
      const uint8x16_t paired = vqtbl1q_u8(vreinterpretq_u8_s16(h), vld1q_u8(kOrder));
      from_halves(vreinterpretq_s16_u8(paired)).store_unaligned(words + 4 * i);
    } else {
      from_halves(vzip1q_s16(h, vextq_s16(h, h, 4))).store_unaligned(words + 4 * i);
    }
  }
}
MHA_INLINE Bytes16 lowest_bytes(const Vec& ints) {
  return vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(halves_of(ints, 0)), vmovn_s16(halves_of(ints, 1))));
}
template <int kPerWord>
MHA_INLINE void store_quads(float* words, const Vec& ints) {
  Bytes16 bytes = lowest_bytes(ints);
  if constexpr (kPerWord == 8) {
    alignas(16) static constexpr uint8_t kOrder[16] = {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15};
    bytes = vqtbl1q_u8(bytes, vld1q_u8(kOrder));
  }
  store_bytes(reinterpret_cast<char*>(words), bytes);
}
constexpr int kDotStep = 8;
MHA_INLINE Reg widened_step(const char* p) {
  return from_halves(vmovl_s8(vld1_s8(reinterpret_cast<const int8_t*>(p))));
}
MHA_INLINE Reg add_step(Reg codes, const float* x, Reg sum) {
  const int16x8_t a = halves(codes), b = halves(Reg::load_unaligned(x));
  return reg(vmlal_high_s16(vmlal_s16(bits(sum), vget_low_s16(a), vget_low_s16(b)), a, b));
}
MHA_INLINE Reg sums_of(const Reg all[kRegLanes]) {
  return reg(vpaddq_s32(vpaddq_s32(bits(all[0]), bits(all[1])), vpaddq_s32(bits(all[2]), bits(all[3]))));
}
#endif

#if defined(MHA_ISA_AVX512) || defined(MHA_ISA_AVX2)
MHA_INLINE void store_halves(float* p, const Vec& ints) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), halves_of(ints));
}
template <int kPerWord>
MHA_INLINE void store_pairs(float* words, const Vec& ints) {
  const __m256i h = halves_of(ints);
  const __m256i paired = kPerWord == 4 ? _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(h, 0xd8), 0xd8)
                                       : _mm256_unpacklo_epi16(h, _mm256_bsrli_epi128(h, 8));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), paired);
}
template <int kPerWord>
MHA_INLINE void store_quads(float* words, const Vec& ints) {
  const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
  const Bytes16 bytes = lowest_bytes(ints);
  store_bytes(reinterpret_cast<char*>(words), kPerWord == 4 ? bytes : _mm_shuffle_epi8(bytes, order));
}
#endif

MHA_INLINE Vec to_ints(const Vec& x) {
  return map([&](int i) MHA_ALWAYS_INLINE { return to_ints(x.r[i]); });
}
MHA_INLINE Vec to_floats(const Vec& x) {
  return map([&](int i) MHA_ALWAYS_INLINE { return to_floats(x.r[i]); });
}
MHA_INLINE Vec add_ints(const Vec& a, const Vec& b) {
  return map([&](int i) MHA_ALWAYS_INLINE { return add_ints(a.r[i], b.r[i]); });
}
MHA_INLINE Vec sub_ints(const Vec& a, const Vec& b) {
  return map([&](int i) MHA_ALWAYS_INLINE { return sub_ints(a.r[i], b.r[i]); });
}
MHA_INLINE Vec max_ints(const Vec& a, const Vec& b) {
  return map([&](int i) MHA_ALWAYS_INLINE { return max_ints(a.r[i], b.r[i]); });
}
// The lower 32 bits of products.
MHA_INLINE Vec mul_ints(const Vec& a, const Vec& b) {
  return map([&](int i) MHA_ALWAYS_INLINE { return mul_ints(a.r[i], b.r[i]); });
}
template <int kLeft>
MHA_INLINE Vec shift_left(const Vec& a) {
  return map([&](int i) MHA_ALWAYS_INLINE { return shift_left<kLeft>(a.r[i]); });
}
MHA_INLINE Vec set_ints(int32_t x) {
  float word;
  memcpy(&word, &x, sizeof(word));
  return set1(word);
}

// The sum of all lanes.
MHA_INLINE int32_t sum_ints(const Vec& ints) {
  alignas(64) int32_t lanes[kLanes];
  store(reinterpret_cast<float*>(lanes), ints);
  int32_t total = 0;
  for (int32_t lane : lanes) total += lane;
  return total;
}

#if defined(MHA_ISA_NEON)
MHA_INLINE Vec add_products(const Vec& x, const Vec& line, const Vec& sum) {
  const int16x4_t both = vget_low_s16(halves(x.r[0]));
  Vec v;
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const int16x8_t first = halves(line.r[i]), second = halves(line.r[i + 2]);
    int32x4_t low = vmlal_lane_s16(bits(sum.r[2 * i]), vget_low_s16(first), both, 0);
    int32x4_t high = vmlal_high_lane_s16(bits(sum.r[2 * i + 1]), first, both, 0);
    v.r[2 * i] = reg(vmlal_lane_s16(low, vget_low_s16(second), both, 1));
    v.r[2 * i + 1] = reg(vmlal_high_lane_s16(high, second, both, 1));
  }
  return v;
}
// A line of what of(words, n) makes 4 integers of 16 bits of, for the first and the second integer.
template <class Of>
MHA_INLINE Vec line_of(const Vec& words, Of of) {
  Vec line;
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const int32x4_t low = bits(words.r[2 * i]), high = bits(words.r[2 * i + 1]);
    line.r[i] = from_halves(vcombine_s16(of(low, Number<0>()), of(high, Number<0>())));
    line.r[i + 2] = from_halves(vcombine_s16(of(low, Number<1>()), of(high, Number<1>())));
  }
  return line;
}
template <int kNumber>
MHA_INLINE Vec line_of_bytes(const Vec& words) {
  return line_of(words, [](int32x4_t w, auto second) MHA_ALWAYS_INLINE {
    constexpr int kLeft = 24 - 8 * (kNumber + 2 * decltype(second)::value);
    return vshr_n_s16(vshrn_n_s32(vshlq_n_s32(w, kLeft), 16), 8);
  });
}
template <int kNumber>
MHA_INLINE Vec line_of_nibbles(const Vec& words) {
  return line_of(words, [](int32x4_t w, auto second) MHA_ALWAYS_INLINE {
    constexpr int kLeft = 28 - 4 * (kNumber + 4 * decltype(second)::value);
    const uint16x4_t top = vshrn_n_u32(vshlq_n_u32(vreinterpretq_u32_s32(w), kLeft), 16);
    return vreinterpret_s16_u16(vshr_n_u16(top, 12));
  });
}
#else
MHA_INLINE Vec add_products(const Vec& x, const Vec& line, const Vec& sum) {
  return map([&](int i) MHA_ALWAYS_INLINE { return add_products(x.r[i], line.r[i], sum.r[i]); });
}
// Of words of four signed bytes: bytes n and n + 2, n = 0 or 1.
template <int kNumber>
MHA_INLINE Vec line_of_bytes(const Vec& words) {
  return map([&](int i) MHA_ALWAYS_INLINE { return kNumber == 0 ? even_bytes(words.r[i]) : odd_bytes(words.r[i]); });
}
// Of words of eight nibbles: nibbles n and n + 4, 0 to 15.
template <int kNumber>
MHA_INLINE Vec line_of_nibbles(const Vec& words) {
  return map([&](int i) MHA_ALWAYS_INLINE { return nibble_pair<kNumber>(words.r[i]); });
}
#endif

}  // namespace
}  // namespace mha::MHA_TARGET_NS
