// SPDX-License-Identifier: Apache-2.0
#include "tools/python/torch_ops/tensors.h"

namespace mha_torch {
namespace {

std::string shape_text(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t i = 0; i < tensor.dim(); ++i) text += (i ? ", " : "") + std::to_string(tensor.size(i));
  return text + "]";
}

mha_dtype dtype_of(const Tensor& tensor, const std::string& format, const char* name) {
  const ScalarType type = tensor.scalar_type();
  if (!format.empty()) {
    if (type != ScalarType::Byte) fail(std::string(name) + " with a format must be a uint8 tensor");
    if (format == "int4") return MHA_I4;
    if (format == "uint4") return MHA_U4;
    if (format == "q8_0") return MHA_Q8_0;
    if (format == "q4_0") return MHA_Q4_0;
    fail(std::string(name) + "'s format \"" + format + "\" is none of int4, uint4, q8_0, q4_0");
  }
  switch (type) {
    case ScalarType::Char:
      return MHA_I8;
    case ScalarType::Byte:
      return MHA_U8;
    default:
      return float_dtype(tensor, name);
  }
}

// How many bytes hold how many elements.
struct Packing {
  int64_t bytes = 1, elements = 1;
};
Packing packing_of(mha_dtype dtype) {
  switch (dtype) {
    case MHA_I4:
    case MHA_U4:
      return {1, 2};
    case MHA_Q8_0:
      return {34, 32};
    case MHA_Q4_0:
      return {18, 32};
    default:
      return {1, 1};
  }
}

// Stride of a dimension in elements of mha.
int64_t view_stride(const Tensor& tensor, int64_t dim, const Packing& packing, int64_t row, const char* name) {
  if (tensor.size(dim) <= 1) return row;
  const int64_t stride = stride_of(tensor, dim, row);
  if (stride == MHA_BROADCAST) return stride;
  if (stride % packing.bytes != 0) fail(std::string(name) + "'s strides must be whole blocks");
  return stride / packing.bytes * packing.elements;
}

// Integers as int32 or int64. A value that int32 does not have would become another one.
Tensor dense_integers(const Tensor& tensor, ScalarType dtype, const char* name) {
  const ScalarType given = tensor.scalar_type();
  if (given != ScalarType::Int && given != ScalarType::Long) fail(std::string(name) + " must be int32 or int64");
  if (given == ScalarType::Long && dtype == ScalarType::Int) {
    const Tensor wide = dense(tensor, given);
    const auto* values = static_cast<const int64_t*>(data_of(wide));
    for (int64_t i = 0; i < wide.numel(); ++i) {
      if (values[i] != static_cast<int32_t>(values[i])) {
        fail(std::string(name) + " has the value " + std::to_string(values[i]) + ", which int32 does not have");
      }
    }
  }
  return dense(tensor, dtype);
}

// Dimension `i` of `rank` dimensions counted from the left of [B, H, T, G]; dimensions on the left may be missing.
int64_t size_at(const Tensor& tensor, int64_t i) {
  const int64_t dim = i - (4 - tensor.dim());
  return dim < 0 ? 1 : tensor.size(dim);
}
int64_t stride_at(const Tensor& tensor, int64_t i) {
  const int64_t dim = i - (4 - tensor.dim());
  return dim < 0 || tensor.size(dim) <= 1 ? 0 : tensor.stride(dim);
}

mha_dtype zero_dtype(const Tensor& zeros, const char* name) {
  switch (zeros.scalar_type()) {
    case ScalarType::Char:
      return MHA_I8;
    case ScalarType::Byte:
      return MHA_U8;
    case ScalarType::Float:
      return MHA_F32;
    case ScalarType::Half:
      return MHA_F16;
    default:
      fail(std::string(name) + "'s zeros must be float32, float16, int8 or uint8");
  }
}

// scales are [B, H, T / scale_tokens, G] or broadcast to it; the group is width / G.
void set_quant(Rows& rows, const Codes& codes, const char* name) {
  if (!codes.scales) fail(std::string(name) + " holds codes: give " + name + "_scales");
  Tensor scales = *codes.scales;
  if (scales.dim() > 4) fail(std::string(name) + "_scales must have at most 4 dimensions");
  mha_quant& quant = rows.quant;
  if (codes.zeros) {
    Tensor zeros = *codes.zeros;
    bool same_layout = zeros.dim() == scales.dim();
    for (int64_t i = 0; same_layout && i < 4; ++i) {
      if (size_at(zeros, i) != size_at(scales, i)) fail(std::string(name) + "_zeros must have the shape of its scales");
      same_layout = stride_at(zeros, i) == stride_at(scales, i);
    }
    if (!same_layout) {
      if (zeros.numel() != scales.numel()) fail(std::string(name) + "_zeros must have the shape of its scales");
      zeros = torch::stable::contiguous(zeros);
      scales = torch::stable::contiguous(scales);
    }
    quant.zeros = data_of(zeros);
    quant.zero_dtype = zero_dtype(zeros, name);
    rows.kept.push_back(zeros);
  }
  quant.scales = data_of(scales);
  quant.scale_dtype = float_dtype(scales, "scales");
  quant.hadamard = codes.hadamard ? 1 : 0;
  require(codes.scale_tokens >= 1, "scale_tokens must be at least 1");
  quant.group_tokens = codes.scale_tokens;
  const int64_t groups = size_at(scales, 3);
  if (groups < 1 || rows.width % groups != 0) {
    fail(std::string(name) + "_scales' last dimension (" + std::to_string(groups) + ") must divide the width " +
         std::to_string(rows.width));
  }
  quant.group = groups == 1 ? 0 : rows.width / groups;
  const int64_t blocks = (rows.tokens + codes.scale_tokens - 1) / codes.scale_tokens;
  const int64_t wanted[3] = {rows.batch, rows.heads, blocks};
  for (int64_t i = 0; i < 3; ++i) {
    if (size_at(scales, i) != 1 && size_at(scales, i) != wanted[i]) {
      fail(std::string(name) + "_scales " + shape_text(scales) + " does not fit " + name);
    }
  }
  quant.stride_b = stride_at(scales, 0);
  quant.stride_h = stride_at(scales, 1);
  quant.stride_t = stride_at(scales, 2);
  quant.stride_d = stride_at(scales, 3);
  rows.kept.push_back(scales);
  rows.view.quant = &quant;
}

}  // namespace

void* data_of(const Tensor& tensor) {
  static char nothing[64];
  void* data = tensor.data_ptr();
  return data != nullptr ? data : nothing;
}

mha_dtype float_dtype(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return MHA_F32;
    case ScalarType::Half:
      return MHA_F16;
    case ScalarType::BFloat16:
      return MHA_BF16;
    default:
      fail(std::string(name) + " must be float32, float16 or bfloat16: convert it with .to()");
  }
}

mha_arithmetic arithmetic_of(const std::string& text) {
  if (text.empty() || text == "f32") return MHA_ARITHMETIC_F32;
  if (text == "bf16") return MHA_ARITHMETIC_BF16;
  if (text == "int8") return MHA_ARITHMETIC_INT8;
  fail("arithmetic \"" + text + "\" is none of f32, bf16, int8");
}

Tensor dense(const Tensor& tensor, ScalarType dtype) {
  Tensor result = tensor;
  if (result.scalar_type() != dtype) result = torch::stable::to(result, std::make_optional(dtype));
  return result.is_contiguous() ? result : torch::stable::contiguous(result);
}

int64_t stride_of(const Tensor& tensor, int64_t dim, int64_t single) {
  if (tensor.size(dim) <= 1) return single;
  return tensor.stride(dim) == 0 ? MHA_BROADCAST : tensor.stride(dim);
}

void List::set(const OptionalTensor& tensor, ScalarType dtype, int64_t count, const char* name) {
  if (!tensor) return;
  if (count >= 0 && tensor->numel() != count) {
    fail(std::string(name) + " " + shape_text(*tensor) + " must have " + std::to_string(count) + " elements");
  }
  tensor_ = dtype == ScalarType::Float ? dense(*tensor, dtype) : dense_integers(*tensor, dtype, name);
  count_ = tensor_->numel();
}

void Rows::set(const Tensor& tensor, const Codes& codes, int64_t width_hint, const char* name) {
  if (tensor.dim() != 4) {
    fail(std::string(name) + " " + shape_text(tensor) + " must have 4 dimensions [batch, heads, tokens, width]");
  }
  if (!tensor.is_cpu()) fail(std::string(name) + " must be on the CPU");
  if (tensor.size(3) > 1 && tensor.stride(3) != 1) {
    fail(std::string(name) + "'s last dimension has stride " + std::to_string(tensor.stride(3)) +
         " and must have stride 1: call .contiguous() on it first");
  }
  view.dtype = dtype_of(tensor, codes.format, name);
  const Packing packing = packing_of(view.dtype);
  const int64_t bytes = tensor.size(3);
  if (bytes % packing.bytes != 0) fail(std::string(name) + "'s last dimension must be whole blocks");
  width = bytes / packing.bytes * packing.elements;
  // A row of 4-bit codes of an odd width has one nibble left over.
  if (packing.elements == 2 && width_hint == width - 1) width = width_hint;
  batch = tensor.size(0);
  heads = tensor.size(1);
  tokens = tensor.size(2);
  const int64_t row = bytes / packing.bytes * packing.elements;
  view.data = data_of(tensor);
  view.stride_b = view_stride(tensor, 0, packing, row, name);
  view.stride_h = view_stride(tensor, 1, packing, row, name);
  view.stride_t = view_stride(tensor, 2, packing, row, name);
  const bool codes_outside = view.dtype >= MHA_I8 && view.dtype <= MHA_U4;
  if (codes_outside) {
    set_quant(*this, codes, name);
  } else if (codes.scales || codes.zeros || codes.hadamard) {
    fail(std::string(name) + "_scales, _zeros and _hadamard are for codes, but " + name + " holds floats or blocks");
  }
}

Tensor make_tensor(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, ScalarType dtype) {
  AtenTensorHandle handle = nullptr;
  const auto type = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  const auto status = aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), type,
                                               aoti_torch_device_type_cpu(), 0, &handle);
  if (status != TORCH_SUCCESS) fail("torch could not allocate a result");
  return Tensor(handle);
}

Tensor make_dense(const std::vector<int64_t>& sizes, ScalarType dtype) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * (sizes[i] > 1 ? sizes[i] : 1);
  return make_tensor(sizes, strides, dtype);
}

MaskStrides mask_strides(const Tensor& mask, const MaskExtent& extent, const char* name) {
  if (mask.dim() > 4) fail(std::string(name) + " must have at most 4 dimensions");
  if (!mask.is_cpu()) fail(std::string(name) + " must be on the CPU");
  const int64_t wanted[4] = {extent.batch, extent.heads, extent.queries, extent.keys};
  for (int64_t i = 0; i < 4; ++i) {
    const int64_t size = size_at(mask, i);
    const bool larger = extent.packed && i >= 2 && size >= wanted[i];
    if (size != 1 && size != wanted[i] && !larger) {
      fail(std::string(name) + " " + shape_text(mask) + " does not broadcast to [batch " + std::to_string(wanted[0]) +
           ", heads " + std::to_string(wanted[1]) + ", queries " + std::to_string(wanted[2]) + ", keys " +
           std::to_string(wanted[3]) + "]");
    }
  }
  MaskStrides strides = {stride_at(mask, 0), stride_at(mask, 1), stride_at(mask, 2), stride_at(mask, 3)};
  if (strides.k == 0) strides.k = MHA_BROADCAST;
  return strides;
}

}  // namespace mha_torch
