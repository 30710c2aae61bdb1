// SPDX-License-Identifier: Apache-2.0
// Codes that decoding does not read in place, as codes of 8 bits that it does: ggml's blocks, whose scales are between their
// codes, and nibbles with zeros. 16 tokens at a time are written to a block in L1. Included by algorithms-inl.h, once per
// target.
namespace mha::MHA_TARGET_NS {
namespace {

// Whether decoding makes codes of 8 bits of them, 16 tokens at a time: ggml's blocks, and nibbles with zeros.
inline bool gathers_codes(const TokenRows& t, int64_t width) {
  const bool nibbles = is_nibble(t.element) && t.codes->zeros.place != ScalePlace::kNone;
  return (has_scales_inside(t.element) || nibbles) && keeps_scales(t, width);
}

// Codes of 8 bits that gather_codes makes: rows [16], each with its scales.
struct GatheredCodes {
  char* rows;
  int64_t pitch;  // bytes from row to row
  float* scales;  // [16][groups]; floats behind them are written, too
  int64_t groups;
  int64_t near, far;  // bytes from a row that is read to the ones to prefetch into L1 and into L2; 0: none
};

// One row of ggml's blocks of 32, `Q` their type, and their scales as they are stored.
template <class Q>
MHA_INLINE void gather_blocks(const char* row, int64_t groups, char* dst, uint16_t* scales) {
  for (int64_t g = 0; g < groups; ++g, row += Q::kBlockBytes, dst += 2 * kLanes) {
    memcpy(scales + g, row, sizeof(uint16_t));
    Bytes16 first, second;
    Q::bytes(row, &first, &second);
    store_both(dst, first, second);
  }
}

// One row of nibbles, less the zeros of their groups, which are 8 more for signed ones. False: a zero is so far away that
// the difference may have more than 8 bits.
MHA_INLINE bool gather_nibbles(const char* row, int64_t width, int64_t group, const float* zeros, float more,
                               char* dst) {
  bool fits = true;
  for (int64_t d = 0; d < width; ++zeros) {
    const int64_t end = least(width, d + group);
    const int zero = static_cast<int>(*zeros + more);
    fits = fits && zero >= 15 - 127 && zero <= 128;
    const Bytes16 all = set1_bytes(zero);
    for (; d + 2 * kLanes <= end; d += 2 * kLanes) {
      store_both(dst + d, sub_bytes(load_nibbles(row + d / 2), all),
                 sub_bytes(load_nibbles(row + d / 2 + kLanes / 2), all));
    }
    for (; d < end; d += kLanes) store_bytes(dst + d, sub_bytes(load_nibbles(row + d / 2), all));
  }
  return fits;
}

// Codes of `count` tokens, for which gathers_codes() holds, as signed codes of 8 bits without zeros, which stand for the same
// floats; width: a multiple of 16. Rows and scales beyond `count` are zeros. False: their zeros are too far away.
MHA_NOINLINE bool gather_codes(const TokenRows& t, int64_t head, int64_t token, int64_t count, int64_t width,
                               const GatheredCodes& out) {
  alignas(64) uint16_t halves[kScalesOfBlock] = {};
  const int64_t bytes = row_bytes(t.element, width), groups = out.groups;
  const CodeRows& codes = *t.codes;
  const float more = t.element == Element::kI4 ? 8 : 0;
  TokenScales zeros;
  bool fits = true;
  for_each_run(t, head, token, count, [&](const TokenRun& run, int64_t done) MHA_ALWAYS_INLINE {
    const char* row = run.row;
    if (!has_scales_inside(t.element)) {
      const int tokens = static_cast<int>(run.count);
      load_scales(t, codes.scales, head, token + done, tokens, groups, out.scales + done * groups);
      load_scales(t, codes.zeros, head, token + done, tokens, groups, zeros.of + done * groups);
    }
    for (int64_t j = done; j < done + run.count; ++j, row += run.stride) {
      for (int64_t b = 0; b < bytes; b += kLine) prefetch(row + b + out.near), prefetch_to_l2(row + b + out.far);
      char* dst = out.rows + j * out.pitch;
      if (t.element == Element::kQ8_0) {
        gather_blocks<Q8>(row, groups, dst, halves + j * groups);
      } else if (t.element == Element::kQ4_0) {
        gather_blocks<Q4>(row, groups, dst, halves + j * groups);
      } else {
        fits = gather_nibbles(row, width, codes.group, zeros.of + j * groups, more, dst) && fits;
      }
    }
  });
  if (has_scales_inside(t.element)) {
    for (int64_t n = 0; n < kLanes * groups; n += kLanes)
      store(out.scales + n, F16::load(reinterpret_cast<const char*>(halves + n)));
  }
  if (count == kLanes) return fits;
  memset(out.rows + count * out.pitch, 0, static_cast<size_t>((kLanes - count) * out.pitch));
  memset(out.scales + count * groups, 0, static_cast<size_t>((kLanes - count) * groups) * sizeof(float));
  return fits;
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
