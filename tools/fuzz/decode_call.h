// SPDX-License-Identifier: Apache-2.0
// fuzz_decode's calls of mha_attention over a cache: what they are made of, and how their results are compared.
#ifndef MHA_TOOLS_FUZZ_DECODE_CALL_H
#define MHA_TOOLS_FUZZ_DECODE_CALL_H

#include <fuzzer/FuzzedDataProvider.h>
#include <mha/mha.hpp>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "tools/fuzz/elements.h"
#include "tools/fuzz/targets.h"

namespace mha::fuzz {

constexpr float kPoison = -1234.5F;
// Scores reach some 40 (norm of keys and queries), alibi 100; float's rounding of those enters the weights.
constexpr double kF32Bound = 1e-4;

using Floats = std::vector<float>;
using Sizes = std::vector<std::int64_t>;

template <class T>
Buffer<T> exact(const std::vector<T>& values) {
  Buffer<T> buffer(static_cast<std::int64_t>(values.size()));
  std::copy(values.begin(), values.end(), buffer.data());
  return buffer;
}

// The offsets of items of these lengths.
inline Sizes running_sums(const Sizes& sizes) {
  Sizes sums = {0};
  for (const std::int64_t size : sizes) sums.push_back(sums.back() + size);
  return sums;
}

// One attention call over some sequences, with all that it points to: floats that the types can keep.
struct Call {
  AttentionCall args;  // its pointers are set where it is used
  bool is_packed = false, has_rope = false;
  Sizes sequences, counts, offsets, lengths, first_positions, prefix_lengths, positions;
  Floats query, added;
#define MHA_HEAD_FLOATS(field, count) Floats field;
#include "core/kernels/score_mods.def"
  mha_dtype query_dtype = MHA_F32, output_dtype = MHA_F32, added_dtype = MHA_F32;
  std::vector<std::uint8_t> mask;
  mha_rope rope{};
  mha_norm norm{};

  // Of the first query of item b.
  std::int64_t position(std::size_t b) const {
    if (args.positions.align == MHA_ALIGN_START) return 0;
    if (args.positions.align == MHA_ALIGN_OFFSET)
      return first_positions.empty() ? args.positions.offset : first_positions[b];
    return lengths[b] - counts[b];
  }
  // Item b alone, without its tensors: what the reference understands.
  AttentionCall item(std::size_t b) const {
    AttentionCall item = args;
    item.batch = 1;
    item.query_len = counts[b];
    item.key_len = lengths[b];
    item.cache = nullptr;
    if (!first_positions.empty()) item.positions.offsets = first_positions.data() + b;
    if (!prefix_lengths.empty()) item.masks.prefix_lengths = prefix_lengths.data() + b;
    if (!mask.empty()) item.masks.bool_mask.data = mask.data();
    if (!added.empty()) item.masks.add_mask2.data = added.data();
#define MHA_HEAD_FLOATS(field, count) \
  if (!field.empty()) item.score_mods.field = field.data();
#include "core/kernels/score_mods.def"
    return item;
  }
};

struct Results {
  Elements output;
  Buffer<float> lse;
};

// With the status of the call.
struct Called {
  Results results;
  Status status;
};

// Over tensors of the call's types, or over floats.
inline Called call(const Context& context, const Call& c, bool floats) {
  const std::int64_t rows = c.offsets.back() * c.args.num_heads;
  const mha_dtype output_dtype = floats ? MHA_F32 : c.output_dtype;
  Called made{{Elements(output_dtype, rows * c.args.value_head_dim, kPoison), Buffer<float>(rows)}, {}};
  Results& results = made.results;
  std::fill_n(results.lse.data(), results.lse.size(), kPoison);
  const Elements query(floats ? MHA_F32 : c.query_dtype, c.query.data(), c.query.size());
  const Elements added(floats ? MHA_F32 : c.added_dtype, c.added.data(), c.added.size());
#define MHA_HEAD_FLOATS(field, count) const Buffer<float> field = exact(c.field);
#include "core/kernels/score_mods.def"
  const Buffer<std::int64_t> sequences = exact(c.sequences), offsets = exact(c.offsets), positions = exact(c.positions);
  const Buffer<std::int64_t> firsts = exact(c.first_positions), prefixes = exact(c.prefix_lengths);
  const Buffer<std::uint8_t> mask = exact(c.mask);
  AttentionCall args = c.args;
  query.read_by(args.query), results.output.written_by(args.output);
  args.results.log_sum_exp = results.lse.data();
  args.items.sequences = sequences.data();
  if (c.is_packed) args.items.query_offsets = offsets.data();
  if (c.has_rope) args.positions.query = positions.data();
  if (!c.first_positions.empty()) args.positions.offsets = firsts.data();
  if (!c.prefix_lengths.empty()) args.masks.prefix_lengths = prefixes.data();
  if (!c.mask.empty()) args.masks.bool_mask.data = mask.data();
  if (!c.added.empty()) added.read_by(args.masks.add_mask2);
#define MHA_HEAD_FLOATS(field, count) \
  if (!c.field.empty()) args.score_mods.field = field.data();
#include "core/kernels/score_mods.def"
  args.rope = c.has_rope ? &c.rope : nullptr;
  args.query_norm = c.norm.epsilon > 0 ? &c.norm : nullptr;
  auto bytes = context.attention_workspace_bytes(args);
  made.status = bytes.status();
  if (!bytes) return made;
  const Buffer<std::uint8_t> workspace(static_cast<std::int64_t>(*bytes));
  args.resources.workspace = workspace.data();
  args.resources.workspace_bytes = *bytes;
  made.status = context.attention(args);
  return made;
}

// Of results as floats: in the same bits, or those rounded.
inline bool same_bits(const Results& a, const Results& floats) {
  return a.output.are(floats.output.floats().data()) && same_bits(a.lse, floats.lse);
}

inline void check_value(float got, double want, double bound, const char* what) {
  if (std::isinf(want)) {
    MHA_FUZZ_CHECK(static_cast<double>(got) == want, "%s is %g, not %g", what, static_cast<double>(got), want);
  } else {
    MHA_FUZZ_CHECK(std::fabs(static_cast<double>(got) - want) <= bound * std::max(1.0, std::fabs(want)),
                   "%s is %.9g, not %.9g", what, static_cast<double>(got), want);
  }
}

inline void choose_masks(FuzzedDataProvider& input, std::mt19937& random, Call& c) {
  const auto integer = [&](int low, int high) { return input.ConsumeIntegralInRange<int>(low, high); };
  mha_masks& masks = c.args.masks;
  c.args.causal = integer(0, 1);
  c.args.positions.align = static_cast<mha_align>(integer(0, 3));
  if (c.args.positions.align == MHA_ALIGN_OFFSET) {
    if (input.ConsumeBool()) {
      c.args.positions.offset = integer(-5, 300);
    } else {
      for (std::size_t b = 0; b < c.lengths.size(); ++b)
        c.first_positions.push_back(static_cast<std::int64_t>(random() % 306) - 5);
    }
  }
  if (input.ConsumeBool()) masks.window_left = integer(1, 40);
  if (integer(0, 3) == 0) masks.window_right = integer(1, 40);
  if (integer(0, 3) == 0) masks.sink_tokens = integer(0, 8);
  if (integer(0, 3) == 0)
    for (std::size_t b = 0; b < c.lengths.size(); ++b)
      c.prefix_lengths.push_back(static_cast<std::int64_t>(random() % 30));
  // One for all items, with the rows of the longest; entries next to each other, apart, or one for all keys.
  const std::int64_t width = *std::max_element(c.lengths.begin(), c.lengths.end());
  const std::int64_t rows = *std::max_element(c.counts.begin(), c.counts.end());
  const auto strides = [&](std::int64_t& stride_q, std::int64_t& stride_k) {
    stride_k = integer(-1, 3);
    const std::int64_t step = stride_k == MHA_BROADCAST ? 0 : std::max<std::int64_t>(stride_k, 1);
    stride_q = width * step + 1;
    return static_cast<std::size_t>(rows * stride_q + width * step + 1);
  };
  if (integer(0, 3) == 0) {
    c.mask.resize(strides(masks.bool_mask.stride_q, masks.bool_mask.stride_k));
    for (std::uint8_t& element : c.mask) element = random() % 4 != 0 ? 1 : 0;
  }
  if (integer(0, 3) == 0) {
    c.added.resize(strides(masks.add_mask2.stride_q, masks.add_mask2.stride_k));
    for (float& element : c.added)
      element = random() % 8 != 0 ? static_cast<float>(random() >> 8) * 0x1p-23F - 1.0F : -HUGE_VALF;
    c.added_dtype = choose_dtype(input);
    keep(c.added_dtype, c.added);
  }
}

// A way to choose each modification.
struct ChosenMods {
  FuzzedDataProvider& input;
  std::mt19937& random;
  Call& c;

  Floats some(std::int64_t count, float scale) {
    Floats values(static_cast<std::size_t>(count));
    for (float& value : values) value = (static_cast<float>(random() >> 8) * 0x1p-23F - 1.0F) * scale;
    return values;
  }
  void softcap() { c.args.score_mods.softcap = 2.0F; }
  void alibi() { c.alibi_slopes = some(c.args.num_heads, 0.3F); }
  void relative_bias() {
    mha_score_mods& m = c.args.score_mods;
    m.relative_left = input.ConsumeIntegralInRange<int>(0, 20);
    m.relative_right = input.ConsumeIntegralInRange<int>(0, 20);
    c.relative_bias = some(c.args.num_heads * (m.relative_left + m.relative_right + 1), 2);
  }
  void sinks() { c.sink_logits = some(c.args.num_heads, 2); }
};

inline void choose_mods(FuzzedDataProvider& input, std::mt19937& random, Call& c) {
  ChosenMods chosen = {input, random, c};
#define MHA_MOD(name, field, text, given) \
  if (input.ConsumeIntegralInRange<int>(0, 3) == 0) chosen.name();
#include "core/kernels/score_mods.def"
}

}  // namespace mha::fuzz

#endif  // MHA_TOOLS_FUZZ_DECODE_CALL_H
