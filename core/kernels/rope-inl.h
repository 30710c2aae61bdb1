// SPDX-License-Identifier: Apache-2.0
// RMS norm and rotation of rows. Included by algorithms-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

// The factor of a row's elements: 1 / sqrt(mean of squares + epsilon). Squares are summed lane by lane, 16 elements at
// a time, then folded.
template <class Elements>
MHA_INLINE float rms_factor(const NormRopeArgs& a, const char* row) {
  Vec squares = zero();
  for (int64_t d = 0; d < a.width; d += kLanes) {
    const Vec x = Elements::load(a.input_element, row, d, lanes_of(a.width - d));
    squares = fma(x, x, squares);
  }
  const float mean = sum(squares) / static_cast<float>(a.width);
  return inverse_square_root(mean + a.epsilon);
}

// `count` elements from `d` on, after the norm.
template <bool kNorm, class Elements>  // kNorm false: there is no norm
MHA_INLINE Vec normed(const NormRopeArgs& a, const char* row, const Vec& factor, int64_t d, int count) {
  const Vec x = Elements::load(a.input_element, row, d, count);
  if (!kNorm || !a.norm) return x;
  const Vec scaled = mul(x, factor);
  return a.weight != nullptr ? mul(scaled, load_some(a.weight + d, count)) : scaled;
}

template <bool kNorm, class Elements>
MHA_INLINE void norm_rope_row(const NormRopeArgs& a, const char* row, char* output) {
  const Vec factor = set1(kNorm && a.norm ? rms_factor<Elements>(a, row) : 1.0f);
  if (a.interleaved) {
    for (int64_t d = 0; d < a.dims; d += kLanes) {
      const int count = lanes_of(a.dims - d);
      const Vec x = normed<kNorm, Elements>(a, row, factor, d, count);
      const Vec turned = mul(swap_pairs(x), load_some(a.sin + d, count));
      Elements::store(a.output_element, output, d, fma(x, load_some(a.cos + d, count), turned), count);
    }
  } else {
    const int64_t half = a.dims / 2;
    for (int64_t d = 0; d < half; d += kLanes) {
      const int count = lanes_of(half - d);
      const Vec x1 = normed<kNorm, Elements>(a, row, factor, d, count);
      const Vec x2 = normed<kNorm, Elements>(a, row, factor, half + d, count);
      const Vec c = load_some(a.cos + d, count), s = load_some(a.sin + d, count);
      Elements::store(a.output_element, output, d, fma(x1, c, sub(zero(), mul(x2, s))), count);
      Elements::store(a.output_element, output, half + d, fma(x2, c, mul(x1, s)), count);
    }
  }
  for (int64_t d = a.dims; d < a.width; d += kLanes) {
    const int count = lanes_of(a.width - d);
    Elements::store(a.output_element, output, d, normed<kNorm, Elements>(a, row, factor, d, count), count);
  }
}

template <bool kNorm>
MHA_NOINLINE void norm_rope_float_row(const NormRopeArgs& a, const char* row, char* output) {
  norm_rope_row<kNorm, FloatElements>(a, row, output);
}
MHA_COLD void norm_rope_any_row(const NormRopeArgs& a, const char* row, char* output) {
  norm_rope_row<true, AnyElements>(a, row, output);
}

inline void norm_rope_rows(const NormRopeArgs* args) {
  const NormRopeArgs& a = *args;
  if (!a.norm && a.dims == 0) {  // a conversion; within one type a copy of all bits, signalling NaNs too
    if (a.input == a.output) return;
    ConvertArgs rows = {};
    rows.src = a.input, rows.src_stride = a.input_stride, rows.src_element = a.input_element;
    rows.dst = a.output, rows.dst_stride = a.output_stride, rows.dst_element = a.output_element;
    rows.rows = a.count, rows.columns = a.width;
    return convert(&rows);
  }
  const bool floats = a.input_element == Element::kF32 && a.output_element == Element::kF32;
  const auto norm_rope = !floats ? norm_rope_any_row : a.norm ? norm_rope_float_row<true> : norm_rope_float_row<false>;
  for (int64_t r = 0; r < a.count; ++r) norm_rope(a, a.input + r * a.input_stride, a.output + r * a.output_stride);
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
