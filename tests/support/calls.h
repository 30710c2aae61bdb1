// SPDX-License-Identifier: Apache-2.0
// The C calls over arguments that own their groups (AttentionCall and LayerCall of mha.hpp), and what calls say of masks
// as one value.
#ifndef MHA_TESTS_SUPPORT_CALLS_H
#define MHA_TESTS_SUPPORT_CALLS_H

#include "core/mha.hpp"

namespace mha::test {

// For tests that use this namespace alone.
using mha::AttentionCall;
using mha::LayerCall;
using mha::mut_view;
using mha::Strides;
using mha::view;

inline mha_status attention(const mha_context* context, const AttentionCall& call, mha_error* error = nullptr) {
  const mha_attention_args args = call.raw();
  return mha_attention(context, &args, error);
}
inline mha_status attention_workspace_bytes(const mha_context* context, const AttentionCall& call, size_t* bytes,
                                            mha_error* error = nullptr) {
  const mha_attention_args args = call.raw();
  return mha_attention_workspace_bytes(context, &args, bytes, error);
}
inline mha_status attention_workspace_bound(const mha_context* context, const AttentionCall& call, size_t* bytes,
                                            mha_error* error = nullptr) {
  const mha_attention_args args = call.raw();
  return mha_attention_workspace_bound(context, &args, bytes, error);
}
inline mha_status attention_explain(const mha_context* context, const AttentionCall& call, char* text, size_t capacity,
                                    size_t* needed, mha_error* error = nullptr) {
  const mha_attention_args args = call.raw();
  return mha_attention_explain(context, &args, text, capacity, needed, error);
}
/// A part that stands at the end of its keys, as calls do by default, must say so.
inline AttentionCall as_part(AttentionCall call) {
  if (call.positions.align == MHA_ALIGN_DEFAULT) call.positions.align = MHA_ALIGN_END;
  return call;
}
inline mha_status attention_partial(const mha_context* context, const AttentionCall& call, void* partials, size_t bytes,
                                    mha_error* error = nullptr) {
  const AttentionCall part = as_part(call);
  const mha_attention_args args = part.raw();
  return mha_attention_partial(context, &args, partials, bytes, error);
}
inline mha_status attention_partial_bytes(const mha_context* context, const AttentionCall& call, size_t* bytes,
                                          mha_error* error = nullptr) {
  const AttentionCall part = as_part(call);
  const mha_attention_args args = part.raw();
  return mha_attention_partial_bytes(context, &args, bytes, error);
}
inline mha_status layer_forward(const mha_context* context, const mha_layer* layer, const LayerCall& call,
                                mha_error* error = nullptr) {
  const mha_layer_args args = call.raw();
  return mha_layer_forward(context, layer, &args, error);
}
inline mha_status layer_workspace_bytes(const mha_context* context, const mha_layer* layer, const LayerCall& call,
                                        size_t* bytes, mha_error* error = nullptr) {
  const mha_layer_args args = call.raw();
  return mha_layer_workspace_bytes(context, layer, &args, bytes, error);
}
inline mha_status layer_workspace_bound(const mha_context* context, const mha_layer* layer, const LayerCall& call,
                                        size_t* bytes, mha_error* error = nullptr) {
  const mha_layer_args args = call.raw();
  return mha_layer_workspace_bound(context, layer, &args, bytes, error);
}
inline mha_status layer_explain(const mha_context* context, const mha_layer* layer, const LayerCall& call, char* text,
                                size_t capacity, size_t* needed, mha_error* error = nullptr) {
  const mha_layer_args args = call.raw();
  return mha_layer_explain(context, layer, &args, text, capacity, needed, error);
}

/// Which keys a query sees: masks, and what calls say of it elsewhere.
struct Masks : mha_masks {
  Masks() : mha_masks() {}

  int causal = 0;
  mha_align align = MHA_ALIGN_DEFAULT;
  int64_t offset = 0;                    // with MHA_ALIGN_OFFSET, or
  const int64_t* offsets = nullptr;      // of each item
  const int64_t* key_lengths = nullptr;  // of mha_items

  void set_offset(int64_t at) { align = MHA_ALIGN_OFFSET, offset = at, offsets = nullptr; }
  /// p(0) of item b, of a call of Tq queries and Tk keys.
  int64_t first_position(int64_t b, int64_t Tq, int64_t Tk) const {
    if (align == MHA_ALIGN_START) return 0;
    if (align == MHA_ALIGN_OFFSET) return offsets ? offsets[b] : offset;
    return (key_lengths ? key_lengths[b] : Tk) - Tq;
  }

  template <class Call>
  void put_into(Call* call) const {
    call->masks = *this;
    call->causal = causal;
    call->positions.align = align, call->positions.offset = offset, call->positions.offsets = offsets;
    call->items.key_lengths = key_lengths;
  }
};

/// The queries of a call whose weights are wanted.
template <class Call>
void choose_weights_rows(Call* call, const int64_t* rows, int64_t count) {
  call->results.weights_rows = rows, call->results.num_weights_rows = count;
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_CALLS_H
