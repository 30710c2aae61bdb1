// SPDX-License-Identifier: Apache-2.0
// Rows of floats rounded to codes, and back: QuantiseArgs and WidenArgs. Included by all-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

struct CodeRange {
  float least, greatest;  // codes
  float zero;             // the code of 0 without zeros
  bool nibbles;
};

constexpr CodeRange range_of(Element element) {
  switch (element) {
    case Element::kI8:
      return {-128, 127, 0, false};
    case Element::kU8:
      return {0, 255, 128, false};
    case Element::kI4:
      return {-8, 7, 0, true};
    default:
      return {0, 15, 8, true};
  }
}

// To even; of numbers that are no more than a few hundred.
MHA_INLINE float nearest(float x) {
  constexpr float kWhole = 0x1.8p23f;
  return (x + kWhole) - kWhole;
}
MHA_INLINE Vec nearest(const Vec& x) {
  const Vec whole = set1(0x1.8p23f);
  return sub(add(x, whole), whole);
}

// Codes, whole floats within their range, to the place of number `index`, a multiple of 16, of a row.
MHA_INLINE void store_codes(Element element, char* row, int64_t index, const Vec& codes, int count) {
  const CodeRange range = range_of(element);
  // What is stored as bytes of -128 .. 127, or of 0 .. 15.
  const Vec stored = sub(codes, set1(element == Element::kU8 ? 128.0f : element == Element::kI4 ? -8.0f : 0.0f));
  const Bytes16 bytes = flip_bytes(round_to_bytes(stored), flip_of(element));
  if (range.nibbles) {
    if (count == kLanes) return store_nibbles(row + index / 2, bytes);
    char first[kLanes / 2];
    store_nibbles(first, bytes);
    if (count % 2 != 0) first[count / 2] &= 15;
    memcpy(row + index / 2, first, static_cast<size_t>(divide_up(count, 2)));
  } else {
    if (count == kLanes) return store_bytes(row + index, bytes);
    char first[kLanes];
    store_bytes(first, bytes);
    memcpy(row + index, first, static_cast<size_t>(count));
  }
}

// The range of some elements, 0 among them; not `finite` if one is a NaN or infinite.
struct ElementRange {
  float least, greatest;
  bool finite;
};

template <class Elements>
MHA_INLINE ElementRange range_of_elements(const QuantiseArgs& a, const char* row, int64_t begin, int64_t end) {
  Vec least = zero(), greatest = zero(), none = zero();
  for (int64_t c = begin; c < end; c += kLanes) {
    const Vec x = Elements::load(a.src_element, row, c, lanes_of(end - c));
    least = min_or_second(least, x), greatest = max_or_second(greatest, x);
    none = add(none, sub(x, x));
  }
  ElementRange range;
  range.least = -max(sub(zero(), least)), range.greatest = max(greatest);
  range.finite = sum(none) == 0;
  return range;
}

// Rounds a scale to its type, stores it and returns what is stored.
MHA_INLINE float store_scale(Element element, float scale, bool finite, char* p) {
  float stored = scale;
  if (finite && element == Element::kF32) memcpy(p, &scale, sizeof(scale));
  if (finite && element != Element::kF32) {
    store_elements(element, p, 0, set1(scale), 1);
    stored = scale_at(element, p);
    finite = stored - stored == 0;
  }
  if (finite) return stored;
  // The same NaN on every target.
  const uint32_t bits = element == Element::kF16 ? 0x7e00u : element == Element::kBf16 ? 0x7fc0u : 0x7fc00000u;
  memcpy(p, &bits, static_cast<size_t>(bytes_of(element)));
  return __builtin_nanf("");
}

// The scale of elements of this range, not rounded to its type, but no less than what that holds.
MHA_INLINE float scale_for(const ElementRange& e, const CodeRange& range, bool has_zeros, Element element) {
  const bool positive = e.greatest >= -e.least;
  const float size = positive ? e.greatest : -e.least;
  if (!(size >= 0x1p-126f)) return 0;
  const float steps = range.greatest - range.least;
  float scale = range.nibbles ? size / 8.0f : size / 127.0f;
  if (has_zeros) scale = (e.greatest * 0.5f - e.least * 0.5f) / (steps * 0.5f);  // halves: their sum is no infinity
  const float least = element == Element::kF16 ? 0x1p-24f : 0x1p-126f;
  scale = scale > least ? scale : least;
  return range.nibbles && !has_zeros && positive ? -scale : scale;
}

template <class Elements>
MHA_INLINE void quantise_group(const QuantiseArgs& a, const char* src, char* dst, char* scale_place, char* zero_place,
                               int64_t begin, int64_t end) {
  const CodeRange range = range_of(a.dst_element);
  const ElementRange e = range_of_elements<Elements>(a, src, begin, end);
  const float wanted = scale_for(e, range, zero_place != nullptr, a.scale_element);
  const float scale = store_scale(a.scale_element, wanted, e.finite, scale_place);
  const bool usable = scale == scale && scale != 0;
  const float inverse = usable ? 1.0f / scale : 0.0f;
  float zero_code = range.zero;
  if (zero_place != nullptr) {
    const float below = -e.least * inverse, steps = range.greatest - range.least;
    zero_code = usable ? range.least + nearest(below < steps ? below : steps) : range.least;
    *zero_place = static_cast<char>(static_cast<int>(zero_code));
  }
  const Vec factor = set1(inverse), shift = set1(zero_code);
  const Vec low = set1(range.least - zero_code), high = set1(range.greatest - zero_code);
  for (int64_t c = begin; c < end; c += kLanes) {
    const int count = lanes_of(end - c);
    Vec code = zero();
    if (usable) {
      const Vec x = mul(Elements::load(a.src_element, src, c, count), factor);
      code = nearest(max_or_second(min_or_second(x, high), low));
    }
    store_codes(a.dst_element, dst, c, add(code, shift), count);
  }
}

// With scales and zeros that are given.
MHA_NOINLINE void quantise_fixed(const QuantiseArgs& a, int64_t head, const char* src, char* dst) {
  const CodeRange range = range_of(a.dst_element);
  const CodeRows& f = *a.fixed;
  const char* scales = f.scales.data + head * f.scales.stride_h;
  const bool has_zeros = f.zeros.place != ScalePlace::kNone;
  const char* zeros = has_zeros ? f.zeros.data + head * f.zeros.stride_h : nullptr;
  const Vec least = set1(range.least), greatest = set1(range.greatest);
  for (int64_t c = 0; c < a.columns; c += kLanes) {
    const int count = lanes_of(a.columns - c);
    alignas(64) float inverses[kLanes];
    store(inverses, scales_at(f.scales, f.group, scales, c, count));
    for (int l = 0; l < kLanes; ++l) {
      const float scale = inverses[l];
      inverses[l] = scale == scale && scale != 0 ? 1.0f / scale : 0.0f;
    }
    const Vec given = has_zeros ? scales_at(f.zeros, f.group, zeros, c, count) : set1(range.zero);
    // Zeros that are far off leave the least or the greatest code.
    const Vec zeros_here = max_or_second(min_or_second(given, set1(0x1p20f)), set1(-0x1p20f));
    const Vec shift = nearest(zeros_here), fraction = sub(zeros_here, shift);
    const Vec x = load_elements(a.src_element, src, c, count);
    // A NaN becomes 0: the greater and the lesser of it and 0 are both 0.
    const Vec product = mul(x, load(inverses));
    const Vec number = add(max_or_second(product, zero()), min_or_second(product, zero()));
    const Vec low = sub(least, shift), high = sub(greatest, shift);
    const Vec code = nearest(max_or_second(min_or_second(add(number, fraction), high), low));
    store_codes(a.dst_element, dst, c, add(code, shift), count);
  }
}

template <class Elements>
MHA_INLINE void quantise_rows(const QuantiseArgs& a) {
  const int64_t scale_bytes = bytes_of(a.scale_element);
  for (int64_t r = 0; r < a.rows; ++r) {
    const char* src = a.src + r * a.src_stride;
    char *dst = a.dst + r * a.dst_stride, *scale = a.scales + r * a.scale_stride;
    char* zero = a.zeros != nullptr ? a.zeros + r * a.zero_stride : nullptr;
    for (int64_t c = 0; c < a.columns; c += a.group, scale += scale_bytes) {
      quantise_group<Elements>(a, src, dst, scale, zero, c, least(c + a.group, a.columns));
      if (zero != nullptr) ++zero;
    }
  }
}

void quantise(const QuantiseArgs* args) {
  const QuantiseArgs& a = *args;
  if (a.fixed != nullptr) {
    for (int64_t r = 0; r < a.rows; ++r) {
      quantise_fixed(a, a.head + r * a.head_step, a.src + r * a.src_stride, a.dst + r * a.dst_stride);
    }
  } else if (a.src_element == Element::kF32) {
    quantise_rows<FloatElements>(a);
  } else {
    quantise_rows<AnyElements>(a);
  }
}

void widen(const WidenArgs* args) {
  const WidenArgs& a = *args;
  char* dst = a.dst;
  for_each_run(*a.rows, a.head, a.begin, a.count, [&](const TokenRun& run, int64_t done) {
    const char* src = run.row;
    for (int64_t j = 0; j < run.count; ++j, src += run.stride, dst += a.dst_stride) {
      const CodeRow row = code_row(*a.rows, a.head, a.begin + done + j, src);
      for (int64_t c = 0; c < a.columns; c += kLanes) {
        const int count = lanes_of(a.columns - c);
        store_elements(a.dst_element, dst, c, code_values(*a.rows, row, c, count), count);
      }
    }
  });
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
