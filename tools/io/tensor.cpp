// SPDX-License-Identifier: Apache-2.0
// Scalar types, checked shape products and element conversion for the readers; see tensor.h.
#include "tools/io/tensor.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <type_traits>

namespace mha::io {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the readers copy little-endian file data as it is");

constexpr std::int64_t kWidestBytes = 8;

struct ScalarInfo {
  std::size_t bytes;
  const char* name;
};

constexpr ScalarInfo kScalars[] = {{1, "bool"},     {1, "uint8"},   {1, "int8"},    {2, "uint16"},      {2, "int16"},
                                   {4, "uint32"},   {4, "int32"},   {8, "uint64"},  {8, "int64"},       {2, "float16"},
                                   {2, "bfloat16"}, {4, "float32"}, {8, "float64"}, {0, "another type"}};

template <class From>
From load(const std::byte* bytes, std::int64_t index) {
  From value;
  std::memcpy(&value, bytes + static_cast<std::size_t>(index) * sizeof(From), sizeof(From));
  return value;
}

template <class T>
const char* wanted_name() {
  if constexpr (std::is_same_v<T, float>) return "float32";
  if constexpr (std::is_same_v<T, double>) return "float64";
  if constexpr (std::is_same_v<T, std::uint8_t>) return "bool";
  return "int64";
}

template <class From, class T, class Function>
std::vector<T> map_elements(const std::byte* bytes, std::int64_t count, Function function) {
  std::vector<T> out(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) out[static_cast<std::size_t>(i)] = function(load<From>(bytes, i));
  return out;
}

template <class From, class T>
std::vector<T> cast_elements(const std::byte* bytes, std::int64_t count) {
  return map_elements<From, T>(bytes, count, [](From x) { return static_cast<T>(x); });
}

Result<std::vector<float>> narrow(const std::byte* bytes, std::int64_t count) {
  std::vector<float> out(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    const double x = load<double>(bytes, i);
    // The comparison comes first: converting a finite double beyond float's range is undefined.
    if (std::isfinite(x) && std::fabs(x) > static_cast<double>(std::numeric_limits<float>::max())) {
      char text[96];
      std::snprintf(text, sizeof text, "element %lld is %g, beyond the range of float32", static_cast<long long>(i), x);
      return Error{text};
    }
    out[static_cast<std::size_t>(i)] = static_cast<float>(x);
  }
  return out;
}

Result<std::vector<std::int64_t>> from_u64(const std::byte* bytes, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    const auto x = load<std::uint64_t>(bytes, i);
    if (x > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      return Error{"element " + std::to_string(i) + " is " + std::to_string(x) + ", beyond the range of int64"};
    }
  }
  return cast_elements<std::uint64_t, std::int64_t>(bytes, count);
}

template <class T>
Result<std::vector<T>> to_floating(Scalar from, const std::byte* bytes, std::int64_t count) {
  switch (from) {
    case Scalar::kF16:
      return map_elements<std::uint16_t, T>(bytes, count, half_to_float);
    case Scalar::kBF16:
      return map_elements<std::uint16_t, T>(bytes, count, bfloat16_to_float);
    case Scalar::kF32:
      return cast_elements<float, T>(bytes, count);
    case Scalar::kF64:
      if constexpr (std::is_same_v<T, float>) return narrow(bytes, count);
      return cast_elements<double, T>(bytes, count);
    default:
      return Error{};
  }
}

Result<std::vector<std::int64_t>> to_integer(Scalar from, const std::byte* bytes, std::int64_t count) {
  switch (from) {
    case Scalar::kU8:
      return cast_elements<std::uint8_t, std::int64_t>(bytes, count);
    case Scalar::kI8:
      return cast_elements<std::int8_t, std::int64_t>(bytes, count);
    case Scalar::kU16:
      return cast_elements<std::uint16_t, std::int64_t>(bytes, count);
    case Scalar::kI16:
      return cast_elements<std::int16_t, std::int64_t>(bytes, count);
    case Scalar::kU32:
      return cast_elements<std::uint32_t, std::int64_t>(bytes, count);
    case Scalar::kI32:
      return cast_elements<std::int32_t, std::int64_t>(bytes, count);
    case Scalar::kU64:
      return from_u64(bytes, count);
    case Scalar::kI64:
      return cast_elements<std::int64_t, std::int64_t>(bytes, count);
    default:
      return Error{};
  }
}

}  // namespace

std::size_t scalar_bytes(Scalar scalar) { return kScalars[static_cast<int>(scalar)].bytes; }
const char* scalar_name(Scalar scalar) { return kScalars[static_cast<int>(scalar)].name; }

Result<std::int64_t> shape_bytes(const std::vector<std::int64_t>& shape, std::size_t element_bytes) {
  if (shape.size() > kMaxRank) {
    return Error{"shape has " + std::to_string(shape.size()) + " dimensions, the limit is " + std::to_string(kMaxRank)};
  }
  std::int64_t widest = kWidestBytes;
  bool empty = false;
  for (const std::int64_t dim : shape) {
    if (dim < 0) return Error{"shape " + shape_text(shape) + " has a negative dimension"};
    empty = empty || dim == 0;
    if (dim != 0 && __builtin_mul_overflow(widest, dim, &widest)) {
      return Error{"shape " + shape_text(shape) + " does not fit in 63 bits"};
    }
  }
  return empty ? 0 : widest / kWidestBytes * static_cast<std::int64_t>(element_bytes);
}

std::int64_t shape_elements(const std::vector<std::int64_t>& shape) {
  std::int64_t product = 1;
  for (const std::int64_t dim : shape) {
    if (dim == 0) return 0;
    product *= dim;
  }
  return product;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size() && i < kMaxRank; ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + (shape.size() > kMaxRank ? ", ...]" : "]");
}

std::string printable(const std::string& text, std::size_t limit) {
  std::string out;
  for (const char c : text) {
    if (out.size() >= limit) return out + "...";
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      out += c;
    } else {
      char hex[5];
      std::snprintf(hex, sizeof hex, "\\x%02x", byte);
      out += hex;
    }
  }
  return out;
}

float half_to_float(std::uint16_t bits) {
  const std::uint32_t exponent = (bits >> 10) & 31U;
  const std::uint32_t mantissa = bits & 1023U;
  if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24, exact in float
    const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
    return (bits & 0x8000U) != 0 ? -magnitude : magnitude;
  }
  const std::uint32_t wide = exponent == 31 ? 255U : exponent + 112U;
  const std::uint32_t word = (static_cast<std::uint32_t>(bits & 0x8000U) << 16) | (wide << 23) | (mantissa << 13);
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

float bfloat16_to_float(std::uint16_t bits) {
  const std::uint32_t word = static_cast<std::uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

template <class T>
Result<std::vector<T>> convert(Scalar from, const std::byte* bytes, std::int64_t count) {
  Result<std::vector<T>> result = Error{};
  if constexpr (std::is_floating_point_v<T>) {
    result = to_floating<T>(from, bytes, count);
  } else if constexpr (std::is_same_v<T, std::int64_t>) {
    result = to_integer(from, bytes, count);
  } else if (from == Scalar::kBool || from == Scalar::kU8) {
    result = map_elements<std::uint8_t, T>(bytes, count, [](std::uint8_t x) { return static_cast<T>(x != 0); });
  }
  if (!result && result.message().empty()) {
    return Error{std::string("holds ") + scalar_name(from) + ", which is not converted to " + wanted_name<T>()};
  }
  return result;
}

template Result<std::vector<float>> convert<float>(Scalar, const std::byte*, std::int64_t);
template Result<std::vector<double>> convert<double>(Scalar, const std::byte*, std::int64_t);
template Result<std::vector<std::uint8_t>> convert<std::uint8_t>(Scalar, const std::byte*, std::int64_t);
template Result<std::vector<std::int64_t>> convert<std::int64_t>(Scalar, const std::byte*, std::int64_t);

}  // namespace mha::io
