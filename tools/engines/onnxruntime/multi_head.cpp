// SPDX-License-Identifier: Apache-2.0
// MultiHeadAttention of com.microsoft.
#include "attention.h"
#include "op.h"

namespace host {
namespace {

enum Input {
  kQuery,
  kKey,
  kValue,
  kBias,
  kPaddingMask,
  kAttentionBias,
  kPastKey,
  kPastValue,
  kPastLength,
  kCacheIndirection,
  kInputs
};
enum Output { kOutput, kPresentKey, kPresentValue, kProducts, kOutputs };

// Query, keys and values as the node has them: each a tensor, or parts of a packed one.
struct Operands {
  Rows queries, keys, values;
  mha_view query, key, value;
  bool by_head = false;  // keys and values are [B, heads, L, D]
};

// Part `index` of [B, T, heads, parts, D].
mha_view part(const Tensor& packed, std::int64_t index, const Rows& rows) {
  const std::int64_t parts = packed.dim(3);
  mha_view result = {};
  result.data = static_cast<const char*>(packed.data) + index * rows.dim * bytes_of(dtype(packed.type));
  result.dtype = dtype(packed.type);
  result.stride_h = parts * rows.dim;
  result.stride_t = rows.heads * result.stride_h;
  result.stride_b = rows.length * result.stride_t;
  return result;
}

class MultiHeadAttention : public Kernel {
 public:
  explicit MultiHeadAttention(const Node& node)
      : Kernel(node),
        heads_(node.integer("num_heads", 0)),
        causal_(node.integer("unidirectional", 0)),
        scale_(node.real("scale", 0)),
        hidden_(node.real("mask_filter_value", -10000)) {
    if (heads_ <= 0) refuse("MultiHeadAttention: num_heads is " + std::to_string(heads_));
  }

  void compute(Call& call) override {
    Operands operands = read(call);
    std::vector<float> biased[3];
    add_biases(call, operands, biased);
    const Rows &queries = operands.queries, &keys = operands.keys, &values = operands.values;
    const Tensor past_key = call.input(kPastKey), past_value = call.input(kPastValue);
    check_past("MultiHeadAttention", past_key, past_value, keys, values);
    const std::int64_t past = past_key ? past_key.dim(2) : 0, total = past + keys.length;
    const mha_dtype type = dtype(call.input(kQuery).type);

    Attention attention;
    mha_attention_args& args = attention.args;
    args.batch = queries.batch;
    args.num_heads = heads_;
    args.query_len = queries.length;
    args.head_dim = queries.dim;
    args.value_head_dim = values.dim;
    args.scale = scale_;
    args.causal = causal_ != 0;
    args.query = operands.query;
    Joined joined(context(), call, allocator());
    const mha_view all_keys = joined.join(past_key, operands.key, keys, type, kPresentKey);
    const mha_view all_values = joined.join(past_value, operands.value, values, type, kPresentValue);
    attention.set_keys(all_keys, all_values, heads_, total);
    attention.set_offset(past);
    const Rows results = {queries.batch, heads_, queries.length, values.dim};
    void* output = call.output(kOutput, {results.batch, results.length, heads_ * results.dim});
    args.output = mut_view(output, type, Layout::kFlat, results);
    std::vector<float> padding;
    set_padding(attention, call.input(kPaddingMask), padding);
    if (const Tensor bias = call.input(kAttentionBias)) {
      attention.masks.add_mask2 = add_mask(
          bias, broadcast(bias, "MultiHeadAttention: attention_bias", {args.batch, heads_, args.query_len, total}));
    }
    attention.forward(context(), call);
  }

 private:
  Rows flat(const Tensor& tensor, const char* name) const {
    if (tensor.rank != 3 || tensor.dim(2) % heads_ != 0) {
      refuse(std::string("MultiHeadAttention: ") + name + " is " + tensor.text() + " with num_heads " +
             std::to_string(heads_));
    }
    return {tensor.dim(0), heads_, tensor.dim(1), tensor.dim(2) / heads_};
  }

  Operands read(const Call& call) const {
    const Tensor query = call.input(kQuery), key = call.input(kKey), value = call.input(kValue);
    const mha_dtype type = dtype(query.type);
    Operands result;
    if (query.rank == 5) {
      result.queries = result.keys = result.values = {query.dim(0), heads_, query.dim(1), query.dim(4)};
      if (query.dim(2) != heads_ || query.dim(3) != 3 || key || value) {
        refuse("MultiHeadAttention: a packed query is [B, S, num_heads, 3, D] without key and value, not " +
               query.text());
      }
      result.query = part(query, 0, result.queries);
      result.key = part(query, 1, result.keys);
      result.value = part(query, 2, result.values);
      return result;
    }
    result.queries = flat(query, "query");
    result.query = view(query.data, type, Layout::kFlat, result.queries);
    if (!key) refuse("MultiHeadAttention: key is absent, and query is not packed: " + query.text());
    if (key.rank == 5) {
      if (key.dim(2) != heads_ || key.dim(3) != 2 || value) {
        refuse("MultiHeadAttention: a packed key is [B, L, num_heads, 2, D] without value, not " + key.text());
      }
      result.keys = result.values = {key.dim(0), heads_, key.dim(1), key.dim(4)};
      result.key = part(key, 0, result.keys);
      result.value = part(key, 1, result.values);
    } else {
      if (!value || value.rank != key.rank) refuse("MultiHeadAttention: key is " + key.text() + ", value is not alike");
      result.by_head = key.rank == 4;
      const Layout layout = result.by_head ? Layout::kByHead : Layout::kFlat;
      const auto rows = [&](const Tensor& tensor, const char* name) -> Rows {
        return result.by_head ? Rows{tensor.dim(0), tensor.dim(1), tensor.dim(2), tensor.dim(3)} : flat(tensor, name);
      };
      result.keys = rows(key, "key");
      result.values = rows(value, "value");
      result.key = view(key.data, type, layout, result.keys);
      result.value = view(value.data, type, layout, result.values);
    }
    if (result.keys.batch != result.queries.batch || result.values.batch != result.queries.batch ||
        result.keys.heads != heads_ || result.values.heads != heads_ || result.keys.dim != result.queries.dim ||
        result.values.length != result.keys.length) {
      refuse("MultiHeadAttention: query " + query.text() + ", key " + key.text() + " and value " +
             (value ? value.text() : "(packed)") + " do not fit each other and num_heads " + std::to_string(heads_));
    }
    return result;
  }

  // The bias of the projections, added in floats to copies. As in ONNX Runtime, keys by head have theirs already.
  void add_biases(Call& call, Operands& operands, std::vector<float> (&storage)[3]) const {
    const Tensor bias = call.input(kBias);
    if (!bias) return;
    std::vector<float> widened;
    const float* values = floats(bias, widened);
    const Rows* rows[] = {&operands.queries, &operands.keys, &operands.values};
    mha_view* views[] = {&operands.query, &operands.key, &operands.value};
    const std::int64_t width = heads_ * (rows[0]->dim + rows[1]->dim + rows[2]->dim);
    if (bias.elements() != width) {
      refuse("MultiHeadAttention: bias is " + bias.text() + ", not [" + std::to_string(width) + "]");
    }
    for (int i = 0; i < (operands.by_head ? 1 : 3); ++i) {
      const std::int64_t each = heads_ * rows[i]->dim, tokens = rows[i]->batch * rows[i]->length;
      storage[i].resize(static_cast<std::size_t>(tokens * each));
      float* copy = storage[i].data();
      copy_rows(context(), call, *rows[i], *views[i], mut_view(copy, MHA_F32, Layout::kFlat, *rows[i]));
      call.parallel(tokens, [=](std::int64_t token) {
        for (std::int64_t n = 0; n < each; ++n) copy[token * each + n] += values[n];
      });
      *views[i] = view(copy, MHA_F32, Layout::kFlat, *rows[i]);
      values += each;
    }
  }

  // The mask of padding: lengths [B], or numbers [B, Tk] or [B, Tq, Tk] where 0 hides a key. A hidden key's score gets
  // mask_filter_value, so that of a row whose keys are all hidden no key is (as in ONNX Runtime).
  void set_padding(Attention& attention, const Tensor& mask, std::vector<float>& scores) const {
    if (!mask) return;
    const mha_attention_args& args = attention.args;
    const std::int64_t batch = args.batch, total = args.key_len;
    const std::int32_t* given = mask.as<std::int32_t>();
    const bool lengths = mask.rank == 1 && (mask.dim(0) == batch || mask.dim(0) == 3 * batch + 2);
    const bool rows = mask.rank == 2 && mask.dim(0) == batch && mask.dim(1) == total;
    const bool full = mask.rank == 3 && mask.dim(0) == batch && mask.dim(1) == args.query_len && mask.dim(2) == total;
    if (!lengths && !rows && !full) {
      refuse("MultiHeadAttention: key_padding_mask is " + mask.text() + " with " + std::to_string(batch) +
             " items and " + std::to_string(total) + " keys");
    }
    const std::int64_t lines = full ? batch * args.query_len : batch;
    scores.resize(static_cast<std::size_t>(lines * total));
    for (std::int64_t line = 0; line < lines; ++line) {
      for (std::int64_t j = 0; j < total; ++j) {
        const bool visible = lengths ? j < given[line] : given[line * total + j] > 0;
        scores[static_cast<std::size_t>(line * total + j)] = visible ? 0 : hidden_;
      }
    }
    const std::int64_t stride_q = full ? total : 0;
    attention.masks.add_mask = {scores.data(), MHA_F32, 0, full ? args.query_len * total : total, 0, stride_q, 1};
  }

  std::int64_t heads_, causal_;
  float scale_, hidden_;
};

Kernel* make(const Node& node) {
  for (const auto& [input, name] :
       {std::pair{kPastLength, "past_sequence_length"}, {kCacheIndirection, "cache_indirection"}}) {
    if (node.has_input(input)) refuse(std::string("MultiHeadAttention: the input ") + name + " is not served");
  }
  if (node.has_output(kProducts)) refuse("MultiHeadAttention: the output qk is not served");
  return new MultiHeadAttention(node);
}

}  // namespace

void add_multi_head_attention(std::vector<Op>& ops) {
  for (ort::ElementType type : {ort::kFloat, ort::kFloat16, ort::kBfloat16}) {
    const Port needed = {type, ort::kRequired}, optional = {type, ort::kOptional}, mask = {ort::kInt32, ort::kOptional};
    ops.emplace_back(
        "MultiHeadAttention", 1,
        std::vector<Port>{needed, optional, optional, optional, mask, optional, optional, optional, mask, mask},
        std::vector<Port>{needed, optional, optional, optional}, make);
  }
}

}  // namespace host
