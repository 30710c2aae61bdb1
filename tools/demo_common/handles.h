// SPDX-License-Identifier: Apache-2.0
// What the demos' programs share: the library's handles, errors as exceptions, weights out of a .safetensors file.
#ifndef MHA_TOOLS_DEMO_COMMON_HANDLES_H
#define MHA_TOOLS_DEMO_COMMON_HANDLES_H

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/mha.h"
#include "tools/io/safetensors.h"

namespace mha::demo {

struct HandleDeleter {
  void operator()(mha_context* context) const { mha_context_destroy(context); }
  void operator()(mha_linear* linear) const { mha_linear_destroy(linear); }
  void operator()(mha_layer* layer) const { mha_layer_destroy(layer); }
  void operator()(mha_cache* cache) const { mha_cache_destroy(cache); }
};
template <class Handle>
using Owned = std::unique_ptr<Handle, HandleDeleter>;

/// Throws std::runtime_error.
[[noreturn]] void fail(const std::string& message);
/// Throws unless the status is MHA_OK.
void require_ok(mha_status status, const mha_error& error);

io::Safetensors open_weights(const std::string& path);
/// The values of a tensor, which must have the shape.
std::vector<float> read_tensor(const io::Safetensors& file, const std::string& name, const std::vector<int64_t>& shape);
/// weight [out, in], bias [out] or nullptr.
Owned<mha_linear> make_linear(const mha_context* context, int64_t in, int64_t out, const float* weight,
                              const float* bias);

}  // namespace mha::demo

#endif  // MHA_TOOLS_DEMO_COMMON_HANDLES_H
