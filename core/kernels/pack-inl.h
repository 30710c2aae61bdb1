// SPDX-License-Identifier: Apache-2.0
// Packing rows into transposed panels, for weights (rows = output features) and keys (rows = keys).
// Included by all-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

// Up to 16 rows by up to 16 columns at an edge: copied to a padded block first, so that nothing is read beyond the
// matrix.
inline void pack_edge(const float* src, int64_t src_stride, int rows, int columns, float* dst) {
  alignas(64) float block[kLanes * kLanes] = {};
  alignas(64) float transposed[kLanes * kLanes];
  for (int r = 0; r < rows; ++r) memcpy(block + r * kLanes, src + r * src_stride, static_cast<size_t>(columns) * 4);
  for (int c = 0; c < kLanes; c += 4) transpose_16x4(block + c, kLanes, transposed + c * kLanes);
  memcpy(dst, transposed, static_cast<size_t>(columns) * kLanes * 4);
}

inline void pack_panels(const float* src, int64_t src_stride, int64_t rows, int64_t columns, float* dst) {
  for (int64_t r = 0; r < rows; r += kLanes, src += kLanes * src_stride, dst += columns * kLanes) {
    const int count = static_cast<int>(rows - r < kLanes ? rows - r : kLanes);
    int64_t c = 0;
    if (count == kLanes) {
      for (; c + 4 <= columns; c += 4) {
        transpose_16x4(src + c, src_stride, dst + c * kLanes);
        if (c % kLanes == 0 && r + 2 * kLanes <= rows) {  // the next 16 rows: too far apart for the hardware to foresee
          for (int i = kLanes; i < 2 * kLanes; ++i) prefetch(src + i * src_stride + c);
        }
      }
    }
    for (; c < columns; c += kLanes) {
      const int width = static_cast<int>(columns - c < kLanes ? columns - c : kLanes);
      pack_edge(src + c, src_stride, count, width, dst + c * kLanes);
    }
  }
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
