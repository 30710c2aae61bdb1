// SPDX-License-Identifier: Apache-2.0
// What adapters of engines that pass whole tensors share: a context, and dense tensors as arguments of mha_attention. As
// these engines broadcast, a batch, a head or a dimension of a mask that is 1 is repeated. Of shapes only a mask's is checked.
#ifndef MHA_ENGINES_COMMON_DENSE_H
#define MHA_ENGINES_COMMON_DENSE_H

#include <algorithm>
#include <array>
#include <cstdint>
#include <mha/mha.hpp>

namespace mha_engines {

enum class Order { kTokensFirst, kHeadsFirst };  // [B, T, H, D] or [B, H, T, D]

struct Tensor {
  void* data;
  mha_dtype dtype;
  std::array<std::int64_t, 4> size;
};

/// A tensor of at most four dimensions; those that are missing are 1.
template <class Dims>
Tensor dense(void* data, mha_dtype dtype, const Dims& dims) {
  Tensor tensor{data, dtype, {1, 1, 1, 1}};
  std::copy_backward(dims.begin(), dims.end(), tensor.size.end());
  return tensor;
}

inline mha_view view_of(const Tensor& tensor, Order order, std::int64_t batch, std::int64_t heads) {
  const auto& size = tensor.size;
  const bool tokens_first = order == Order::kTokensFirst;
  mha_view view = {};
  view.data = tensor.data;
  view.dtype = tensor.dtype;
  view.stride_b = size[0] == 1 && batch != 1 ? MHA_BROADCAST : size[1] * size[2] * size[3];
  view.stride_t = tokens_first ? size[2] * size[3] : size[3];
  view.stride_h = tokens_first ? size[3] : size[2] * size[3];
  if (size[tokens_first ? 2 : 1] == 1 && heads != 1) view.stride_h = MHA_BROADCAST;
  return view;
}

/// Sizes and views of a call. Key and value may have fewer heads than query (grouped heads).
inline void set_tensors(mha::AttentionCall& call, Order order, const Tensor& query, const Tensor& key,
                        const Tensor& value, const Tensor& output) {
  const int tokens = order == Order::kTokensFirst ? 1 : 2, heads = 3 - tokens;
  call.batch = output.size[0];
  call.num_heads = output.size[heads];
  call.num_kv_heads = std::max(key.size[heads], value.size[heads]);
  call.query_len = output.size[tokens];
  call.key_len = key.size[tokens];
  call.head_dim = key.size[3];
  call.value_head_dim = value.size[3];
  call.query = view_of(query, order, call.batch, call.num_heads);
  call.key = view_of(key, order, call.batch, call.num_kv_heads);
  call.value = view_of(value, order, call.batch, call.num_kv_heads);
  const mha_view written = view_of(output, order, call.batch, call.num_heads);
  call.output = {output.data, output.dtype, 0, written.stride_b, written.stride_t, written.stride_h};
}

/// A mask [1 or B, 1 or H, 1 or Tq, 1 or Tk], after set_tensors: of bytes, not 0 where a query sees a key, or of numbers
/// to add. False: it has other sizes.
inline bool set_mask(mha::AttentionCall& call, const Tensor& tensor, bool is_bool) {
  const auto& size = tensor.size;
  const std::array<std::int64_t, 4> scores = {call.batch, call.num_heads, call.query_len, call.key_len};
  for (std::size_t n = 0; n < scores.size(); ++n) {
    if (size[n] != 1 && size[n] != scores[n]) return false;
  }
  const std::int64_t stride_k = size[3] == 1 ? MHA_BROADCAST : 1, stride_q = size[2] == 1 ? 0 : size[3];
  const std::int64_t stride_h = size[1] == 1 ? 0 : size[2] * size[3];
  const std::int64_t stride_b = size[0] == 1 ? 0 : size[1] * size[2] * size[3];
  if (is_bool) {
    call.masks.bool_mask = {static_cast<const std::uint8_t*>(tensor.data), stride_b, stride_h, stride_q, stride_k};
  } else {
    call.masks.add_mask = {tensor.data, tensor.dtype, 0, stride_b, stride_h, stride_q, stride_k};
  }
  return true;
}

/// A context over the engine's threads: one for all calls, each of which says how many threads the engine has.
inline mha::Result<mha::Context> make_context(decltype(mha_parallel_for::run) run) {
  mha_context_options options = {};
  options.parallel_for.run = run;
  options.num_threads = 1024;  // the most
  return mha::Context::create(options);
}

}  // namespace mha_engines

#endif  // MHA_ENGINES_COMMON_DENSE_H
