// SPDX-License-Identifier: Apache-2.0
// Pairs of bf16 in the words of a vector, for targets that multiply these (AVX512-BF16). A word's upper half is the earlier of
// two steps of a chain: vdpbf16ps adds its product first, each product and sum as one fused multiply-add to nearest even,
// denormals as zero (Intel's manual; 13 million results on Zen 4 have the bits of two fused multiply-adds). Included by
// algorithms-inl.h, once per such target.
namespace mha::MHA_TARGET_NS {
namespace {

MHA_INLINE __m512bh as_bf16(const Vec& v) { return (__m512bh)_mm512_castps_si512(v.r[0]); }
MHA_INLINE Vec as_vec(__m512i words) { return {_mm512_castsi512_ps(words)}; }

// sum + upper(a) * upper(b), then + lower(a) * lower(b).
MHA_INLINE Vec add_pairs(const Vec& a, const Vec& b, const Vec& sum) {
  return {_mm512_dpbf16_ps(sum.r[0], as_bf16(a), as_bf16(b))};
}

// Word l: bf16(first[l]) above bf16(second[l]), rounded to nearest even; denormals become 0.
MHA_INLINE Vec pair_vectors(const Vec& first, const Vec& second) {
  alignas(64) static constexpr uint16_t kTakeTurns[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                          8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(first.r[0], second.r[0]);  // second's in the lower half
  return as_vec(_mm512_permutexvar_epi16(_mm512_load_si512(kTakeTurns), halves));
}

// Words of the 32 floats of two vectors, each word a pair of neighbours: the first above the second.
MHA_INLINE Vec pair_neighbours(const Vec& low, const Vec& high) {
  return as_vec(_mm512_rol_epi32((__m512i)_mm512_cvtne2ps_pbh(high.r[0], low.r[0]), 16));
}

// 16 elements in the order 0 above 2, 1 above 3, 4 above 6, ...: words of the even and of the odd elements take turns.
MHA_INLINE void store_in_turns(float* words, const Vec& v) {
  const __m256i halves = (__m256i)_mm512_cvtneps_pbh(v.r[0]);
  const __m256i order = _mm256_setr_epi8(4, 5, 0, 1, 6, 7, 2, 3, 12, 13, 8, 9, 14, 15, 10, 11,  //
                                         4, 5, 0, 1, 6, 7, 2, 3, 12, 13, 8, 9, 14, 15, 10, 11);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), _mm256_shuffle_epi8(halves, order));
}

// Of words that hold elements 0 (lower half) and 1, and 2 and 3: 0 above 2, and 1 above 3.
MHA_INLINE void split_turns(Reg first, Reg second, Vec* even, Vec* odd) {
  const __m512i a = _mm512_castps_si512(first), b = _mm512_castps_si512(second);
  const __mmask32 upper = 0xaaaaaaaa;  // of every word
  *even = as_vec(_mm512_mask_blend_epi16(upper, b, _mm512_slli_epi32(a, 16)));
  *odd = as_vec(_mm512_mask_blend_epi16(upper, _mm512_srli_epi32(b, 16), a));
}

// Rounds 16 floats to bf16 and stores them.
MHA_INLINE void store_bf16(void* p, const Vec& v) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(v.r[0]));
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
