// SPDX-License-Identifier: Apache-2.0
// RMS norm and rotation of rows. Included by all-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

// The first `count` of 16 elements, mostly all of them.
MHA_INLINE Vec load_some(const float* p, int count) { return count == kLanes ? load(p) : load_first(p, count); }
MHA_INLINE void store_some(float* p, const Vec& v, int count) {
  if (count == kLanes) {
    store(p, v);
  } else {
    store_first(p, v, count);
  }
}

// What multiplies a row's elements: 1 / sqrt(mean of squares + epsilon). Squares are summed lane by lane, 16 elements
// at a time, then folded.
inline float rms_factor(const float* row, int64_t width, float epsilon) {
  Vec squares = zero();
  for (int64_t d = 0; d < width; d += kLanes) {
    const Vec x = load_some(row + d, static_cast<int>(width - d < kLanes ? width - d : kLanes));
    squares = fma(x, x, squares);
  }
  const float mean = sum(squares) / static_cast<float>(width);
  return inverse_square_root(mean + epsilon);
}

// `count` elements from `d` on, after the norm.
template <bool kNorm>
MHA_INLINE Vec normed(const PrepareArgs& a, const float* row, const Vec& factor, int64_t d, int count) {
  const Vec x = load_some(row + d, count);
  if (!kNorm) return x;
  const Vec scaled = mul(x, factor);
  return a.weight != nullptr ? mul(scaled, load_some(a.weight + d, count)) : scaled;
}

template <bool kNorm>
inline void prepare_row(const PrepareArgs& a, const float* row, float* output) {
  const Vec factor = set1(kNorm ? rms_factor(row, a.width, a.epsilon) : 1.0f);
  const auto lanes = [](int64_t left) MHA_ALWAYS_INLINE { return static_cast<int>(left < kLanes ? left : kLanes); };
  if (a.interleaved) {
    for (int64_t d = 0; d < a.dims; d += kLanes) {
      const int count = lanes(a.dims - d);
      const Vec x = normed<kNorm>(a, row, factor, d, count);
      const Vec turned = mul(swap_pairs(x), load_some(a.sin + d, count));
      store_some(output + d, fma(x, load_some(a.cos + d, count), turned), count);
    }
  } else {
    const int64_t half = a.dims / 2;
    for (int64_t d = 0; d < half; d += kLanes) {
      const int count = lanes(half - d);
      const Vec x1 = normed<kNorm>(a, row, factor, d, count), x2 = normed<kNorm>(a, row, factor, half + d, count);
      const Vec c = load_some(a.cos + d, count), s = load_some(a.sin + d, count);
      store_some(output + d, fma(x1, c, sub(zero(), mul(x2, s))), count);
      store_some(output + half + d, fma(x2, c, mul(x1, s)), count);
    }
  }
  for (int64_t d = a.dims; d < a.width; d += kLanes) {
    const int count = lanes(a.width - d);
    store_some(output + d, normed<kNorm>(a, row, factor, d, count), count);
  }
}

inline void prepare_rows(const PrepareArgs* args) {
  const PrepareArgs& a = *args;
  for (int64_t r = 0; r < a.count; ++r) {
    (a.norm ? prepare_row<true> : prepare_row<false>)(a, a.input + r * a.input_stride, a.output + r * a.output_stride);
  }
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
