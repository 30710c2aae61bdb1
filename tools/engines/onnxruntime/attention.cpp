// SPDX-License-Identifier: Apache-2.0
// See attention.h.
#include "attention.h"

namespace host {
namespace {

// view moved by `tokens` along its second dimension
mha_mut_view at_token(mha_mut_view view, std::int64_t tokens) {
  view.data = static_cast<char*>(view.data) + tokens * view.stride_t * bytes_of(view.dtype);
  return view;
}

}  // namespace

std::int64_t bytes_of(mha_dtype dtype) { return dtype == MHA_F32 ? 4 : dtype == MHA_F16 || dtype == MHA_BF16 ? 2 : 1; }

mha_view view(const void* data, mha_dtype dtype, Layout layout, const Rows& rows) {
  mha_view result = {};
  result.data = data;
  result.dtype = dtype;
  result.stride_b = rows.heads * rows.length * rows.dim;
  result.stride_t = layout == Layout::kFlat ? rows.heads * rows.dim : rows.dim;
  result.stride_h = layout == Layout::kFlat ? rows.dim : rows.length * rows.dim;
  return result;
}

mha_mut_view mut_view(void* data, mha_dtype dtype, Layout layout, const Rows& rows) {
  const mha_view same = view(data, dtype, layout, rows);
  mha_mut_view result = {};
  result.data = data;
  result.dtype = dtype;
  result.stride_b = same.stride_b;
  result.stride_t = same.stride_t;
  result.stride_h = same.stride_h;
  return result;
}

void Attention::set_keys(const mha_view& key, const mha_view& value, std::int64_t heads, std::int64_t length) {
  args.num_kv_heads = heads;
  args.key_len = length;
  args.key = key;
  args.value = value;
}

void Attention::set_offset(std::int64_t offset) {
  positions.align = MHA_ALIGN_OFFSET;
  positions.offset = offset;
}

void Attention::forward(const mha_context* context, Call& call) {
  if (!key_lengths.empty()) items.key_lengths = key_lengths.data();
  if (!offsets.empty() && (depends_on_positions() || (args.rope && query_positions.empty()))) {
    positions.align = MHA_ALIGN_OFFSET;
    positions.offset = 0;
    positions.offsets = offsets.data();
  }
  if (!query_positions.empty()) positions.query = query_positions.data();
  if (!sinks.empty()) score_mods.sink_logits = sinks.data();
  args.items = &items;
  args.positions = &positions;
  args.masks = &masks;
  args.score_mods = &score_mods;
  args.results = &results;
  args.resources = &call.resources;
  mha_error error = {};
  check(mha_attention(context, &args, &error), error);
}

void check_past(const char* op, const Tensor& past_key, const Tensor& past_value, const Rows& keys,
                const Rows& values) {
  if (!past_key && !past_value) return;
  const auto fits = [](const Tensor& past, const Rows& fresh) {
    return past && past.rank == 4 && past.dim(0) == fresh.batch && past.dim(1) == fresh.heads &&
           past.dim(3) == fresh.dim;
  };
  if (fits(past_key, keys) && fits(past_value, values) && past_key.dim(2) == past_value.dim(2)) return;
  refuse(std::string(op) + ": past_key " + (past_key ? past_key.text() : "(absent)") + " and past_value " +
         (past_value ? past_value.text() : "(absent)") + " do not fit the keys and values of this call");
}

MaskStrides broadcast(const Tensor& mask, const char* name, const std::vector<std::int64_t>& shape) {
  if (mask.rank > shape.size()) refuse(std::string(name) + " has more than 4 dimensions: " + mask.text());
  std::int64_t strides[4] = {0, 0, 0, 0}, step = 1;
  for (std::size_t i = 0; i < mask.rank; ++i) {
    const std::size_t from = mask.rank - 1 - i, to = shape.size() - 1 - i;
    const std::int64_t size = mask.dim(from);
    if (size != 1 && size != shape[to]) {
      refuse(std::string(name) + " is " + mask.text() + ": its dimension " + std::to_string(from) +
             " is neither 1 nor " + std::to_string(shape[to]));
    }
    strides[to] = size == 1 ? 0 : step;
    step *= size;
  }
  return {strides[0], strides[1], strides[2], strides[3] == 0 ? MHA_BROADCAST : strides[3]};
}

mha_add_mask add_mask(const Tensor& mask, const MaskStrides& strides) {
  return {mask.data, dtype(mask.type), 0, strides.b, strides.h, strides.q, strides.k};
}

void copy_rows(const mha_context* context, Call& call, const Rows& rows, const mha_view& from, const mha_mut_view& to) {
  mha_rows_args args = {};
  args.batch = rows.batch;
  args.length = rows.length;
  args.num_heads = rows.heads;
  args.head_dim = rows.dim;
  args.input = from;
  args.output = to;
  args.resources = &call.resources;
  mha_error error = {};
  check(mha_rows_prepare(context, &args, &error), error);
}

mha_view Joined::join(const Tensor& past, const mha_view& fresh, const Rows& rows, mha_dtype stored,
                      std::size_t output) {
  Rows old = rows, all = rows;
  old.length = past ? past.dim(2) : 0;
  all.length += old.length;
  void* present = call_.output(output, {all.batch, all.heads, all.length, all.dim});
  if (!present && !past) return fresh;
  if (!present) {
    buffers_.push_back(
        std::make_unique<Buffer>(allocator_, all.batch * all.heads * all.length * all.dim * bytes_of(stored)));
    present = buffers_.back()->data();
  }
  const mha_mut_view target = mut_view(present, stored, Layout::kByHead, all);
  if (old.length > 0) copy_rows(context_, call_, old, view(past.data, stored, Layout::kByHead, old), target);
  copy_rows(context_, call_, rows, fresh, at_token(target, old.length));
  return view(present, stored, Layout::kByHead, all);
}

}  // namespace host
