// SPDX-License-Identifier: Apache-2.0
// The kernel of mha::sdpa.out for ExecuTorch's runtime: attention over tensors [B, H, T, D], on the runtime's threads.
// Loading this library registers it. mha_executorch.py declares the operator for export.
#include <executorch/extension/kernel_util/make_boxed_from_unboxed_functor.h>
#include <executorch/runtime/kernel/kernel_includes.h>
#include <executorch/runtime/kernel/thread_parallel_interface.h>

#include <optional>

#include "dense.h"

namespace {

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::runtime::KernelRuntimeContext;

void run_on_pool(void* /*user*/, int64_t count, void (*task)(void*, int64_t), void* data) {
  executorch::extension::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) task(data, index);
  });
}

mha_engines::Tensor dense(const Tensor& tensor) {
  const ScalarType type = tensor.scalar_type();
  const mha_dtype dtype = type == ScalarType::Half ? MHA_F16 : type == ScalarType::BFloat16 ? MHA_BF16 : MHA_F32;
  return mha_engines::dense(tensor.mutable_data_ptr(), dtype, tensor.sizes());
}

// Three or four dimensions (a mask may have fewer) in their usual order, of f32, f16 or bf16 (a mask may be bool).
bool is_served(const Tensor& tensor, bool is_mask) {
  const ScalarType type = tensor.scalar_type();
  const bool is_float = type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::BFloat16;
  return tensor.dim() <= 4 && (is_mask || tensor.dim() >= 3) && (is_float || (is_mask && type == ScalarType::Bool)) &&
         executorch::runtime::tensor_is_default_dim_order(tensor);
}

// Gives the output its shape, and fills the call. The sizes of a program with dynamic shapes are known here only.
bool set_tensors(mha::AttentionCall& call, const Tensor& query, const Tensor& key, const Tensor& value, Tensor& out) {
  const auto q = dense(query).size, k = dense(key).size, v = dense(value).size;
  const bool fit = q[0] == k[0] && q[3] == k[3] && k[0] == v[0] && k[1] == v[1] && k[2] == v[2] && k[1] != 0 &&
                   q[1] % k[1] == 0 && query.dim() == key.dim() && query.dim() == value.dim();
  if (!fit) return false;
  std::array<executorch::aten::SizesType, 4> sizes = {};
  std::copy(query.sizes().begin(), query.sizes().end(), sizes.begin());
  sizes[query.dim() - 1] = value.size(value.dim() - 1);
  const auto shape = executorch::aten::ArrayRef<executorch::aten::SizesType>(sizes.data(), query.dim());
  if (executorch::runtime::resize_tensor(out, shape) != executorch::runtime::Error::Ok) return false;
  mha_engines::set_tensors(call, mha_engines::Order::kHeadsFirst, dense(query), dense(key), dense(value), dense(out));
  return true;
}

Tensor& sdpa_out(KernelRuntimeContext& runtime, const Tensor& query, const Tensor& key, const Tensor& value,
                 const std::optional<Tensor>& mask, bool is_causal, std::optional<double> scale, Tensor& out) {
  static mha::Result<mha::Context> context = mha_engines::make_context(run_on_pool);
  ET_KERNEL_CHECK_MSG(runtime, context, InvalidState, out, "mha: %s", context.status().message());
  for (const Tensor* tensor : {&query, &key, &value, const_cast<const Tensor*>(&out)}) {
    ET_KERNEL_CHECK_MSG(runtime, is_served(*tensor, false), InvalidArgument, out,
                        "mha::sdpa: query, key and value must be f32, f16 or bf16 of 3 or 4 dimensions");
  }
  mha::AttentionCall call;
  ET_KERNEL_CHECK_MSG(runtime, set_tensors(call, query, key, value, out), InvalidArgument, out,
                      "mha::sdpa: the shapes of query, key, value and out do not fit each other");
  if (mask.has_value()) {
    const bool is_bool = mask->scalar_type() == ScalarType::Bool;
    ET_KERNEL_CHECK_MSG(runtime, is_served(*mask, true) && mha_engines::set_mask(call, dense(*mask), is_bool),
                        InvalidArgument, out,
                        "mha::sdpa: attn_mask must be bool or float and broadcast to [B, H, Tq, Tk]");
  }
  call.causal = is_causal;
  call.positions.align = MHA_ALIGN_START;  // as torch: query 0 stands at key 0
  call.scale = static_cast<float>(scale.value_or(0));
  call.scale_is_exact = scale.has_value();
  call.resources.max_threads = executorch::extension::get_thread_count();
  const mha::Status status = context->attention(call);
  ET_KERNEL_CHECK_MSG(runtime, status.code() != MHA_ERR_OUT_OF_MEMORY, MemoryAllocationFailed, out, "mha::sdpa: %s",
                      status.message());
  ET_KERNEL_CHECK_MSG(runtime, status, InvalidArgument, out, "mha::sdpa: %s", status.message());
  return out;
}

}  // namespace

EXECUTORCH_LIBRARY(mha, "sdpa.out", sdpa_out);
