// SPDX-License-Identifier: Apache-2.0
// How caches store codes, chosen by the input, and what they make of floats: rounded by mha_rows_prepare, widened here,
// number by number.
#ifndef MHA_TOOLS_FUZZ_CODES_H
#define MHA_TOOLS_FUZZ_CODES_H

#include <algorithm>

#include "tools/fuzz/decode_call.h"

namespace mha::fuzz {

// Floats of any type, or codes with scales of any type.
inline mha_storage choose_storage(FuzzedDataProvider& input) {
  mha_storage storage{};
  if (input.ConsumeIntegralInRange<int>(0, 2) != 0) {
    storage.dtype = choose_dtype(input);
    return storage;
  }
  constexpr mha_dtype kTypes[] = {MHA_I8, MHA_U8, MHA_I4, MHA_U4};
  storage.dtype = kTypes[input.ConsumeIntegralInRange<int>(0, 3)];
  storage.scale_dtype = choose_dtype(input);
  storage.group = 16 * input.ConsumeIntegralInRange<int>(0, 2);
  storage.zero_points = input.ConsumeBool() ? 1 : 0;
  return storage;
}

// Codes that INT8 multiplies where a row of `width` has one scale.
inline bool is_int8(const mha_storage& storage, std::int64_t width) {
  return storage.dtype == MHA_I8 && storage.zero_points == 0 && (storage.group == 0 || storage.group >= width);
}
inline mha_storage choose_int8_storage(FuzzedDataProvider& input) {
  mha_storage storage{};
  storage.dtype = MHA_I8, storage.scale_dtype = choose_dtype(input);
  storage.group = 32 * input.ConsumeIntegralInRange<int>(0, 1);
  return storage;
}

inline bool has_nibbles(mha_dtype dtype) { return dtype == MHA_I4 || dtype == MHA_U4; }

// Rows [T, heads, width] of floats become what such codes stand for.
inline void keep_codes(const Context& context, const mha_storage& storage, std::int64_t heads, std::int64_t width,
                       Floats& rows) {
  if (rows.empty()) return;
  const std::int64_t count = static_cast<std::int64_t>(rows.size()) / width;
  const std::int64_t groups = storage.group > 0 ? (width + storage.group - 1) / storage.group : 1;
  const std::int64_t row = has_nibbles(storage.dtype) ? (width + 1) / 2 : width;
  const Buffer<std::uint8_t> codes(count * row), zeros(storage.zero_points != 0 ? count * groups : 0);
  const Elements scales(storage.scale_dtype, count * groups, kPoison);
  const Buffer<float> input(count * width);
  std::copy(rows.begin(), rows.end(), input.data());
  mha_rows_args args{};
  args.batch = 1, args.length = count / heads, args.num_heads = heads, args.head_dim = width;
  args.input = view<float>(input.data());
  args.output.data = codes.data(), args.output.dtype = storage.dtype;
  args.storage = &storage;
  mha_mut_view scale_view{};
  scales.written_by(scale_view);
  args.scales = scale_view.data;
  if (storage.zero_points != 0) args.zeros = zeros.data();
  check_ok(context.rows_prepare(args));
  const bool is_signed = storage.dtype == MHA_I8;
  for (std::int64_t n = 0; n < count * width; ++n) {
    const std::int64_t r = n / width, d = n % width, group = r * groups + (storage.group > 0 ? d / storage.group : 0);
    const std::uint8_t byte = codes.data()[r * row + (has_nibbles(storage.dtype) ? d / 2 : d)];
    int code = is_signed ? static_cast<std::int8_t>(byte) : byte;
    if (has_nibbles(storage.dtype)) code = d % 2 == 0 ? byte & 15 : byte >> 4;
    if (storage.dtype == MHA_I4) code -= 8;
    int zero = storage.dtype == MHA_U8 ? 128 : storage.dtype == MHA_U4 ? 8 : 0;
    if (storage.zero_points != 0) {
      const std::uint8_t stored = zeros.data()[group];
      zero = storage.dtype == MHA_I8 || storage.dtype == MHA_I4 ? static_cast<std::int8_t>(stored) : stored;
    }
    rows[static_cast<std::size_t>(n)] = scales.get(static_cast<std::size_t>(group)) * static_cast<float>(code - zero);
  }
}

// Tokens of a sequence as the codes that a cache keeps for INT8: keys or values, [T, heads, width].
struct CodedTokens {
  Buffer<std::int8_t> codes;
  Elements scales;
  mha_quant quant{};

  // A NaN is the scale of what is not written.
  CodedTokens(const mha_storage& storage, std::int64_t tokens, std::int64_t heads, std::int64_t width)
      : codes(tokens * heads * width),
        scales(storage.scale_dtype, tokens * heads, std::nanf("")),
        row_(heads * width),
        heads_(heads) {
    std::fill_n(codes.data(), codes.size(), std::int8_t{77});
    quant.scale_dtype = storage.scale_dtype, quant.scales = scales.data();
    quant.stride_h = 1, quant.stride_t = heads;
  }
  // For tokens from `begin` on.
  void written_by(std::int64_t begin, mha_mut_view& view, void*& scale_rows) const {
    const std::int64_t bytes = quant.scale_dtype == MHA_F32 ? 4 : 2;
    view.data = codes.data() + begin * row_, view.dtype = MHA_I8;
    scale_rows = static_cast<char*>(scales.data()) + begin * heads_ * bytes;
  }
  mha_view view() const {
    mha_view view{};
    view.data = codes.data(), view.dtype = MHA_I8, view.quant = &quant;
    return view;
  }

 private:
  std::int64_t row_, heads_;
};

}  // namespace mha::fuzz

#endif  // MHA_TOOLS_FUZZ_CODES_H
