// SPDX-License-Identifier: Apache-2.0
// Codes: integers with scales, which keys and values may be. 16 of them to a vector of the floats that they stand for,
//   value = scale * (code - zero), both operations rounded to float,
// the same bits on every target. Included by algorithms-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

// The code types of elements.def. codes(row, index, count) gives the codes from `index`, a multiple of 16, on; those
// beyond `count` (1 to 16) are 0 or any code.
struct I8 {
  static MHA_INLINE Bytes16 bytes(const char* row, int64_t index, int count) {
    if (count == kLanes) return load_bytes(row + index);
    alignas(16) char first[kLanes] = {};
    memcpy(first, row + index, static_cast<size_t>(count));
    return load_bytes(first);
  }
  static MHA_INLINE Vec codes(const char* row, int64_t index, int count) {
    return signed_floats(bytes(row, index, count));
  }
};

struct U8 {
  static MHA_INLINE Vec codes(const char* row, int64_t index, int count) {
    return unsigned_floats(I8::bytes(row, index, count));
  }
};

struct U4 {
  static MHA_INLINE Vec codes(const char* row, int64_t index, int count) {
    if (count == kLanes) return unsigned_floats(load_nibbles(row + index / 2));
    char first[kLanes / 2] = {};
    memcpy(first, row + index / 2, static_cast<size_t>(divide_up(count, 2)));
    return unsigned_floats(load_nibbles(first));
  }
};

struct I4 {
  static MHA_INLINE Vec codes(const char* row, int64_t index, int count) {
    return sub(U4::codes(row, index, count), set1(8.0f));
  }
};

// ggml's blocks of 32: an F16, which is their scale, then 32 codes of 8 bits. bytes: those of a block.
struct Q8 {
  static constexpr int64_t kBlockBytes = row_bytes(Element::kQ8_0, 32);
  static MHA_INLINE void bytes(const char* block, Bytes16* first, Bytes16* second) {
    *first = load_bytes(block + 2), *second = load_bytes(block + 2 + kLanes);
  }
  static MHA_INLINE Vec codes(const char* row, int64_t index, int) {
    return signed_floats(load_bytes(row + index / 32 * kBlockBytes + 2 + index % 32));
  }
};

// The same with 16 bytes of two codes each: code n and code 16 + n, stored as code + 8.
struct Q4 {
  static constexpr int64_t kBlockBytes = row_bytes(Element::kQ4_0, 32);
  static MHA_INLINE void bytes(const char* block, Bytes16* first, Bytes16* second) {
    const Bytes16 pairs = load_bytes(block + 2), zeros = set1_bytes(8);
    *first = sub_bytes(lower_nibbles(pairs), zeros), *second = sub_bytes(upper_nibbles(pairs), zeros);
  }
  static MHA_INLINE Vec codes(const char* row, int64_t index, int) {
    const Bytes16 pairs = load_bytes(row + index / 32 * kBlockBytes + 2);
    const Bytes16 nibbles = index % 32 == 0 ? lower_nibbles(pairs) : upper_nibbles(pairs);
    return signed_floats(sub_bytes(nibbles, set1_bytes(8)));
  }
};

MHA_NOINLINE Vec load_codes(Element element, const char* row, int64_t index, int count) {
  switch (element) {
#define MHA_CODE(name, dtype, number, Type, units, bytes) \
  case Element::name:                                     \
    return Type::codes(row, index, count);
#include "core/kernels/elements.def"
    default:
      break;
  }
  __builtin_unreachable();
}

// Codes of 8 bits as decoding reads them in place, and the GEMM packed weights: the four of each 32 bits of a register, as floats, times 1 / kUnit.
// Unsigned ones have their upper bit flipped before, which takes 128 from them: their zero, where none is given.
struct Codes8 {
  static constexpr bool kIsCode = true, kHasZeros = false;
  static constexpr int kPerWord = 4;
  static constexpr float kUnit = 0x1p-24f;
  template <int kNumber>
  static MHA_INLINE Reg part(Reg words) {
    return top_byte<kNumber>(words);
  }
  static MHA_INLINE Vec load(const char* p, uint32_t flip) { return signed_floats(flip_bytes(load_bytes(p), flip)); }
};

// The same with a zero beside each scale, an integer of 8 bits.
struct Codes8WithZeros : Codes8 {
  static constexpr bool kHasZeros = true;
};

// The same of 4 bits, signed and unsigned ones: both are stored with their zero at 8.
struct Codes4 {
  static constexpr bool kIsCode = true, kHasZeros = false;
  static constexpr int kPerWord = 8;
  static constexpr float kUnit = kNibbleUnit;
  template <int kNumber>
  static MHA_INLINE Reg part(Reg words) {
    return nibble<4 * kNumber>(words);
  }
  static MHA_INLINE Vec load(const char* p, uint32_t) { return nibbles(p); }
};

// The bytes that so many elements take; they fill whole words of 32 bits.
template <class E>
constexpr int64_t bytes_in(int64_t elements) {
  return elements * 4 / E::kPerWord;
}

constexpr uint32_t flip_of(Element element) { return element == Element::kU8 ? 0x80808080u : 0; }

// A scale or a zero as float.
inline float scale_at(Element element, const char* p) {
  if (element == Element::kF32) return *reinterpret_cast<const float*>(p);
  if (element == Element::kI8) return *reinterpret_cast<const int8_t*>(p);
  if (element == Element::kU8) return *reinterpret_cast<const uint8_t*>(p);
  alignas(64) float lanes[kLanes];
  store(lanes, load_elements(element, p, 0, 1));
  return lanes[0];
}

// Those of the codes from `index` on, `row` being where the row's are.
MHA_NOINLINE Vec scales_at(const CodeScales& s, int64_t group, const char* row, int64_t index, int count) {
  if (group % kLanes == 0) return set1(scale_at(s.element, row + index / group * s.stride_d));
  alignas(64) float lanes[kLanes] = {};
  for (int l = 0; l < count; ++l) lanes[l] = scale_at(s.element, row + (index + l) / group * s.stride_d);
  return load(lanes);
}

inline const char* row_of_scales(const CodeScales& s, const TokenRows& t, int64_t head, int64_t token) {
  if (s.place == ScalePlace::kPages) {
    const char* rows = t.base;
    if (t.page_size != 0) {
      const auto [page, slot] = page_place(t, token);
      rows = cached_page(t, page), token = slot;
    }
    const int64_t code_head = t.code_h + head;
    return rows - t.code_h * t.stride_h + s.offset + token * s.stride_t + code_head * s.stride_h;
  }
  int64_t b = t.code_b;
  if (t.table != nullptr) {
    const auto [page, slot] = page_place(t, token);
    b = t.table[page], token = slot;
  }
  return s.data + b * s.stride_b + (t.code_t + token) / t.codes->group_tokens * s.stride_t +
         (t.code_h + head) * s.stride_h;
}

// The row of a token of codes, and where its scales and zeros are.
struct CodeRow {
  const char *row, *scales, *zeros;
};

inline CodeRow code_row(const TokenRows& t, int64_t head, int64_t token, const char* row) {
  const CodeRows& c = *t.codes;
  CodeRow found = {row, nullptr, nullptr};
  if (c.scales.place != ScalePlace::kNone) found.scales = row_of_scales(c.scales, t, head, token);
  if (c.zeros.place != ScalePlace::kNone) found.zeros = row_of_scales(c.zeros, t, head, token);
  return found;
}

// The values of codes [index, index + count), count <= 16, index a multiple of 16.
inline Vec code_values(const TokenRows& t, const CodeRow& r, int64_t index, int count) {
  const Vec codes = load_codes(t.element, r.row, index, count);
  if (has_scales_inside(t.element)) {
    const char* scale = r.row + row_bytes(t.element, index / 32 * 32);
    return mul(set1(scale_at(Element::kF16, scale)), codes);
  }
  const CodeRows& c = *t.codes;
  const Vec zeros = r.zeros != nullptr ? scales_at(c.zeros, c.group, r.zeros, index, count) : set1(c.zero);
  return mul(scales_at(c.scales, c.group, r.scales, index, count), sub(codes, zeros));
}

// widen_codes for one type, scales and zeros found once for each group.
template <class Codes>
MHA_INLINE void widen_groups(const TokenRows& t, const CodeRow& r, int64_t column, int64_t width, float* dst) {
  const CodeRows& c = *t.codes;
  const bool inside = has_scales_inside(t.element);
  for (int64_t at = 0; at < width;) {
    const int64_t group = (column + at) / c.group, end = least(width, (group + 1) * c.group - column);
    const Vec scale = set1(inside ? scale_at(Element::kF16, r.row + row_bytes(t.element, group * c.group))
                                  : scale_at(c.scales.element, r.scales + group * c.scales.stride_d));
    const Vec zeros = set1(r.zeros != nullptr ? scale_at(c.zeros.element, r.zeros + group * c.zeros.stride_d) : c.zero);
    for (; at < end; at += kLanes) {
      const int count = static_cast<int>(least(width - at, kLanes));
      const Vec values = mul(scale, sub(Codes::codes(r.row, column + at, count), zeros));
      if (count == kLanes) {
        store(dst + at, values);
      } else {
        store(dst + at, zero());
        store_first(dst + at, values, count);
      }
    }
  }
}

// dst = the values of codes [column, column + width) of a token, column a multiple of 16, zeros up to a whole vector.
MHA_NOINLINE void widen_codes(const TokenRows& t, const CodeRow& r, int64_t column, int64_t width, float* dst) {
  if (t.codes->group % kLanes == 0) {
    switch (t.element) {
#define MHA_CODE(name, dtype, number, Type, units, bytes) \
  case Element::name:                                     \
    return widen_groups<Type>(t, r, column, width, dst);
#include "core/kernels/elements.def"
      default:
        __builtin_unreachable();
    }
  }
  for (int64_t c = 0; c < width; c += kLanes) {
    const int count = static_cast<int>(least(width - c, kLanes));
    store(dst + c, zero());
    store_first(dst + c, code_values(t, r, column + c, count), count);
  }
}

// Groups of a row that decoding keeps the scales of.
constexpr int64_t kMostGroups = 16;

// Elements that share a scale, in steps of 16, as a shift; 63: the whole row; -1: no power of two.
inline int group_shift(int64_t group, int64_t width) {
  if (group >= width) return 63;
  for (int shift = 0; shift < 16; ++shift) {
    if (group == kLanes << shift) return shift;
  }
  return -1;
}

constexpr bool is_nibble(Element element) { return element == Element::kI4 || element == Element::kU4; }

// Whether decoding can keep the scales of codes: those of each token's own row, one or a few groups of it; zeros, if any,
// are integers.
inline bool keeps_scales(const TokenRows& t, int64_t width) {
  const CodeRows& c = *t.codes;
  const Element zeros = c.zeros.element;
  return (c.zeros.place == ScalePlace::kNone || zeros == Element::kI8 || zeros == Element::kU8) &&
         c.group_tokens == 1 && divide_up(width, c.group) <= kMostGroups && group_shift(c.group, width) >= 0;
}

// Whether decoding reads codes in place: bytes, and nibbles without zeros.
inline bool reads_codes_in_place(const TokenRows& t, int64_t width) {
  const bool bytes = t.element == Element::kI8 || t.element == Element::kU8;
  const bool nibbles = is_nibble(t.element) && t.codes->zeros.place == ScalePlace::kNone;
  return (bytes || (nibbles && kReadsNibbles)) && keeps_scales(t, width);
}

// Scales, or zeros, of 16 tokens of one page, [16][groups] or for each group of 16; floats behind them are written, too.
constexpr int64_t kScalesOfBlock = kLanes * kMostGroups + kLanes;
struct TokenScales {
  alignas(64) float of[kScalesOfBlock];
};

// `count` (1 to 16) scales or zeros that follow each other.
MHA_NOINLINE Vec load_scale_lanes(Element element, const char* p, int count) {
  if (element == Element::kI8) return I8::codes(p, 0, count);
  if (element == Element::kU8) return U8::codes(p, 0, count);
  return load_elements(element, p, 0, count);
}

// Those of `count` tokens of one page; s: the scales or the zeros of t.codes.
MHA_NOINLINE void load_scales(const TokenRows& t, const CodeScales& s, int64_t head, int64_t token, int count,
                              int64_t groups, float* out) {
  const char* first = row_of_scales(s, t, head, token);
  const int64_t bytes = bytes_of(s.element);
  if (s.stride_t == groups * bytes && (s.stride_d == bytes || groups == 1)) {
    const int64_t all = count * groups;
    for (int64_t n = 0; n < all; n += kLanes) {
      store(out + n, load_scale_lanes(s.element, first + n * bytes, static_cast<int>(least(all - n, kLanes))));
    }
    return;
  }
  for (int j = 0; j < count; ++j) {
    for (int64_t g = 0; g < groups; ++g)
      out[j * groups + g] = scale_at(s.element, first + j * s.stride_t + g * s.stride_d);
  }
}

// [16][groups] -> for each group the 16 tokens' side by side.
MHA_NOINLINE void sort_by_group(int64_t groups, TokenScales* scales) {
  if (groups == 1) return;
  Vec columns[kMostGroups];
  for (int64_t g = 0; g < groups; g += 4) transpose_16x4(scales->of + g, groups, columns + g);
  for (int64_t g = 0; g < groups; ++g) store(scales->of + g * kLanes, columns[g]);
}

// Those of 16 tokens, the first `first` of them in one page, the others in another; sorted by group.
MHA_NOINLINE void load_scales_by_group(const TokenRows& t, const CodeScales& s, int64_t head, int64_t token, int first,
                                       int64_t groups, TokenScales* out) {
  load_scales(t, s, head, token, first, groups, out->of);
  if (first < kLanes) load_scales(t, s, head, token + first, kLanes - first, groups, out->of + first * groups);
  sort_by_group(groups, out);
}

// What signed codes of 8 bits have for the zero of an unsigned type, whose upper bit is flipped.
constexpr float flipped_zero(Element element) { return element == Element::kU8 ? 128.0f : 0.0f; }

// zeros = (zeros - those that flipping the codes takes) * unit, exactly; `count` of them.
MHA_NOINLINE void ready_zeros(Element codes, float unit, int64_t count, TokenScales* zeros) {
  for (int64_t n = 0; n < count; n += kLanes) {
    store(zeros->of + n, mul(sub(load(zeros->of + n), set1(flipped_zero(codes))), set1(unit)));
  }
}

// Multiplies the scales of 16 tokens by `unit`, a power of two. Whether that changes nothing but their exponents: those
// that are near the least normal float become zeros.
MHA_NOINLINE bool scale_by_unit(float unit, int64_t groups, TokenScales* scales) {
  if (unit == 1) return true;
  const Vec least_kept = set1(0x1p-126f / unit), one = set1(1), factor = set1(unit);
  Vec lost = zero();
  for (int64_t g = 0; g < groups; ++g) {
    const Vec s = load(scales->of + g * kLanes), size = absolute(s);
    const Vec small = select_greater(least_kept, size, one, zero());
    lost = add(lost, select_greater(size, zero(), small, zero()));
    store(scales->of + g * kLanes, mul(s, factor));
  }
  return sum(lost) == 0.0f;
}

// `count` elements of a token from number `column`, a multiple of 16, on, as floats; zeros beyond.
MHA_NOINLINE Vec load_token(const TokenRows& t, int64_t head, int64_t token, const char* row, int64_t column,
                            int count) {
  if (!is_code(t.element)) return load_elements(t.element, row, column, count);
  alignas(64) float values[kLanes];
  widen_codes(t, code_row(t, head, token, row), column, count, values);
  return load(values);
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
