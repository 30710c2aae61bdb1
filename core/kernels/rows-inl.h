// SPDX-License-Identifier: Apache-2.0
// Rows of elements, 16 at a time. Included by algorithms-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

// Reads and writes a row's elements: floats directly, other types through a function that tests the type.
struct FloatElements {
  static MHA_INLINE Vec load(Element, const char* row, int64_t d, int count) {
    const float* at = reinterpret_cast<const float*>(row) + d;
    return count == kLanes ? MHA_TARGET_NS::load(at) : load_first(at, count);
  }
  static MHA_INLINE void store(Element, char* row, int64_t d, const Vec& v, int count) {
    float* at = reinterpret_cast<float*>(row) + d;
    if (count == kLanes) {
      MHA_TARGET_NS::store(at, v);
    } else {
      store_first(at, v, count);
    }
  }
};

struct AnyElements {
  static MHA_INLINE Vec load(Element element, const char* row, int64_t d, int count) {
    return load_elements(element, row, d, count);
  }
  static MHA_INLINE void store(Element element, char* row, int64_t d, const Vec& v, int count) {
    store_elements(element, row, d, v, count);
  }
};

// The first `count` of 16 floats; mostly all 16.
MHA_INLINE Vec load_some(const float* p, int count) { return count == kLanes ? load(p) : load_first(p, count); }

MHA_INLINE int lanes_of(int64_t left) { return static_cast<int>(left < kLanes ? left : kLanes); }

}  // namespace
}  // namespace mha::MHA_TARGET_NS
