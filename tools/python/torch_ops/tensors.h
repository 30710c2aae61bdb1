// SPDX-License-Identifier: Apache-2.0
// Views, masks and lists of mha.h made from torch's tensors, with checks of every size.
#ifndef MHA_TORCH_OPS_TENSORS_H
#define MHA_TORCH_OPS_TENSORS_H

#include <mha/mha.h>

#include <vector>

#include "tools/python/torch_ops/stack.h"

namespace mha_torch {

// The address of the first element; never NULL, also if the tensor has no elements.
void* data_of(const Tensor& tensor);

mha_dtype float_dtype(const Tensor& tensor, const char* name);
mha_arithmetic arithmetic_of(const std::string& text);

// The tensor as dense elements of `dtype`: itself, or a converted copy. For small lists, not for tensors of tokens.
Tensor dense(const Tensor& tensor, ScalarType dtype);

// The stride of a view along a dimension: torch repeats by 0, which views write as MHA_BROADCAST. `single`: that of a
// dimension of one element, which is not used.
int64_t stride_of(const Tensor& tensor, int64_t dim, int64_t single);

// A dense list of one element type that stays alive for the call.
class List {
 public:
  // `count` < 0: any number of elements. Integers must be int32 or int64, and fit into `dtype`.
  void set(const OptionalTensor& tensor, ScalarType dtype, int64_t count, const char* name);
  bool given() const { return tensor_.has_value(); }
  int64_t count() const { return count_; }
  template <typename T>
  const T* data() const {
    return given() ? static_cast<const T*>(data_of(*tensor_)) : nullptr;
  }

 private:
  OptionalTensor tensor_;
  int64_t count_ = 0;
};

// The codes of a tensor of keys, values or weights and their scales, as the ops take them.
struct Codes {
  std::string format;  // "": by the tensor's dtype; int4, uint4, q8_0, q4_0: bytes that hold codes
  OptionalTensor scales, zeros;
  int64_t scale_tokens = 1;
  bool hadamard = false;
};

// A tensor [B, H, T, D] to read. `quant` must live as long as the view.
struct Rows {
  mha_view view = {};
  mha_quant quant = {};
  int64_t batch = 0, heads = 0, tokens = 0, width = 0;
  std::vector<Tensor> kept;  // converted scales and zeros

  // `width_hint`: the width in elements where bytes hold codes of 4 bits; 0: all that fit into the bytes.
  void set(const Tensor& tensor, const Codes& codes, int64_t width_hint, const char* name);
  Rows() = default;
  Rows(const Rows&) = delete;  // view.quant points to quant
  Rows& operator=(const Rows&) = delete;
};

// A new tensor with these strides.
Tensor make_tensor(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, ScalarType dtype);
Tensor make_dense(const std::vector<int64_t>& sizes, ScalarType dtype);

struct MaskExtent {
  int64_t batch = 0, heads = 0, queries = 0, keys = 0;
  bool packed = false;  // items of unequal length: queries and keys are the greatest lengths, a mask may be larger
};
struct MaskStrides {
  int64_t b = 0, h = 0, q = 0, k = 0;
};
// The strides of a mask that is broadcast to [B, H, Tq, Tk].
MaskStrides mask_strides(const Tensor& mask, const MaskExtent& extent, const char* name);

}  // namespace mha_torch

#endif  // MHA_TORCH_OPS_TENSORS_H
