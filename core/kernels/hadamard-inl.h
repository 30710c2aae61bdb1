// SPDX-License-Identifier: Apache-2.0
// Walsh-Hadamard rotation of rows. Included by algorithms-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

// One stage over pairs of lanes: the lanes without bit kDistance become the sums of both, the others the differences.
template <int kDistance>
MHA_INLINE Vec add_and_subtract(const Vec& x) {
  constexpr uint32_t kUpper[] = {0, 0xaaaa, 0xcccc, 0, 0xf0f0, 0, 0, 0, 0xff00};
  const Vec other = exchange_lanes<kDistance>(x);
  return select_bits(kUpper[kDistance], sub(other, x), add(other, x));
}

// A row of whole vectors, in floats of the stack; the source may be the destination.
template <class Elements>
MHA_INLINE void hadamard_row(const HadamardArgs& a, const char* src, char* dst) {
  alignas(64) float row[kMostHadamard];
  for (int64_t d = 0; d < a.columns; d += kLanes) {
    const Vec x = Elements::load(a.src_element, src, d, kLanes);
    store(row + d, add_and_subtract<8>(add_and_subtract<4>(add_and_subtract<2>(add_and_subtract<1>(x)))));
  }
  for (int64_t distance = kLanes; distance < a.block; distance *= 2) {
    for (int64_t first = 0; first < a.columns; first += 2 * distance) {
      for (int64_t d = first; d < first + distance; d += kLanes) {
        const Vec x = load(row + d), y = load(row + distance + d);
        store(row + d, add(x, y)), store(row + distance + d, sub(x, y));
      }
    }
  }
  const Vec factor = set1(a.factor);
  for (int64_t d = 0; d < a.columns; d += kLanes) {
    Elements::store(a.dst_element, dst, d, mul(load(row + d), factor), kLanes);
  }
}

MHA_NOINLINE void hadamard_float_row(const HadamardArgs& a, const char* src, char* dst) {
  hadamard_row<FloatElements>(a, src, dst);
}
MHA_COLD void hadamard_any_row(const HadamardArgs& a, const char* src, char* dst) {
  hadamard_row<AnyElements>(a, src, dst);
}

inline void hadamard_rows(const HadamardArgs* args) {
  const HadamardArgs& a = *args;
  const bool floats = a.src_element == Element::kF32 && a.dst_element == Element::kF32;
  const auto transform = floats ? hadamard_float_row : hadamard_any_row;
  for (int64_t r = 0; r < a.rows; ++r) transform(a, a.src + r * a.src_stride, a.dst + r * a.dst_stride);
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
