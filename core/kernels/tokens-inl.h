// SPDX-License-Identifier: Apache-2.0
// Keys and values copied or packed from where they are stored. Included by algorithms-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

inline int64_t padded(int64_t width) { return round_up(width, kLanes); }

// dst[j][d] = columns [column, column + width), `column` a multiple of 16, of tokens [begin, begin + count), count <= 16, widened; zeros elsewhere.
// Rows of dst are padded(width) apart. The last columns, less than a vector, go through a masked vector: a memcpy of so
// few is a call, and a load of what it just wrote waits for it.
MHA_NOINLINE void copy_block(const TokenRows& t, int64_t head, int64_t begin, int64_t count, int64_t column,
                             int64_t width, float* dst) {
  const int64_t pitch = padded(width), whole = width / kLanes * kLanes;
  const int rest = static_cast<int>(width - whole);
  for_each_run(t, head, begin, count, [&](const TokenRun& run, int64_t done) {
    const char* src = run.row + (is_code(t.element) ? 0 : column * bytes_of(t.element));
    float* at = dst + done * pitch;
    for (int64_t j = 0; j < run.count; ++j, src += run.stride, at += pitch) {
      if (is_code(t.element)) {
        widen_codes(t, code_row(t, head, begin + done + j, src), column, width, at);
        continue;
      }
      if (t.element != Element::kF32) {
        if (rest > 0) store(at + whole, zero());
        widen_row(t.element, src, width, at);
        continue;
      }
      const float* row = reinterpret_cast<const float*>(src);
      if (whole > 0) memcpy(at, row, static_cast<size_t>(whole) * sizeof(float));
      if (rest > 0) copy_first(at + whole, row + whole, rest);
    }
  });
  memset(dst + count * pitch, 0, static_cast<size_t>((kLanes - count) * pitch) * sizeof(float));
}

// Packs tokens [begin, begin + count) into panels. Floats are packed from where they are stored. 16 tokens that cross a
// page, and tokens of other element types, are copied and widened to `block` first, 16 rows of padded(width). kRounds: the
// panels hold floats of bf16's precision.
template <bool kRounds>
inline void pack_float_keys(const TokenRows& t, int64_t begin, int64_t count, int64_t width, float* block, float* dst) {
  for (int64_t done = 0; done < count;) {
    const TokenRun run = run_at(t, 0, begin + done, count - done);
    int64_t packed = done + run.count == count ? run.count : run.count / kLanes * kLanes;
    if (packed > 0 && t.element == Element::kF32 && !kRounds) {
      pack_panels(reinterpret_cast<const float*>(run.row), run.stride / kFloatBytes, packed, width, dst + done * width);
    } else {
      packed = least(count - done, kLanes);
      copy_block(t, 0, begin + done, packed, 0, width, block);
      if (kRounds && t.element != Element::kBf16) at_bf16(block, packed * padded(width));
      pack_panels(block, padded(width), packed, width, dst + done * width);
    }
    done += packed;
  }
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
