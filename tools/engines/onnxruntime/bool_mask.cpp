// SPDX-License-Identifier: Apache-2.0
// Masks of booleans that say something simpler (attention.h, set_bool_mask). Exporters make them from causality and
// padding.
#include <cstring>

#include "attention.h"

namespace host {
namespace {

// The number of keys that a row shows if it shows the first ones and no others; -1 if it does not.
std::int64_t visible_prefix(const std::uint8_t* row, std::int64_t keys) {
  if (keys == 0) return 0;
  const auto size = static_cast<std::size_t>(keys);
  const void* zero = std::memchr(row, 0, size);
  if (!zero) return keys;
  const std::int64_t count = static_cast<const std::uint8_t*>(zero) - row;
  const auto rest = static_cast<std::size_t>(keys - count - 1);
  return rest == 0 || std::memcmp(row + count, row + count + 1, rest) == 0 ? count : -1;
}

// What the rows of an item show: all of them the first `count` keys, or row i the first i + 1 + `offset`, or else.
struct Pattern {
  bool same = true, causal = true;
  std::int64_t count = 0, offset = 0;
};

Pattern pattern(const std::uint8_t* rows, std::int64_t queries, std::int64_t stride, std::int64_t keys) {
  Pattern result;
  const auto clamped = [keys](std::int64_t count) { return count < 0 ? 0 : count > keys ? keys : count; };
  for (std::int64_t i = 0; i < queries; ++i) {
    const std::int64_t count = visible_prefix(rows + i * stride, keys);
    if (count < 0) return {false, false, 0, 0};
    if (i == 0) {
      result.count = count;
      result.offset = count - 1;
    }
    result.same = result.same && count == result.count;
    result.causal = result.causal && count == clamped(i + 1 + result.offset);
    if (!result.same && !result.causal) return result;
  }
  return result;
}

}  // namespace

void set_bool_mask(Attention& attention, const Tensor& mask, const MaskStrides& strides, bool free_offset) {
  const mha_attention_args& args = attention.args;
  bool same = strides.h == 0 && strides.k == 1;
  const std::int64_t keys = same ? mask.dim(mask.rank - 1) : 0;
  bool causal = same && free_offset && strides.q != 0;
  std::vector<std::int64_t> counts, offsets;
  for (std::int64_t b = 0; (same || causal) && b < args.batch; ++b) {
    const std::uint8_t* rows = mask.as<std::uint8_t>() + b * strides.b;
    const Pattern item = pattern(rows, strides.q == 0 ? 1 : args.query_len, strides.q, keys);
    same = same && item.same;
    causal = causal && item.causal;
    counts.push_back(item.count);
    offsets.push_back(item.offset);
  }
  if (same) {
    std::vector<std::int64_t>& lengths = attention.key_lengths;
    bool hides = false;
    for (std::size_t b = 0; b < counts.size(); ++b) hides = hides || counts[b] < (lengths.empty() ? keys : lengths[b]);
    if (!hides) return;
    if (lengths.empty()) lengths.assign(counts.size(), keys);
    for (std::size_t b = 0; b < counts.size(); ++b) lengths[b] = counts[b] < lengths[b] ? counts[b] : lengths[b];
  } else if (causal) {
    attention.args.causal = 1;
    attention.offsets = offsets;
  } else {
    attention.masks.bool_mask = {mask.as<std::uint8_t>(), strides.b, strides.h, strides.q, strides.k};
  }
}

}  // namespace host
