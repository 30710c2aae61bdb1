// SPDX-License-Identifier: Apache-2.0
// Random tensors in any storage format; see stored_rows.h.
#include "tools/cli/stored_rows.h"

#include <cstring>
#include <random>

#include "tools/io/tensor.h"

namespace mha::cli {
namespace {

constexpr std::int64_t kBlock = 32;

template <class T>
T load(const std::vector<std::byte>& bytes, std::int64_t index) {
  T value;
  std::memcpy(&value, bytes.data() + static_cast<std::size_t>(index) * sizeof(T), sizeof(T));
  return value;
}

template <class T>
std::int32_t load_integer(const std::vector<std::byte>& bytes, std::int64_t index) {
  return load<T>(bytes, index);
}

std::int64_t row_bytes(const Format& format, std::int64_t width) { return code_bytes(format.dtype, width); }

}  // namespace

void check_supported(const Status& status) {
  if (status.code() == MHA_ERR_UNSUPPORTED || status.code() == MHA_ERR_SHAPE || status.code() == MHA_ERR_STRIDE) {
    throw Unsupported(status.message());
  }
  check(status);
}

StoredRows::StoredRows(const Context& context, const Format& format, const RowSizes& sizes, float scale,
                       std::uint32_t seed)
    : format_(format), sizes_(sizes) {
  if (format.fixed) throw Failure("'" + format.text + "': scales known in advance are for caches of mha explain");
  const std::int64_t whole = is_block(format.dtype) ? kBlock : row_bytes(format, 2) == 1 ? 2 : 1;
  if (sizes.width % whole != 0) {
    throw Unsupported("rows of " + std::to_string(sizes.width) + " elements are no multiple of " +
                      std::to_string(whole));
  }
  const std::int64_t rows = sizes.batch * sizes.tokens * sizes.heads;
  data_.resize(static_cast<std::size_t>(rows * row_bytes(format, sizes.width)));
  if (is_block(format.dtype)) {
    fill_blocks(scale, seed);
    return;
  }
  std::vector<float> values = random_values(rows * sizes.width, seed);
  for (float& value : values) value *= scale;
  prepare(context, values);
}

void StoredRows::prepare(const Context& context, const std::vector<float>& values) {
  if (format_.dtype == MHA_F32) {
    std::memcpy(data_.data(), values.data(), data_.size());
    return;
  }
  mha_rows_args args{};
  args.batch = sizes_.batch, args.length = sizes_.tokens, args.num_heads = sizes_.heads, args.head_dim = sizes_.width;
  args.input = mha::view(values.data());
  args.output.data = data_.data(), args.output.dtype = format_.dtype;
  const mha_storage storage = storage_of(format_);
  if (has_scales(format_.dtype)) {
    const std::int64_t groups = format_.group > 0 ? sizes_.width / format_.group : 1;
    if (format_.group > 0 && sizes_.width % format_.group != 0) {
      throw Unsupported("rows of " + std::to_string(sizes_.width) + " elements are no multiple of the group " +
                        std::to_string(format_.group));
    }
    const std::int64_t count = sizes_.batch * sizes_.tokens * sizes_.heads * groups;
    scales_.resize(static_cast<std::size_t>(code_bytes(format_.scale_dtype, count)));
    args.storage = &storage, args.scales = scales_.data();
    if (format_.zeros) zeros_.resize(static_cast<std::size_t>(count)), args.zeros = zeros_.data();
    quant_.scales = scales_.data(), quant_.scale_dtype = format_.scale_dtype;
    if (format_.zeros) {
      quant_.zeros = zeros_.data();
      quant_.zero_dtype = format_.dtype == MHA_I8 || format_.dtype == MHA_I4 ? MHA_I8 : MHA_U8;
    }
    quant_.group = format_.group, quant_.stride_d = format_.group > 0 ? 1 : 0;
    quant_.stride_h = groups, quant_.stride_t = sizes_.heads * groups;
    quant_.stride_b = sizes_.tokens * quant_.stride_t;
    quant_.hadamard = format_.hadamard ? 1 : 0;
  }
  check_supported(context.rows_prepare(args));
}

// Scales are f16 numbers of [1/2, 1) * 2^-e, so that values are of magnitude `scale`.
void StoredRows::fill_blocks(float scale, std::uint32_t seed) {
  std::mt19937 engine(seed);
  const std::size_t block = static_cast<std::size_t>(code_bytes(format_.dtype, kBlock));
  const float most = format_.dtype == MHA_Q8_0 ? 128.0F : 8.0F;
  std::uint32_t exponent = 15;  // of f16
  for (float step = scale / most; step < 1 && exponent > 1; step *= 2) --exponent;
  for (std::size_t at = 0; at < data_.size(); at += block) {
    const auto bits = static_cast<std::uint16_t>(exponent << 10 | (engine() & 1023U));
    std::memcpy(data_.data() + at, &bits, sizeof bits);
    for (std::size_t n = sizeof bits; n < block; ++n) data_[at + n] = static_cast<std::byte>(engine() & 255U);
  }
}

mha_view StoredRows::view() const {
  mha_view made{};
  made.data = data_.data(), made.dtype = format_.dtype;
  if (has_scales(format_.dtype)) made.quant = &quant_;
  return made;
}

float StoredRows::scale_at(std::int64_t index) const {
  switch (format_.scale_dtype) {
    case MHA_F16:
      return io::half_to_float(load<std::uint16_t>(scales_, index));
    case MHA_BF16:
      return io::bfloat16_to_float(load<std::uint16_t>(scales_, index));
    default:
      return load<float>(scales_, index);
  }
}

// scale * (code - zero), each operation rounded to float.
float StoredRows::code(std::int64_t row, std::int64_t d) const {
  const std::int64_t groups = format_.group > 0 ? sizes_.width / format_.group : 1;
  const std::int64_t place = row * groups + (format_.group > 0 ? d / format_.group : 0);
  const std::int64_t index = row * sizes_.width + d;
  std::int32_t value = 0, zero = 0;
  switch (format_.dtype) {
    case MHA_I8:
      value = load_integer<std::int8_t>(data_, index);
      break;
    case MHA_U8:
      value = load_integer<std::uint8_t>(data_, index), zero = 128;
      break;
    default: {
      const auto byte = load<std::uint8_t>(data_, index / 2);
      value = index % 2 == 0 ? byte & 15 : byte >> 4;
      if (format_.dtype == MHA_I4) value -= 8;  // stored as 0 .. 15
      if (format_.dtype == MHA_U4) zero = 8;
    }
  }
  if (format_.zeros) {
    zero = quant_.zero_dtype == MHA_I8 ? load_integer<std::int8_t>(zeros_, place)
                                       : load_integer<std::uint8_t>(zeros_, place);
  }
  return scale_at(place) * (static_cast<float>(value) - static_cast<float>(zero));
}

float StoredRows::block_value(std::int64_t row, std::int64_t d) const {
  const std::int64_t block = code_bytes(format_.dtype, kBlock);
  const std::int64_t at = row * row_bytes(format_, sizes_.width) + d / kBlock * block, n = d % kBlock;
  std::uint16_t bits = 0;
  std::memcpy(&bits, data_.data() + at, sizeof bits);
  const auto byte = [&](std::int64_t index) { return load<std::uint8_t>(data_, at + 2 + index); };
  if (format_.dtype == MHA_Q8_0) {
    return io::half_to_float(bits) * static_cast<float>(static_cast<std::int8_t>(byte(n)));
  }
  // Element n of the first half is the lower nibble of byte n, of the second half the upper one of byte n - 16.
  const int nibble = n < kBlock / 2 ? byte(n) & 15 : byte(n - kBlock / 2) >> 4;
  return io::half_to_float(bits) * static_cast<float>(nibble - 8);
}

std::vector<float> StoredRows::widened() const {
  const std::int64_t rows = sizes_.batch * sizes_.tokens * sizes_.heads;
  std::vector<float> values(static_cast<std::size_t>(rows * sizes_.width));
  for (std::int64_t i = 0; i < rows * sizes_.width; ++i) {
    float& value = values[static_cast<std::size_t>(i)];
    switch (format_.dtype) {
      case MHA_F32:
        value = load<float>(data_, i);
        break;
      case MHA_F16:
        value = io::half_to_float(load<std::uint16_t>(data_, i));
        break;
      case MHA_BF16:
        value = io::bfloat16_to_float(load<std::uint16_t>(data_, i));
        break;
      case MHA_Q8_0:
      case MHA_Q4_0:
        value = block_value(i / sizes_.width, i % sizes_.width);
        break;
      default:
        value = code(i / sizes_.width, i % sizes_.width);
    }
  }
  return values;
}

std::int64_t StoredRows::bytes() const {
  return static_cast<std::int64_t>(data_.size() + scales_.size() + zeros_.size());
}

}  // namespace mha::cli
