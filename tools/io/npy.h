// SPDX-License-Identifier: Apache-2.0
// NumPy's .npy files: reads format versions 1 to 3, writes version 1.
// The file may be hostile: header length, dictionary, shape product and data size are checked before anything is
// allocated for them, and every error is one line that names the file.
#ifndef MHA_TOOLS_IO_NPY_H
#define MHA_TOOLS_IO_NPY_H

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tools/io/result.h"
#include "tools/io/source.h"
#include "tools/io/tensor.h"

namespace mha::io {

// What the header of a .npy file says.
struct NpyHeader {
  Scalar scalar = Scalar::kOther;
  bool fortran_order = false;
  std::vector<std::int64_t> shape;
  std::uint64_t data_offset = 0;
  std::uint64_t data_bytes = 0;
};

// Reads the header and checks it against the size of the file, which must end where the data ends.
Result<NpyHeader> read_npy_header(const Source& source);

// Reads the array as T (tensor.h lists the conversions); Fortran order is turned into C order.
template <class T>
Result<Tensor<T>> read_npy(const Source& source);
template <class T>
Result<Tensor<T>> read_npy(const std::string& path) {
  const auto source = Source::file(path);
  if (!source) return source.error();
  return read_npy<T>(*source);
}

extern template Result<Tensor<float>> read_npy<float>(const Source&);
extern template Result<Tensor<double>> read_npy<double>(const Source&);
extern template Result<Tensor<std::uint8_t>> read_npy<std::uint8_t>(const Source&);
extern template Result<Tensor<std::int64_t>> read_npy<std::int64_t>(const Source&);

// The bytes in front of the data of a version 1 file, in C order. `scalar` is kBool, kU8, kI32, kI64, kF16, kF32 or
// kF64.
std::string npy_header(Scalar scalar, const std::vector<std::int64_t>& shape);

// Writes a dense C-order array; the number of elements is that of `shape`.
Result<void> write_npy(const std::string& path, const std::vector<std::int64_t>& shape, const float* values);
Result<void> write_npy(const std::string& path, const std::vector<std::int64_t>& shape, const std::uint8_t* booleans);
Result<void> write_npy(const std::string& path, const std::vector<std::int64_t>& shape, const std::int64_t* values);

}  // namespace mha::io

#endif  // MHA_TOOLS_IO_NPY_H
