// SPDX-License-Identifier: Apache-2.0
// INT8's products on targets that multiply four bytes at once (simd/dots-inl.h): the like of IntPairs. Integers of 15 bits are
// two parts of a byte each. Where one operand must be unsigned (x86), codes are read with 128 added, which is taken from the
// sums afterwards. Included by algorithms-inl.h, once per such target.
namespace mha::MHA_TARGET_NS {
namespace {

struct IntDots {
  static constexpr const char* kName = "INT8: rows rounded to 8 bits, exact products of four bytes at once";
  static constexpr const char* kAttentionName =
      "INT8: queries and probabilities rounded to 15 bits, two bytes each, exact products of four bytes at once";
  static constexpr int kInputsOfWord = 4;
  static constexpr int64_t kHalfSteps = 0;
  static constexpr int64_t kWordsTogether = 1;
  static constexpr int32_t kSignedZero = kSignedDots ? 0 : 128;
  struct Steps {
    static MHA_INLINE Vec step(const Vec& x, const Vec& line, const Vec& sum) { return add_dots(line, x, sum); }
  };
  template <int kPerWord, int kNumber>
  static MHA_INLINE Vec line(const Vec& words) {
    if constexpr (kPerWord == 4) return words;
    return kNumber == 0 ? lower_nibbles(words) : upper_nibbles(words);
  }
  static uint32_t place(int32_t code, int number) { return (static_cast<uint32_t>(code) & 0xffu) << (8 * number); }
  template <int kPerWord>
  static MHA_INLINE void store_words(float* words, const Vec& v) {
    store_quads<kPerWord>(words, v);
  }

  static constexpr int kParts = 2, kQueryShift = 7, kProbabilityShift = 8;
  // v = 128 * first + second, both signed bytes for |v| <= 16256.
  static MHA_INLINE Vec query_part(const Vec& v, int part) {
    const Vec first = shift_right<7>(add_ints(v, set_ints(64)));
    return part == 0 ? first : sub_ints(v, shift_left<7>(first));
  }
  // u = 256 * first + second, a signed and an unsigned byte.
  static constexpr bool kCorrects = true;
#if defined(MHA_ISA_X86)
  template <int kPart>
  static MHA_INLINE Reg value_step(const Reg& x, const Reg& line, const Reg& sum) {
    if constexpr (kPart == 1) return add_dots(x, line, sum);
    return add_dots(flip_codes(line, flip_of(Element::kU8)), x, sum);
  }
  template <int kPart>
  static MHA_INLINE Vec value_step(const Vec& x, const Vec& line, const Vec& sum) {
    return map([&](int i) MHA_ALWAYS_INLINE { return value_step<kPart>(x.r[i], line.r[i], sum.r[i]); });
  }
  static MHA_INLINE Vec value_line(const Bytes16* rows) { return line_of_four(rows); }
  template <int kHalf>
  static MHA_INLINE void value_columns(const char* const* rows, int64_t column, Reg columns[2]) {
    columns_of_rows<kHalf>(rows, column, columns);
  }
  static MHA_INLINE void put_in_order(Reg columns[4]) { MHA_TARGET_NS::put_in_order(columns); }
  static MHA_INLINE Vec store_probabilities(float* words, int64_t j, const Vec& u) {
    const Vec first = shift_right<8>(u);
    char* at = reinterpret_cast<char*>(words) + j;
    store_bytes(at, lowest_bytes(first)), store_bytes(at + kChunk, lowest_bytes(u));
    return first;
  }
#if defined(MHA_ISA_AVX512)
  static constexpr bool kStoresFour = true;
  // Returns `total` and the first parts, each in some lane.
  static MHA_INLINE Vec store_four(float* words, int64_t j, const Vec u[4], const Vec& total) {
    Reg first, second;
    split_bytes(u, &first, &second);
    float* at = reinterpret_cast<float*>(reinterpret_cast<char*>(words) + j);
    first.store_unaligned(at), second.store_unaligned(at + kChunk / kFloatBytes);
    return {{add_dots(set_bytes(1), first, total.r[0])}};
  }
#else
  static constexpr bool kStoresFour = false;
#endif
#endif

  // Decoding: a lane of `line` has four codes of a key, `word` as many integers of a query.
  static MHA_INLINE Reg key_step(const Reg& line, const float& word, const Reg& sum) {
    return add_dots_of_word(line, word, sum);
  }
  static constexpr int64_t kQueryBytes = 1;
  static MHA_INLINE void store_query(char* part, const Vec& v, int number) {
    store_words<4>(reinterpret_cast<float*>(part), query_part(v, number));
  }
};

}  // namespace
}  // namespace mha::MHA_TARGET_NS
