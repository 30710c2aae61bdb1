// SPDX-License-Identifier: Apache-2.0
// Packed weights as uint8 tensors.
#ifndef MHA_TORCH_OPS_PACKED_H
#define MHA_TORCH_OPS_PACKED_H

#include <mha/mha.h>

#include <memory>

#include "tools/python/torch_ops/runtime.h"
#include "tools/python/torch_ops/tensors.h"

namespace mha_torch {

// How packed weights are stored; the schema and the reading of its arguments.
inline constexpr const char* kStorageSchema =
    "str? arithmetic=None, str? dtype=None, SymInt group=0, str? scale_dtype=None, bool zero_points=False";

class Storage {
 public:
  explicit Storage(Stack& stack)
      : arithmetic_(stack.next_text()),
        dtype_(stack.next_text()),
        group_(stack.next<int64_t>()),
        scale_dtype_(stack.next_text()),
        zero_points_(stack.next<bool>()) {}

  mha_arithmetic arithmetic() const { return arithmetic_of(arithmetic_); }
  // NULL: as the weights are given.
  const mha_storage* make();

 private:
  std::string arithmetic_, dtype_;
  int64_t group_;
  std::string scale_dtype_;
  bool zero_points_;
  mha_storage storage_ = {};
};

struct DestroyLinear {
  void operator()(mha_linear* linear) const { mha_linear_destroy(linear); }
};
struct DestroyLayer {
  void operator()(mha_layer* layer) const { mha_layer_destroy(layer); }
};
using LinearHandle = std::unique_ptr<mha_linear, DestroyLinear>;
using LayerHandle = std::unique_ptr<mha_layer, DestroyLayer>;

// The packed weights of a handle as a uint8 tensor.
template <class Handle>
Tensor saved(const Handle* handle, mha_status (*bytes_of)(const Handle*, size_t*, mha_error*),
             mha_status (*save)(const Handle*, void*, size_t, mha_error*)) {
  size_t bytes = 0;
  mha_error error = {};
  check(bytes_of(handle, &bytes, &error), error);
  Tensor packed = make_dense({static_cast<int64_t>(bytes)}, ScalarType::Byte);
  check(save(handle, data_of(packed), bytes, &error), error);
  return packed;
}

// Handles over the bytes of a tensor, which must live as long as they do.
LinearHandle map_linear(const Tensor& packed);
LayerHandle map_layer(const Tensor& packed);

}  // namespace mha_torch

#endif  // MHA_TORCH_OPS_PACKED_H
