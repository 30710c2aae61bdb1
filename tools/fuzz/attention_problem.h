// SPDX-License-Identifier: Apache-2.0
// fuzz_attention's problems: any small shape, strides, masks and values.
#ifndef MHA_TOOLS_FUZZ_ATTENTION_PROBLEM_H
#define MHA_TOOLS_FUZZ_ATTENTION_PROBLEM_H

#include <fuzzer/FuzzedDataProvider.h>
#include <mha/mha.hpp>

#include <algorithm>
#include <cmath>
#include <random>

#include "tools/fuzz/elements.h"
#include "tools/fuzz/row_codes.h"
#include "tools/fuzz/targets.h"

namespace mha::fuzz {

inline bool is_dense(const Strides& s) { return s.b == 0 && s.t == 0 && s.h == 0; }

// The sizes of a tensor and how its elements lie.
struct Layout {
  std::int64_t n[3] = {0, 0, 0};  // b, t, h
  std::int64_t width = 0;
  Strides strides;  // all 0: dense in the order b, t, h (heads_first: b, h, t)
  bool heads_first = false;

  Strides resolved() const {
    const auto step = [](std::int64_t stride) { return stride == MHA_BROADCAST ? 0 : stride; };
    if (!is_dense(strides)) return {step(strides.b), step(strides.t), step(strides.h)};
    if (heads_first) return {n[1] * n[2] * width, width, n[1] * width};
    return {n[1] * n[2] * width, n[2] * width, width};
  }
  std::int64_t extent() const {
    if (n[0] == 0 || n[1] == 0 || n[2] == 0 || width == 0) return 0;
    const Strides s = resolved();
    return (n[0] - 1) * s.b + (n[1] - 1) * s.t + (n[2] - 1) * s.h + width;
  }
};

// Dense, or the three dimensions in any order with gaps; inputs may also broadcast.
inline Strides choose_strides(FuzzedDataProvider& input, const Layout& layout, bool is_input) {
  Strides strides;
  if (input.ConsumeBool()) return strides;
  int order[3] = {0, 1, 2};
  std::swap(order[0], order[input.ConsumeIntegralInRange<int>(0, 2)]);
  std::swap(order[1], order[input.ConsumeIntegralInRange<int>(1, 2)]);
  std::int64_t by_dimension[3];
  std::int64_t next = layout.width + input.ConsumeIntegralInRange<int>(0, 3);
  for (const int dimension : order) {
    const bool broadcast = is_input && input.ConsumeIntegralInRange<int>(0, 7) == 0;
    by_dimension[dimension] = broadcast ? MHA_BROADCAST : next;
    if (!broadcast)
      next = next * std::max<std::int64_t>(1, layout.n[dimension]) + input.ConsumeIntegralInRange<int>(0, 3);
  }
  strides = {by_dimension[0], by_dimension[1], by_dimension[2]};
  if (is_input && is_dense(strides)) strides.b = MHA_BROADCAST;
  return strides;
}

// The element types of the tensors in a call.
struct Dtypes {
  mha_dtype query = MHA_F32, key = MHA_F32, value = MHA_F32, output = MHA_F32, add_mask = MHA_F32, add_mask2 = MHA_F32;

  bool all_floats() const {
    return query == MHA_F32 && key == MHA_F32 && value == MHA_F32 && output == MHA_F32 && add_mask == MHA_F32 &&
           add_mask2 == MHA_F32;
  }
};

// One problem with all its buffers: floats that `dtypes` can keep, and in INT8 keys and values that codes stand for.
struct Problem {
  AttentionCall args;
  Layout query_layout, key_layout, value_layout, output_layout, weights_layout;
  Buffer<float> query, key, value, add_mask, add_mask2, factors;
  RowCodes key_codes, value_codes;  // in INT8
  Buffer<std::uint8_t> bool_mask;
  Buffer<std::int64_t> lengths, offsets;
  Dtypes dtypes;
  bool want_lse = false;
};

// codes: not null where the input is codes, whose floats are then made.
inline Buffer<float> make_input(FuzzedDataProvider& input, std::mt19937& random, Layout& layout, mha_view& view,
                                int nans, mha_dtype& dtype, RowCodes* codes = nullptr) {
  layout.strides = choose_strides(input, layout, true);
  Buffer<float> buffer(layout.extent());
  // NOLINTNEXTLINE(clang-analyzer-cplusplus.NewDelete): it thinks that size() may be 0 inside the loop
  for (std::size_t i = 0; i < buffer.size(); ++i) buffer[i] = static_cast<float>(random() >> 8) * 0x1p-23F - 1.0F;
  for (; nans > 0 && buffer.size() > 0; --nans) buffer[random() % buffer.size()] = std::nanf("");
  if (codes != nullptr) {
    *codes = to_row_codes(input, random, layout.n, layout.resolved(), layout.width, buffer);
  } else {
    dtype = choose_dtype(input);
    keep(dtype, buffer);
  }
  view = mha::view<float>(buffer.data(), layout.strides);
  return buffer;
}

// Where queries stand: at the start or the end of an item's keys, or at an offset, one for all or its own.
inline void make_positions(FuzzedDataProvider& input, std::mt19937& random, Problem& p) {
  mha_positions& positions = p.args.positions;
  p.args.causal = input.ConsumeIntegralInRange<int>(0, 2) % 2;
  positions.align = static_cast<mha_align>(input.ConsumeIntegralInRange<int>(0, 3));
  if (positions.align != MHA_ALIGN_OFFSET) return;
  if (input.ConsumeBool()) {
    positions.offset = input.ConsumeIntegralInRange<std::int64_t>(-12, 40);
    return;
  }
  p.offsets = Buffer<std::int64_t>(p.args.batch);
  for (std::size_t b = 0; b < p.offsets.size(); ++b) p.offsets[b] = static_cast<std::int64_t>(random() % 53) - 12;
  positions.offsets = p.offsets.data();
}

inline void make_masks(FuzzedDataProvider& input, std::mt19937& random, Problem& p) {
  const AttentionCall& a = p.args;
  mha_masks& masks = p.args.masks;
  make_positions(input, random, p);
  if (input.ConsumeBool()) {
    p.lengths = Buffer<std::int64_t>(a.batch);
    for (std::int64_t b = 0; b < a.batch; ++b)
      p.lengths[static_cast<std::size_t>(b)] =
          static_cast<std::int64_t>(random() % static_cast<unsigned>(a.key_len + 1));
    p.args.items.key_lengths = p.lengths.data();
    // What the default would be is refused where it matters.
    if (a.positions.align == MHA_ALIGN_DEFAULT && a.causal != 0) p.args.positions.align = MHA_ALIGN_END;
  }
  // [B or 1, H or 1, Tq or 1, Tk or 1] for each kind, entries of a row apart.
  const auto strides = [&](std::int64_t& stride_b, std::int64_t& stride_h, std::int64_t& stride_q,
                           std::int64_t& stride_k) {
    stride_k = input.ConsumeIntegralInRange<int>(-1, 3);
    const std::int64_t step = stride_k == MHA_BROADCAST ? 0 : std::max<std::int64_t>(stride_k, 1);
    const std::int64_t row = std::max<std::int64_t>(a.key_len - 1, 0) * step + 1;
    std::int64_t next = row + input.ConsumeIntegralInRange<int>(0, 2);
    stride_q = input.ConsumeBool() ? next : 0;
    if (stride_q != 0) next *= std::max<std::int64_t>(1, a.query_len);
    stride_h = input.ConsumeBool() ? next : 0;
    if (stride_h != 0) next *= std::max<std::int64_t>(1, a.num_heads);
    stride_b = input.ConsumeBool() ? next : 0;
    if (a.batch == 0 || a.query_len == 0 || a.key_len == 0) return std::int64_t{0};
    return (a.batch - 1) * stride_b + (a.num_heads - 1) * stride_h + (a.query_len - 1) * stride_q + row;
  };
  const unsigned density = input.ConsumeIntegralInRange<unsigned>(0, 8);
  if (input.ConsumeBool()) {
    mha_bool_mask& mask = masks.bool_mask;
    p.bool_mask = Buffer<std::uint8_t>(strides(mask.stride_b, mask.stride_h, mask.stride_q, mask.stride_k));
    for (std::size_t i = 0; i < p.bool_mask.size(); ++i)
      p.bool_mask[i] = random() % 8 < density ? static_cast<std::uint8_t>(1 + random() % 255) : 0;
    mask.data = p.bool_mask.data();
  }
  for (int n = 0; n < 2; ++n) {
    if (!input.ConsumeBool()) continue;
    mha_add_mask& mask = n == 0 ? masks.add_mask : masks.add_mask2;
    Buffer<float>& added = n == 0 ? p.add_mask : p.add_mask2;
    added = Buffer<float>(strides(mask.stride_b, mask.stride_h, mask.stride_q, mask.stride_k));
    for (std::size_t i = 0; i < added.size(); ++i)
      added[i] = random() % 8 < density ? static_cast<float>(random() >> 8) * 0x1p-21F - 4.0F : -HUGE_VALF;
    mha_dtype& dtype = n == 0 ? p.dtypes.add_mask : p.dtypes.add_mask2;
    dtype = choose_dtype(input);
    keep(dtype, added);
    mask.data = added.data();
  }
  if (masks.add_mask.data != nullptr && input.ConsumeBool()) {
    p.factors = Buffer<float>(a.num_heads);
    for (std::size_t h = 0; h < p.factors.size(); ++h) p.factors[h] = static_cast<float>(1 + random() % 64) * 0x1p-4F;
    masks.add_mask_factors = p.factors.data();
  }
}

inline Problem make_problem(FuzzedDataProvider& input) {
  Problem p;
  AttentionCall& a = p.args;
  const auto size = [&](int low, int high) {
    return static_cast<std::int64_t>(input.ConsumeIntegralInRange<int>(low, high));
  };
  a.batch = size(0, 3);
  const std::int64_t group = size(1, 3);
  const std::int64_t kv_heads = size(1, 2);
  a.num_heads = kv_heads * group;
  a.num_kv_heads = group == 1 && input.ConsumeBool() ? 0 : kv_heads;
  a.query_len = size(0, 9);
  a.key_len = input.ConsumeIntegralInRange<int>(0, 3) == 0 ? size(250, 262) : size(0, 40);
  const bool wide = input.ConsumeIntegralInRange<int>(0, 7) == 0;  // kernels keep wide outputs elsewhere between chunks
  a.head_dim = wide ? size(65, 100) : size(1, 24);
  const std::int64_t value_dim = wide ? size(65, 100) : size(1, 24);
  a.value_head_dim = input.ConsumeBool() ? 0 : value_dim;
  const std::int64_t Dv = a.value_head_dim == 0 ? a.head_dim : value_dim;
  if (input.ConsumeBool()) a.scale = static_cast<float>(size(1, 200)) * 0.01F;
  std::mt19937 random(input.ConsumeIntegral<std::uint32_t>());
  const int nans = input.ConsumeIntegralInRange<int>(0, 7) == 0 ? 2 : 0;
  p.query_layout = {{a.batch, a.query_len, a.num_heads}, a.head_dim, {}, false};
  p.key_layout = {{a.batch, a.key_len, kv_heads}, a.head_dim, {}, false};
  p.value_layout = {{a.batch, a.key_len, kv_heads}, Dv, {}, false};
  p.query = make_input(input, random, p.query_layout, a.query, nans, p.dtypes.query);
  a.arithmetic = choose_arithmetic(input, true);
  const bool codes = a.arithmetic == MHA_ARITHMETIC_INT8;
  p.key = make_input(input, random, p.key_layout, a.key, nans, p.dtypes.key, codes ? &p.key_codes : nullptr);
  p.value = make_input(input, random, p.value_layout, a.value, nans, p.dtypes.value, codes ? &p.value_codes : nullptr);
  make_masks(input, random, p);
  p.output_layout = {{a.batch, a.query_len, a.num_heads}, Dv, {}, false};
  p.output_layout.strides = choose_strides(input, p.output_layout, false);
  p.dtypes.output = choose_dtype(input);
  a.results.weights_mode = static_cast<mha_weights_mode>(input.ConsumeIntegralInRange<int>(0, 2));
  if (a.results.weights_mode != MHA_WEIGHTS_NONE) {
    const std::int64_t heads = a.results.weights_mode == MHA_WEIGHTS_AVERAGED ? 1 : a.num_heads;
    p.weights_layout = {{a.batch, a.query_len, heads}, a.key_len, {}, true};
    p.weights_layout.strides = choose_strides(input, p.weights_layout, false);
    Strides& strides = p.weights_layout.strides;  // without a head dimension: is all 0 only where it is dense anyway
    if (a.results.weights_mode == MHA_WEIGHTS_AVERAGED) strides.h = 0;
  }
  p.want_lse = input.ConsumeBool();
  return p;
}

}  // namespace mha::fuzz

#endif  // MHA_TOOLS_FUZZ_ATTENTION_PROBLEM_H
