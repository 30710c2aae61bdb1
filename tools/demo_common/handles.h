// SPDX-License-Identifier: Apache-2.0
// What the demos' programs share: the library's handles, errors as exceptions, weights out of a .safetensors file.
#ifndef MHA_TOOLS_DEMO_COMMON_HANDLES_H
#define MHA_TOOLS_DEMO_COMMON_HANDLES_H

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/mha.hpp"
#include "tools/io/safetensors.h"

namespace mha::demo {

/// Throws std::runtime_error.
[[noreturn]] void fail(const std::string& message);
/// Throws unless the call succeeded.
void require(const Status& status);
template <class T>
T require(Result<T> result) {
  require(result.status());
  return std::move(*result);
}

io::Safetensors open_weights(const std::string& path);
/// The values of a tensor, which must have the shape.
std::vector<float> read_tensor(const io::Safetensors& file, const std::string& name, const std::vector<int64_t>& shape);
/// How a model multiplies: the arithmetic, and how its weights are kept.
struct ProductFormat {
  mha_arithmetic arithmetic = MHA_ARITHMETIC_F32;
  mha_storage weights = {};  // of INT8; zeroed: as the library chooses

  /// "f32", "bf16", "int8" (a scale for 32 inputs), "int8_rows" (for each output), "int4" (for 32 inputs, f16).
  static ProductFormat named(const std::string& name);
  const mha_storage* packed() const { return weights.dtype != MHA_F32 ? &weights : nullptr; }
  /// Of attention over floats, which INT8 does not multiply.
  mha_arithmetic over_floats() const { return arithmetic == MHA_ARITHMETIC_INT8 ? MHA_ARITHMETIC_F32 : arithmetic; }
};
/// weight [out, in], bias [out] or nullptr.
Linear make_linear(const Context& context, int64_t in, int64_t out, const float* weight, const float* bias,
                   const ProductFormat& format);
/// Dense rows through it.
void apply(const Context& context, const Linear& linear, int64_t rows, const float* input, float* output);

}  // namespace mha::demo

#endif  // MHA_TOOLS_DEMO_COMMON_HANDLES_H
