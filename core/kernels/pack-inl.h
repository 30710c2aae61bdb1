// SPDX-License-Identifier: Apache-2.0
// Packing rows into transposed panels, for weights (rows = output features) and keys (rows = keys).
// Included by algorithms-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

MHA_INLINE void pack_16x4(const float* src, int64_t stride, float* dst) {
  Vec columns[4];
  transpose_16x4(src, stride, columns);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) store(dst + c * kLanes, columns[c]);
}

// Fewer than 16 rows of 16 columns: through a padded block, so that nothing is read beyond the matrix.
MHA_NOINLINE void pack_few_rows(const float* src, int64_t src_stride, int rows, float* dst) {
  alignas(64) float block[kLanes * kLanes] = {};
  for (int r = 0; r < rows; ++r) store(block + r * kLanes, load(src + r * src_stride));
  for (int c = 0; c < kLanes; c += 4) pack_16x4(block + c, kLanes, dst + c * kLanes);
}

// The last few columns, an element at a time.
MHA_NOINLINE void pack_corner(const float* src, int64_t src_stride, int rows, int columns, float* dst) {
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
        if (c % kLanes == 0 && r + 2 * kLanes <= rows) {  // the next 16 rows: too far apart for the hardware prefetcher
          for (int i = kLanes; i < 2 * kLanes; ++i) prefetch(src + i * src_stride + c);
        }
      }
    }
    for (; c + kLanes <= columns; c += kLanes) pack_few_rows(src + c, src_stride, count, dst + c * kLanes);
    pack_corner(src + c, src_stride, count, static_cast<int>(columns - c), dst + c * kLanes);
  }
}

inline void convert(const ConvertArgs* args) {
  const ConvertArgs& a = *args;
  for (int64_t r = 0; r < a.rows; ++r) {
    const char* src = a.src + r * a.src_stride;
    char* dst = a.dst + r * a.dst_stride;
    if (a.src_element == a.dst_element) {
      memcpy(dst, src, static_cast<size_t>(a.columns * bytes_of(a.src_element)));
    } else if (a.dst_element == Element::kF32) {
      widen_row(a.src_element, src, a.columns, reinterpret_cast<float*>(dst));
    } else if (a.src_element == Element::kF32) {
      round_row(a.dst_element, reinterpret_cast<const float*>(src), a.columns, dst);
    } else {
      alignas(64) float row[16 * kLanes];
      for (int64_t c = 0; c < a.columns; c += 16 * kLanes) {
        const int64_t count = least(a.columns - c, 16 * kLanes);
        widen_row(a.src_element, src + c * bytes_of(a.src_element), count, row);
        round_row(a.dst_element, row, count, dst + c * bytes_of(a.dst_element));
      }
    }
  }
}

inline void pack_weights(const ConvertArgs* args) {
  const ConvertArgs& a = *args;
  if (a.src_element == Element::kF32 && a.dst_element == Element::kF32) {
    pack_panels(reinterpret_cast<const float*>(a.src), a.src_stride / static_cast<int64_t>(sizeof(float)), a.rows,
                a.columns, reinterpret_cast<float*>(a.dst));
    return;
  }
  constexpr int64_t kColumns = 64;  // at a time
  alignas(64) float block[kLanes * kColumns], panel[kColumns * kLanes];
  for (int64_t r = 0; r < a.rows; r += kLanes) {
    const int64_t rows = least(a.rows - r, kLanes);
    for (int64_t c = 0; c < a.columns; c += kColumns) {
      const int64_t columns = least(a.columns - c, kColumns);
      for (int64_t i = 0; i < rows; ++i) {
        widen_row(a.src_element, a.src + (r + i) * a.src_stride + c * bytes_of(a.src_element), columns,
                  block + i * kColumns);
      }
      pack_panels(block, kColumns, rows, columns, panel);
      round_row(a.dst_element, panel, columns * kLanes, a.dst + (r * a.columns + c * kLanes) * bytes_of(a.dst_element));
    }
  }
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
