// SPDX-License-Identifier: Apache-2.0
// What the attention operators share: the arguments of mha_attention with their groups, and views of ONNX's layouts.
#pragma once

#include <memory>
#include <vector>

#include "host.h"

namespace host {

// The two layouts of a tensor with heads.
enum class Layout {
  kFlat,   // [B, T, heads * D]
  kByHead  // [B, heads, T, D]
};

struct Rows {
  std::int64_t batch = 0, heads = 0, length = 0, dim = 0;
};

mha_view view(const void* data, mha_dtype dtype, Layout layout, const Rows& rows);
mha_mut_view mut_view(void* data, mha_dtype dtype, Layout layout, const Rows& rows);
std::int64_t bytes_of(mha_dtype dtype);  // of an element; codes of 4 bits: 1, for two of them

struct Attention {
  mha_attention_args args = {};
  mha_items items = {};
  mha_positions positions = {};
  mha_masks masks = {};
  mha_score_mods score_mods = {};
  mha_rope rope = {};
  mha_norm query_norm = {};
  mha_results results = {};
  std::vector<std::int64_t> key_lengths, offsets, query_positions;  // where not empty, they are used
  std::vector<float> sinks;

  void set_keys(const mha_view& key, const mha_view& value, std::int64_t heads, std::int64_t length);
  // Of a causal call, or one with windows: query i stands at key i + offset.
  void set_offset(std::int64_t offset);
  bool depends_on_positions() const { return args.causal || masks.window_left || masks.window_right; }
  void forward(const mha_context* context, Call& call);
};

// Refuses tensors of earlier keys and values, where there are any, that do not fit those of this call; both or none.
void check_past(const char* op, const Tensor& past_key, const Tensor& past_value, const Rows& keys, const Rows& values);

// Strides in elements of a mask that is broadcast to `shape`, [B, H, Tq, Tk]. It refuses other masks, with the name of
// the input.
struct MaskStrides {
  std::int64_t b, h, q, k;
};
MaskStrides broadcast(const Tensor& mask, const char* name, const std::vector<std::int64_t>& shape);
mha_add_mask add_mask(const Tensor& mask, const MaskStrides& strides);
// Sets a mask of booleans. One that hides nothing, only the keys behind an item's last, or what is later than a query
// is not passed on as a mask, but as nothing, key_lengths, or causality: these cost no time for each key.
// `free_offset`: no position has been used yet, so that causality may bring its own offset.
void set_bool_mask(Attention& attention, const Tensor& mask, const MaskStrides& strides, bool free_offset);

// Copies rows, on the threads of the call.
void copy_rows(const mha_context* context, Call& call, const Rows& rows, const mha_view& from, const mha_mut_view& to);

// Keys or values of earlier calls and those of this call, one after the other, in an output of the node or in memory of
// the session.
class Joined {
 public:
  Joined(const mha_context* context, Call& call, ort::Allocator* allocator)
      : context_(context), call_(call), allocator_(allocator) {}
  // past: [B, heads, P, D], may be absent. fresh: of `rows`. output: the index of the present tensor, of type `stored`.
  mha_view join(const Tensor& past, const mha_view& fresh, const Rows& rows, mha_dtype stored, std::size_t output);

 private:
  const mha_context* context_;
  Call& call_;
  ort::Allocator* allocator_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
};

}  // namespace host
