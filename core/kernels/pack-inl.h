// SPDX-License-Identifier: Apache-2.0
// Packing rows into transposed panels, for weights (rows = output features) and keys (rows = keys).
// Included by all-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

MHA_INLINE void pack_16x4(const float* src, int64_t stride, float* dst) {
  Vec columns[4];
  transpose_16x4(src, stride, columns);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) store(dst + c * kLanes, columns[c]);
}

// Fewer than 16 rows, 16 columns: through a padded block, so that nothing is read beyond the matrix.
inline void pack_few_rows(const float* src, int64_t src_stride, int rows, float* dst) {
  alignas(64) float block[kLanes * kLanes] = {};
  for (int r = 0; r < rows; ++r) store(block + r * kLanes, load(src + r * src_stride));
  for (int c = 0; c < kLanes; c += 4) pack_16x4(block + c, kLanes, dst + c * kLanes);
}

// A corner of few columns, an element at a time.
inline void pack_corner(const float* src, int64_t src_stride, int rows, int columns, float* dst) {
  for (int c = 0; c < columns; ++c) {
    store(dst + c * kLanes, zero());
    for (int r = 0; r < rows; ++r) dst[c * kLanes + r] = src[r * src_stride + c];
  }
}

inline void pack_panels(const float* src, int64_t src_stride, int64_t rows, int64_t columns, float* dst) {
  for (int64_t r = 0; r < rows; r += kLanes, src += kLanes * src_stride, dst += columns * kLanes) {
    const int count = static_cast<int>(rows - r < kLanes ? rows - r : kLanes);
    int64_t c = 0;
    if (count == kLanes) {
      for (; c + 4 <= columns; c += 4) {
        pack_16x4(src + c, src_stride, dst + c * kLanes);
        if (c % kLanes == 0 && r + 2 * kLanes <= rows) {  // the next 16 rows: too far apart for the hardware to foresee
          for (int i = kLanes; i < 2 * kLanes; ++i) prefetch(src + i * src_stride + c);
        }
      }
    }
    for (; c + kLanes <= columns; c += kLanes) pack_few_rows(src + c, src_stride, count, dst + c * kLanes);
    pack_corner(src + c, src_stride, count, static_cast<int>(columns - c), dst + c * kLanes);
  }
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
