// SPDX-License-Identifier: Apache-2.0
#include "tools/python/torch_ops/options.h"

#include <algorithm>

#include "tools/python/torch_ops/runtime.h"

namespace mha_torch {
namespace {

// The greatest difference of neighbours, after a check that the offsets ascend from 0 to `total`.
int64_t longest_item(const List& offsets, int64_t total, const char* name) {
  const auto* data = offsets.data<int64_t>();
  const int64_t count = offsets.count();
  if (count < 1 || data[0] != 0 || data[count - 1] != total) {
    fail(std::string(name) + " must begin with 0 and end with the number of tokens, " + std::to_string(total));
  }
  int64_t longest = 0;
  for (int64_t i = 1; i < count; ++i) {
    if (data[i] < data[i - 1]) fail(std::string(name) + " must ascend");
    longest = std::max(longest, data[i] - data[i - 1]);
  }
  return longest;
}

mha_align align_of(const std::string& text) {
  if (text.empty() || text == "start") return MHA_ALIGN_START;
  if (text == "end") return MHA_ALIGN_END;
  fail("align \"" + text + "\" is neither start nor end");
}

mha_add_mask add_mask_of(const Tensor& mask, const MaskExtent& extent, const char* name) {
  const MaskStrides strides = mask_strides(mask, extent, name);
  mha_add_mask result = {};
  result.data = data_of(mask);
  result.dtype = float_dtype(mask, name);
  result.stride_b = strides.b;
  result.stride_h = strides.h;
  result.stride_q = strides.q;
  result.stride_k = strides.k;
  return result;
}

mha_bool_mask bool_mask_of(const Tensor& mask, const MaskExtent& extent, const char* name) {
  const MaskStrides strides = mask_strides(mask, extent, name);
  mha_bool_mask result = {};
  result.data = static_cast<const uint8_t*>(data_of(mask));
  result.stride_b = strides.b;
  result.stride_h = strides.h;
  result.stride_q = strides.q;
  result.stride_k = strides.k;
  return result;
}

// A row of bytes has a bit for each key, the lowest first; it may be longer than the keys.
mha_bit_mask bit_mask_of(const Tensor& mask, MaskExtent extent) {
  const int64_t row = (extent.keys + 7) / 8, last = mask.dim() - 1;
  require(mask.scalar_type() == ScalarType::Byte, "bit_mask must be a uint8 tensor");
  require(mask.dim() > 0 && mask.size(last) >= row && (row <= 1 || mask.stride(last) == 1),
          "rows of bit_mask must be dense and have at least (keys + 7) / 8 bytes");
  extent.keys = mask.size(last);
  const MaskStrides strides = mask_strides(mask, extent, "bit_mask");
  mha_bit_mask result = {};
  result.data = static_cast<const uint8_t*>(data_of(mask));
  result.stride_b = strides.b;
  result.stride_h = strides.h;
  result.stride_q = strides.q;
  return result;
}

}  // namespace

Options::Options(Stack& stack) {
  attn_mask_ = stack.next<OptionalTensor>();
  is_causal_ = stack.next<bool>();
  scale_ = stack.next<std::optional<double>>();
  arithmetic_ = stack.next_text();
  align_ = stack.next_text();
  offset_ = stack.next<std::optional<int64_t>>();
  offsets_ = stack.next<OptionalTensor>();
  window_left_ = stack.next<int64_t>();
  window_right_ = stack.next<int64_t>();
  sink_tokens_ = stack.next<int64_t>();
  prefix_lengths_ = stack.next<OptionalTensor>();
  query_offsets_ = stack.next<OptionalTensor>();
  key_offsets_ = stack.next<OptionalTensor>();
  key_lengths_ = stack.next<OptionalTensor>();
  query_segments_ = stack.next<OptionalTensor>();
  key_segments_ = stack.next<OptionalTensor>();
  attn_bias_ = stack.next<OptionalTensor>();
  add_mask_factors_ = stack.next<OptionalTensor>();
  bit_mask_ = stack.next<OptionalTensor>();
  block_pairs_ = stack.next<OptionalTensor>();
  block_pair_offsets_ = stack.next<OptionalTensor>();
  query_block_ = stack.next<int64_t>();
  key_block_ = stack.next<int64_t>();
  softcap_ = stack.next<double>();
  alibi_slopes_ = stack.next<OptionalTensor>();
  relative_bias_ = stack.next<OptionalTensor>();
  relative_left_ = stack.next<int64_t>();
  sink_logits_ = stack.next<OptionalTensor>();
  query_norm_ = stack.next<OptionalTensor>();
  norm_epsilon_ = stack.next<double>();
  rope_cos_ = stack.next<OptionalTensor>();
  rope_sin_ = stack.next<OptionalTensor>();
  rope_interleaved_ = stack.next<bool>();
  positions_ = stack.next<OptionalTensor>();
}

void Options::fill(const Extent& extent) {
  refuse_gradient({&attn_mask_, &attn_bias_, &add_mask_factors_, &alibi_slopes_, &relative_bias_, &sink_logits_,
                   &query_norm_, &rope_cos_, &rope_sin_});
  fill_items(extent);
  fill_positions(extent);
  fill_masks(extent);
  fill_score_mods(extent);
  fill_norm_and_rope(extent);
}

void Options::fill_items(const Extent& extent) {
  packed_queries = query_offsets_.has_value();
  batch = extent.query_batch;
  longest_queries_ = extent.query_tokens;
  longest_keys = extent.key_rows;
  if (query_offsets_) {
    require(extent.query_batch == 1, "with query_offsets the query is packed and its batch dimension must be 1");
    query_offsets_list_.set(query_offsets_, ScalarType::Long, -1, "query_offsets");
    longest_queries_ = longest_item(query_offsets_list_, extent.query_tokens, "query_offsets");
    batch = query_offsets_list_.count() - 1;
    if (!extent.has_own_keys) longest_keys = longest_queries_;
  }
  if (key_offsets_) {
    require(extent.key_batch == 1, "with key_offsets key and value are packed and their batch dimension must be 1");
    require(!extent.keys_in_pages, "key_offsets and page_table exclude each other");
    key_offsets_list_.set(key_offsets_, ScalarType::Long, batch + 1, "key_offsets");
    longest_keys = longest_item(key_offsets_list_, extent.key_tokens, "key_offsets");
  }
  key_lengths_list_.set(key_lengths_, ScalarType::Long, batch, "key_lengths");
  has_items_ = query_offsets_ || key_offsets_ || key_lengths_;
  items_.query_offsets = query_offsets_list_.data<int64_t>();
  items_.key_offsets = key_offsets_list_.data<int64_t>();
  items_.key_lengths = key_lengths_list_.data<int64_t>();
}

void Options::fill_positions(const Extent& extent) {
  require(!(offset_ && offsets_), "offset and offsets exclude each other");
  require(align_.empty() || !(offset_ || offsets_), "align and offset exclude each other");
  offsets_list_.set(offsets_, ScalarType::Long, batch, "offsets");
  positions_group_.align = offset_ || offsets_ ? MHA_ALIGN_OFFSET : align_of(align_);
  positions_group_.offset = offset_.value_or(0);
  positions_group_.offsets = offsets_list_.data<int64_t>();
  const int64_t count = packed_queries ? extent.query_tokens : batch * extent.query_tokens;
  positions_list_.set(positions_, ScalarType::Long, count, "positions");
  positions_group_.query = positions_list_.data<int64_t>();
}

void Options::fill_masks(const Extent& extent) {
  masks_.window_left = window_left_;
  masks_.window_right = window_right_;
  masks_.sink_tokens = sink_tokens_;
  prefix_list_.set(prefix_lengths_, ScalarType::Long, batch, "prefix_lengths");
  masks_.prefix_lengths = prefix_list_.data<int64_t>();
  query_segments_list_.set(query_segments_, ScalarType::Int,
                           packed_queries ? extent.query_tokens : batch * extent.query_tokens, "query_segments");
  const int64_t keys = !extent.has_own_keys && packed_queries ? extent.query_tokens
                       : key_offsets_                         ? extent.key_tokens
                                                              : batch * longest_keys;
  key_segments_list_.set(key_segments_, ScalarType::Int, keys, "key_segments");
  masks_.query_segments = query_segments_list_.data<int32_t>();
  masks_.key_segments = key_segments_list_.data<int32_t>();
  MaskExtent masks = {batch, extent.num_heads, longest_queries_, longest_keys, packed_queries || key_offsets_};
  fill_tensor_masks(masks);
  factors_list_.set(add_mask_factors_, ScalarType::Float, extent.num_heads, "add_mask_factors");
  masks_.add_mask_factors = factors_list_.data<float>();
  if (bit_mask_) masks_.bit_mask = bit_mask_of(*bit_mask_, masks);
  fill_block_mask(extent);
  has_masks_ = window_left_ != 0 || window_right_ != 0 || sink_tokens_ != 0 || prefix_lengths_ || query_segments_ ||
               key_segments_ || attn_mask_ || attn_bias_ || add_mask_factors_ || bit_mask_ || block_pairs_;
}

void Options::fill_tensor_masks(const MaskExtent& extent) {
  mha_add_mask* added[] = {&masks_.add_mask, &masks_.add_mask2};
  const OptionalTensor* given[] = {&attn_mask_, &attn_bias_};
  const char* names[] = {"attn_mask", "attn_bias"};
  int num_added = 0;
  for (int i = 0; i < 2; ++i) {
    if (!*given[i]) continue;
    const Tensor& mask = **given[i];
    if (mask.scalar_type() != ScalarType::Bool) {
      *added[num_added++] = add_mask_of(mask, extent, names[i]);
    } else {
      require(masks_.bool_mask.data == nullptr,
              "attn_mask and attn_bias must not both be boolean: combine them with &");
      masks_.bool_mask = bool_mask_of(mask, extent, names[i]);
    }
  }
}

void Options::fill_block_mask(const Extent& extent) {
  if (!block_pairs_) {
    require(!block_pair_offsets_ && query_block_ == 0 && key_block_ == 0, "a block mask needs block_pairs");
    return;
  }
  require(block_pairs_->dim() == 2 && block_pairs_->size(1) == 2, "block_pairs must have the shape [pairs, 2]");
  pairs_list_.set(block_pairs_, ScalarType::Long, -1, "block_pairs");
  pair_offsets_list_.set(block_pair_offsets_, ScalarType::Long, batch * extent.num_heads + 1, "block_pair_offsets");
  masks_.block_mask.query_block = query_block_;
  masks_.block_mask.key_block = key_block_;
  masks_.block_mask.pairs = pairs_list_.data<int64_t>();
  masks_.block_mask.num_pairs = block_pairs_->size(0);
  masks_.block_mask.pair_offsets = pair_offsets_list_.data<int64_t>();
}

void Options::fill_score_mods(const Extent& extent) {
  score_mods_.softcap = static_cast<float>(softcap_);
  alibi_list_.set(alibi_slopes_, ScalarType::Float, extent.num_heads, "alibi_slopes");
  sink_list_.set(sink_logits_, ScalarType::Float, extent.num_heads, "sink_logits");
  score_mods_.alibi_slopes = alibi_list_.data<float>();
  score_mods_.sink_logits = sink_list_.data<float>();
  require(relative_bias_ || relative_left_ == 0, "relative_left needs relative_bias");
  if (relative_bias_) {
    require(relative_bias_->dim() == 2 && relative_bias_->size(0) == extent.num_heads,
            "relative_bias must have the shape [heads, relative_left + relative_right + 1]");
    require(relative_left_ >= 0 && relative_left_ < relative_bias_->size(1),
            "relative_left must be an index of relative_bias' second dimension");
    bias_list_.set(relative_bias_, ScalarType::Float, -1, "relative_bias");
    score_mods_.relative_bias = bias_list_.data<float>();
    score_mods_.relative_left = relative_left_;
    score_mods_.relative_right = relative_bias_->size(1) - 1 - relative_left_;
  }
  has_score_mods_ = softcap_ != 0 || alibi_slopes_ || relative_bias_ || sink_logits_;
}

void Options::fill_norm_and_rope(const Extent& extent) {
  norm_list_.set(query_norm_, ScalarType::Float, extent.head_dim, "query_norm");
  norm_.weight = norm_list_.data<float>();
  norm_.epsilon = static_cast<float>(norm_epsilon_);
  require(query_norm_ || norm_epsilon_ == 0, "norm_epsilon needs query_norm");
  require(rope_cos_.has_value() == rope_sin_.has_value(), "give both rope_cos and rope_sin, or none");
  require(rope_cos_ || !(positions_ || rope_interleaved_), "positions and rope_interleaved need rope_cos and rope_sin");
  if (!rope_cos_) return;
  require(rope_cos_->dim() == 2, "rope_cos must have the shape [positions, dims / 2]");
  cos_list_.set(rope_cos_, ScalarType::Float, -1, "rope_cos");
  sin_list_.set(rope_sin_, ScalarType::Float, rope_cos_->numel(), "rope_sin");
  rope_.style = rope_interleaved_ ? MHA_ROPE_INTERLEAVED : MHA_ROPE_HALF;
  rope_.dims = rope_cos_->size(1) * 2;
  rope_.cos = cos_list_.data<float>();
  rope_.sin = sin_list_.data<float>();
  rope_.table_positions = rope_cos_->size(0);
}

}  // namespace mha_torch
