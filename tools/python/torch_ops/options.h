// SPDX-License-Identifier: Apache-2.0
// What all attention ops share: the arguments after query, key and value, and the groups of mha.h made from them.
#ifndef MHA_TORCH_OPS_OPTIONS_H
#define MHA_TORCH_OPS_OPTIONS_H

#include <mha/mha.h>

#include "tools/python/torch_ops/tensors.h"

namespace mha_torch {

// The schema of the arguments that Options reads, in the same order.
inline constexpr const char* kOptionsSchema =
    "Tensor? attn_mask=None, bool is_causal=False, *, float? scale=None, str? arithmetic=None, str? align=None, "
    "SymInt? offset=None, Tensor? offsets=None, SymInt window_left=0, SymInt window_right=0, SymInt sink_tokens=0, "
    "Tensor? prefix_lengths=None, Tensor? query_offsets=None, Tensor? key_offsets=None, Tensor? key_lengths=None, "
    "Tensor? query_segments=None, Tensor? key_segments=None, Tensor? attn_bias=None, "
    "Tensor? add_mask_factors=None, Tensor? bit_mask=None, Tensor? block_pairs=None, Tensor? block_pair_offsets=None, "
    "SymInt query_block=0, SymInt key_block=0, float softcap=0.0, "
    "Tensor? alibi_slopes=None, Tensor? relative_bias=None, SymInt relative_left=0, Tensor? sink_logits=None, "
    "Tensor? query_norm=None, float norm_epsilon=0.0, Tensor? rope_cos=None, Tensor? rope_sin=None, "
    "bool rope_interleaved=False, Tensor? positions=None";

struct Extent {
  int64_t num_heads = 0, query_tokens = 0, key_tokens = 0, key_batch = 0, query_batch = 0, head_dim = 0;
  int64_t key_rows = 0;      // keys of an item where they are not packed: Tk, or an upper bound with pages
  bool has_own_keys = true;  // false: keys are projected from the query (self-attention of a layer)
  bool keys_in_pages = false;
};

// Reads the arguments from the stack; then fill() checks them and makes the groups. The groups point into this object.
class Options {
 public:
  explicit Options(Stack& stack);
  Options(const Options&) = delete;
  Options& operator=(const Options&) = delete;

  void fill(const Extent& extent);
  template <typename Args>
  void apply(Args& args) const {
    args.batch = batch;
    args.causal = is_causal_ ? 1 : 0;
    args.items = has_items_ ? &items_ : nullptr;
    args.positions = &positions_group_;
    args.masks = has_masks_ ? &masks_ : nullptr;
    args.score_mods = has_score_mods_ ? &score_mods_ : nullptr;
    args.query_norm = query_norm_ ? &norm_ : nullptr;
    args.rope = rope_cos_ ? &rope_ : nullptr;
    args.arithmetic = arithmetic_of(arithmetic_);
  }
  template <typename Args>
  void apply_scale(Args& args) const {
    if (!scale_) return;
    args.scale = static_cast<float>(*scale_);
    args.scale_is_exact = 1;
  }
  bool has_scale() const { return scale_.has_value(); }

  int64_t batch = 0;         // items
  int64_t longest_keys = 0;  // the greatest Tk_b, which is the width of attention weights
  bool packed_queries = false;

 private:
  void fill_items(const Extent& extent);
  void fill_positions(const Extent& extent);
  void fill_masks(const Extent& extent);
  void fill_tensor_masks(const MaskExtent& extent);
  void fill_block_mask(const Extent& extent);
  void fill_score_mods(const Extent& extent);
  void fill_norm_and_rope(const Extent& extent);

  OptionalTensor attn_mask_;
  bool is_causal_ = false;
  std::optional<double> scale_;
  std::string arithmetic_, align_;
  std::optional<int64_t> offset_;
  OptionalTensor offsets_;
  int64_t window_left_ = 0, window_right_ = 0, sink_tokens_ = 0;
  OptionalTensor prefix_lengths_, query_offsets_, key_offsets_, key_lengths_, query_segments_, key_segments_;
  OptionalTensor attn_bias_, add_mask_factors_, bit_mask_, block_pairs_, block_pair_offsets_;
  int64_t query_block_ = 0, key_block_ = 0;
  double softcap_ = 0;
  OptionalTensor alibi_slopes_, relative_bias_;
  int64_t relative_left_ = 0;
  OptionalTensor sink_logits_, query_norm_;
  double norm_epsilon_ = 0;
  OptionalTensor rope_cos_, rope_sin_;
  bool rope_interleaved_ = false;
  OptionalTensor positions_;

  List offsets_list_, prefix_list_, query_offsets_list_, key_offsets_list_, key_lengths_list_, query_segments_list_,
      key_segments_list_, factors_list_, pairs_list_, pair_offsets_list_, alibi_list_, bias_list_, sink_list_,
      norm_list_, cos_list_, sin_list_, positions_list_;

  bool has_items_ = false, has_masks_ = false, has_score_mods_ = false;
  int64_t longest_queries_ = 0;
  mha_items items_ = {};
  mha_positions positions_group_ = {};
  mha_masks masks_ = {};
  mha_score_mods score_mods_ = {};
  mha_norm norm_ = {};
  mha_rope rope_ = {};
};

}  // namespace mha_torch

#endif  // MHA_TORCH_OPS_OPTIONS_H
