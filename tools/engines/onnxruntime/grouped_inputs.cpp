// SPDX-License-Identifier: Apache-2.0
// See grouped.h.
#include "grouped.h"

namespace host {
namespace grouped {

Settings::Settings(const Node& node)
    : heads(node.integer("num_heads", 0)),
      key_heads(node.integer("kv_num_heads", 0)),
      causal(node.integer("causal", 1)),
      window(node.integer("local_window_size", -1)),
      rotary(node.integer("do_rotary", 0)),
      interleaved(node.integer("rotary_interleaved", 0)),
      smooth(node.integer("smooth_softmax", -1)),
      bits(node.integer("kv_cache_bit_width", 0)),
      scale(node.real("scale", 0)),
      softcap(node.real("softcap", 0)),
      key_type(node.string("k_quant_type", "NONE")),
      value_type(node.string("v_quant_type", "NONE")) {
  const float epsilon = node.real("qk_norm_epsilon", 1e-6F);
  query_epsilon = node.real("q_norm_epsilon", epsilon);
  key_epsilon = node.real("k_norm_epsilon", epsilon);
  if (heads <= 0 || key_heads <= 0 || heads % key_heads != 0) {
    refuse("GroupQueryAttention: num_heads " + std::to_string(heads) + " is no multiple of kv_num_heads " +
           std::to_string(key_heads));
  }
}

Operands read_operands(const Call& call, const Settings& of) {
  const Tensor query = call.input(kQuery), key = call.input(kKey), value = call.input(kValue);
  const Tensor past = call.input(kPastKey);
  if (query.rank != 3) refuse("GroupQueryAttention: query has not 3 dimensions: " + query.text());
  Operands result;
  result.type = dtype(query.type);
  result.stored = !past || past.type == query.type ? result.type : past.type == ort::kUint8 ? MHA_I4 : MHA_I8;
  const std::int64_t bits = result.stored == MHA_I4 ? 4 : 8;
  if ((result.stored == MHA_I4 || result.stored == MHA_I8) && of.bits != 0 && of.bits != bits) {
    refuse("GroupQueryAttention: kv_cache_bit_width is " + std::to_string(of.bits) + ", but the cache has codes of " +
           std::to_string(bits) + " bits");
  }
  const std::int64_t parts = key ? of.heads : of.heads + 2 * of.key_heads, dim = query.dim(2) / parts;
  if (query.dim(2) % parts != 0 || !key != !value) {
    refuse("GroupQueryAttention: query " + query.text() + " does not fit num_heads " + std::to_string(of.heads) +
           " and kv_num_heads " + std::to_string(of.key_heads));
  }
  result.queries = {query.dim(0), of.heads, query.dim(1), dim};
  result.keys = {query.dim(0), of.key_heads, query.dim(1), dim};
  result.query = view(query.data, result.type, Layout::kFlat, result.queries);
  if (!key) {  // [B, S, (heads of queries, keys, values) * D]
    result.query.stride_t = query.dim(2);
    result.query.stride_b = query.dim(1) * query.dim(2);
    result.key = result.value = result.query;
    const char* data = static_cast<const char*>(query.data);
    result.key.data = data + of.heads * dim * bytes_of(result.type);
    result.value.data = data + (of.heads + of.key_heads) * dim * bytes_of(result.type);
    return result;
  }
  for (const Tensor* each : {&key, &value}) {
    if (each->rank != 3 || each->dim(0) != query.dim(0) || each->dim(1) != query.dim(1) ||
        each->dim(2) != of.key_heads * dim) {
      refuse("GroupQueryAttention: " + std::string(each == &key ? "key " : "value ") + each->text() +
             " does not fit query " + query.text());
    }
  }
  result.key = view(key.data, result.type, Layout::kFlat, result.keys);
  result.value = view(value.data, result.type, Layout::kFlat, result.keys);
  return result;
}

std::vector<Lengths> read_lengths(const Call& call, const Rows& queries) {
  const Tensor after = call.input(kLengths), fresh = call.input(kQueryLengths), total = call.input(kTotal);
  if (after.elements() != queries.batch || total.elements() != 1 || (fresh && fresh.elements() != queries.batch)) {
    refuse("GroupQueryAttention: seqlens_k " + after.text() + " and total_sequence_length " + total.text() +
           " with batch size " + std::to_string(queries.batch));
  }
  const bool first = !fresh && total.as<std::int32_t>()[0] == queries.length;
  std::vector<Lengths> result;
  for (std::int64_t b = 0; b < queries.batch; ++b) {
    const std::int64_t tokens = after.as<std::int32_t>()[b] + std::int64_t{1};
    std::int64_t count = fresh ? fresh.as<std::int32_t>()[b] : queries.length;
    if (first && count > tokens) count = tokens;  // a padded prompt
    if (tokens < 0 || count < 0 || count > queries.length || tokens < count) {
      refuse("GroupQueryAttention: seqlens_k[" + std::to_string(b) + "] is " + std::to_string(tokens - 1) + " with " +
             std::to_string(count) + " new tokens");
    }
    result.push_back({first ? 0 : tokens - count, count});
  }
  return result;
}

std::int64_t room_for(const Call& call, const Settings& of, const Operands& operands,
                      const std::vector<Lengths>& lengths) {
  const Tensor key = call.input(kPastKey), value = call.input(kPastValue);
  const std::int64_t width = operands.queries.dim / (operands.stored == MHA_I4 ? 2 : 1);
  std::int64_t capacity = call.input(kTotal).as<std::int32_t>()[0];
  if (!key != !value) refuse("GroupQueryAttention: only one of past_key and past_value is given");
  for (const Tensor* each : {&key, &value}) {
    if (!*each) continue;
    if (each->rank != 4 || each->dim(0) != operands.queries.batch || each->dim(1) != of.key_heads ||
        each->dim(3) != width || each->dim(2) != key.dim(2)) {
      refuse("GroupQueryAttention: " + std::string(each == &key ? "past_key" : "past_value") + " is " + each->text() +
             " with kv_num_heads " + std::to_string(of.key_heads) + " and rows of " + std::to_string(width));
    }
  }
  if (key && key.dim(2) > capacity) capacity = key.dim(2);
  for (const Lengths& each : lengths) {
    if (each.before + each.fresh > capacity || (each.before > 0 && (!key || each.before > key.dim(2)))) {
      refuse("GroupQueryAttention: an item has " + std::to_string(each.before) + " earlier and " +
             std::to_string(each.fresh) + " new tokens, past_key is " + (key ? key.text() : "absent") +
             ", total_sequence_length " + std::to_string(call.input(kTotal).as<std::int32_t>()[0]));
    }
  }
  return capacity;
}

Codes codes(const Tensor& scale, mha_dtype stored, const std::string& type, const char* name, const Rows& rows) {
  Codes result;
  if (stored != MHA_I8 && stored != MHA_I4) return result;
  const bool by_channel = type == "PER_CHANNEL";
  if (!by_channel && type != "PER_TENSOR") {
    refuse(std::string("GroupQueryAttention: a cache of codes needs ") + name +
           "_quant_type PER_TENSOR or PER_CHANNEL, not " + type);
  }
  if (!scale || scale.elements() != (by_channel ? rows.heads * rows.dim : 1)) {
    refuse(std::string("GroupQueryAttention: ") + name + "_scale is " + (scale ? scale.text() : "absent") + " with " +
           type);
  }
  result.quant.scales = scale.data;
  if (by_channel) {
    result.quant.group = result.quant.stride_d = 1;
    result.quant.stride_h = rows.dim;
  }
  result.storage.dtype = stored;
  result.used = true;
  return result;
}

}  // namespace grouped
}  // namespace host
