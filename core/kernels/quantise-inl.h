// SPDX-License-Identifier: Apache-2.0
// Rows of floats rounded to codes, and back: QuantiseArgs and WidenArgs. Included by algorithms-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

struct CodeRange {
  float least, greatest;  // codes
  bool nibbles;
};

constexpr CodeRange range_of(Element element) {
  switch (element) {
    case Element::kI8:
      return {-128, 127, false};
    case Element::kU8:
      return {0, 255, false};
    case Element::kI4:
      return {-8, 7, true};
    default:
      return {0, 15, true};
  }
}

// To even; of numbers that are no more than a few hundred.
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

// A group of a row, and where its scale and zero go.
struct QuantiseGroup {
  const char* src;
  char *dst, *scale, *zero;
  int64_t begin, end;  // elements of the row
};

// Groups whose scales are found together: a lane for each.
struct QuantiseBatch {
  QuantiseGroup groups[kLanes];
  int count;
  // What the 16 lanes of each group saw: its greatest elements, the greatest of -x, both 0 at least, and a sum that is 0
  // or, where an element is not finite, a NaN.
  alignas(64) float greatest[kLanes * kLanes], negated[kLanes * kLanes], unsound[kLanes * kLanes];
  alignas(64) float inverses[kLanes], zeros[kLanes];
};

template <class Elements>
MHA_INLINE void see_group(const QuantiseArgs& a, QuantiseBatch* batch, int n) {
  const QuantiseGroup& g = batch->groups[n];
  Vec greatest = zero(), negated = zero(), unsound = zero();
  for (int64_t c = g.begin; c < g.end; c += kLanes) {
    const Vec x = Elements::load(a.src_element, g.src, c, lanes_of(g.end - c));
    greatest = max_or_second(greatest, x), negated = max_or_second(negated, sub(zero(), x));
    unsound = add(unsound, sub(x, x));
  }
  store(batch->greatest + n * kLanes, greatest), store(batch->negated + n * kLanes, negated);
  store(batch->unsound + n * kLanes, unsound);
}

// The scales of the batch, rounded to their type and stored; inverses (0: all codes are the zero) and zeros.
MHA_NOINLINE void find_scales(const QuantiseArgs& a, QuantiseBatch* batch) {
  const CodeRange range = range_of(a.dst_element);
  const Vec greatest = max_rows(batch->greatest), below = max_rows(batch->negated);
  const Vec size = max_or_second(greatest, below);
  const float steps = range.greatest - range.least;
  Vec scale = divide(size, set1(range.nibbles ? 8.0f : 127.0f));
  if (a.zeros != nullptr) {  // halves: their sum is no infinity
    scale = divide(add(mul(greatest, set1(0.5f)), mul(below, set1(0.5f))), set1(steps * 0.5f));
  }
  scale = max_or_second(scale, set1(a.scale_element == Element::kF16 ? 0x1p-24f : 0x1p-126f));
  if (range.nibbles && a.zeros == nullptr) scale = select_greater(below, greatest, scale, sub(zero(), scale));
  scale = select_greater(size, zero(), scale, zero());

  const int64_t bytes = bytes_of(a.scale_element);
  alignas(64) char stored[kLanes * sizeof(float)];
  store_elements(a.scale_element, stored, 0, scale, kLanes);
  scale = load_elements(a.scale_element, stored, 0, kLanes);
  // Sums that are 0, not a NaN: all elements and the stored scale are finite.
  const Vec sound = add(sum_rows(batch->unsound), sub(scale, scale));
  const Vec inverse = select_greater(set1(1.0f), absolute(sound), inverse_or_zero(scale), zero());
  store(batch->inverses, inverse);
  alignas(64) float sounds[kLanes];
  store(sounds, sound);
  // The same NaN on every target.
  const uint32_t nan = a.scale_element == Element::kF16    ? 0x7e00u
                       : a.scale_element == Element::kBf16 ? 0x7fc0u
                                                           : 0x7fc00000u;
  for (int n = 0; n < batch->count; ++n) {
    const void* from = sounds[n] == 0 ? static_cast<const void*>(stored + n * bytes) : &nan;
    memcpy(batch->groups[n].scale, from, static_cast<size_t>(bytes));
  }
  if (a.zeros == nullptr) return store(batch->zeros, set1(own_zero(a.dst_element)));
  const Vec moved = nearest(min_or_second(mul(below, inverse), set1(steps)));
  const Vec codes = add(set1(range.least), select_greater(inverse, zero(), moved, zero()));
  store(batch->zeros, codes);
  for (int n = 0; n < batch->count; ++n) {
    *batch->groups[n].zero = static_cast<char>(static_cast<int>(batch->zeros[n]));
  }
}

template <class Elements>
MHA_INLINE void round_group(const QuantiseArgs& a, const CodeRange& range, const QuantiseBatch& batch, int n) {
  const QuantiseGroup& g = batch.groups[n];
  const float inverse = batch.inverses[n], zero_code = batch.zeros[n];
  const Vec factor = set1(inverse), shift = set1(zero_code);
  const Vec low = set1(range.least - zero_code), high = set1(range.greatest - zero_code);
  for (int64_t c = g.begin; c < g.end; c += kLanes) {
    const int count = lanes_of(g.end - c);
    Vec code = zero();
    if (inverse != 0) {  // infinities times 0 would be no code
      const Vec x = mul(Elements::load(a.src_element, g.src, c, count), factor);
      code = nearest(max_or_second(min_or_second(x, high), low));
    }
    store_codes(a.dst_element, g.dst, c, add(code, shift), count);
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
    const Vec given = has_zeros ? scales_at(f.zeros, f.group, zeros, c, count) : set1(own_zero(a.dst_element));
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
MHA_NOINLINE void quantise_rows(const QuantiseArgs& a) {
  const CodeRange range = range_of(a.dst_element);
  const int64_t scale_bytes = bytes_of(a.scale_element), groups = divide_up(a.columns, a.group);
  QuantiseBatch batch;
  int64_t row = 0, group = 0;
  for (int64_t left = a.rows * groups; left > 0; left -= batch.count) {
    batch.count = static_cast<int>(least(left, kLanes));
    for (int n = 0; n < batch.count; ++n) {
      QuantiseGroup& g = batch.groups[n];
      g.src = a.src + row * a.src_stride, g.dst = a.dst + row * a.dst_stride;
      g.scale = a.scales + row * a.scale_stride + group * scale_bytes;
      g.zero = a.zeros != nullptr ? a.zeros + row * a.zero_stride + group : nullptr;
      g.begin = group * a.group, g.end = least(g.begin + a.group, a.columns);
      see_group<Elements>(a, &batch, n);
      if (++group == groups) group = 0, ++row;
    }
    for (int n = batch.count; n < kLanes; ++n) {
      for (float* seen : {batch.greatest, batch.negated, batch.unsound}) store(seen + n * kLanes, zero());
    }
    find_scales(a, &batch);
    for (int n = 0; n < batch.count; ++n) round_group<Elements>(a, range, batch, n);
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
