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

}  // namespace mha::fuzz

#endif  // MHA_TOOLS_FUZZ_CODES_H
