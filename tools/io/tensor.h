// SPDX-License-Identifier: Apache-2.0
// What both file formats share: scalar types, shapes with checked products, conversion of raw bytes to a C++ type.
#ifndef MHA_TOOLS_IO_TENSOR_H
#define MHA_TOOLS_IO_TENSOR_H

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tools/io/result.h"

namespace mha::io {

// A dense tensor in C order. T is float, double, std::uint8_t (booleans, as 0 and 1) or std::int64_t.
template <class T>
struct Tensor {
  std::vector<std::int64_t> shape;
  std::vector<T> values;
};

// Number formats as the files name them; what has no C++ type here (float8, complex) can be listed but not read.
enum class Scalar { kBool, kU8, kI8, kU16, kI16, kU32, kI32, kU64, kI64, kF16, kBF16, kF32, kF64, kOther };

// Bytes of one element; 0 for kOther.
std::size_t scalar_bytes(Scalar scalar);
// "float32", "bool", ...
const char* scalar_name(Scalar scalar);

// The most dimensions a shape may have in either format (NumPy's own limit).
inline constexpr std::size_t kMaxRank = 32;

// Bytes of a tensor of that shape, for elements of 1 to 8 bytes. Fails on a negative dimension, on more than kMaxRank
// of them, and where the product of the non-zero dimensions, times 8, does not fit in 63 bits: so every stride fits, in
// bytes too, and still does once the elements are converted to a wider type.
Result<std::int64_t> shape_bytes(const std::vector<std::int64_t>& shape, std::size_t element_bytes);
// Elements of a shape that shape_bytes has accepted.
std::int64_t shape_elements(const std::vector<std::int64_t>& shape);

// "[2, 3]"; at most kMaxRank dimensions are spelled out.
std::string shape_text(const std::vector<std::int64_t>& shape);

// `text` on one line of printable ASCII: everything else as \xNN, cut with "..." after `limit` characters.
std::string printable(const std::string& text, std::size_t limit = 120);

// Converts `count` little-endian elements at `bytes` (any alignment) to T.
//   float, double <- float16, bfloat16, float32, float64 (a finite float64 beyond float's range is an error)
//   uint8_t (0/1) <- bool, uint8
//   int64_t       <- every integer type (a uint64 beyond int64's range is an error)
// Anything else is an error that names both types; nothing is converted silently between kinds.
template <class T>
Result<std::vector<T>> convert(Scalar from, const std::byte* bytes, std::int64_t count);

extern template Result<std::vector<float>> convert<float>(Scalar, const std::byte*, std::int64_t);
extern template Result<std::vector<double>> convert<double>(Scalar, const std::byte*, std::int64_t);
extern template Result<std::vector<std::uint8_t>> convert<std::uint8_t>(Scalar, const std::byte*, std::int64_t);
extern template Result<std::vector<std::int64_t>> convert<std::int64_t>(Scalar, const std::byte*, std::int64_t);

// IEEE binary16 and bfloat16 to float, exactly.
float half_to_float(std::uint16_t bits);
float bfloat16_to_float(std::uint16_t bits);

}  // namespace mha::io

#endif  // MHA_TOOLS_IO_TENSOR_H
