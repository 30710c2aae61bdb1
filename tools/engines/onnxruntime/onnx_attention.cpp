// SPDX-License-Identifier: Apache-2.0
// Attention of ai.onnx, operator sets 23 to 25.
#include "attention.h"
#include "op.h"

namespace host {
namespace {

enum Input { kQuery, kKey, kValue, kMask, kPastKey, kPastValue, kNonpad, kInputs };
enum Output { kOutput, kPresentKey, kPresentValue, kProducts, kOutputs };
constexpr int kProbabilities = 3;  // qk_matmul_output_mode

Rows rows(const Tensor& tensor, const char* name, std::int64_t heads, const char* attribute) {
  if (tensor.rank == 4) return {tensor.dim(0), tensor.dim(1), tensor.dim(2), tensor.dim(3)};
  if (tensor.rank != 3) refuse(std::string("Attention: ") + name + " has neither 3 nor 4 dimensions: " + tensor.text());
  if (heads <= 0 || tensor.dim(2) % heads != 0) {
    refuse(std::string("Attention: ") + attribute + " " + std::to_string(heads) + " does not divide the width of " +
           name + ", " + tensor.text());
  }
  return {tensor.dim(0), heads, tensor.dim(1), tensor.dim(2) / heads};
}

class OnnxAttention : public Kernel {
 public:
  explicit OnnxAttention(const Node& node)
      : Kernel(node),
        query_heads_(node.integer("q_num_heads", 0)),
        key_heads_(node.integer("kv_num_heads", 0)),
        causal_(node.integer("is_causal", 0)),
        window_left_(node.integer("left_window_size", -1)),
        window_right_(node.integer("right_window_size", -1)),
        scale_(node.real("scale", 0)),
        softcap_(node.real("softcap", 0)) {}

  void compute(Call& call) override {
    const Tensor query = call.input(kQuery), key = call.input(kKey), value = call.input(kValue);
    const Tensor past_key = call.input(kPastKey), past_value = call.input(kPastValue);
    const Rows queries = rows(query, "Q", query_heads_, "q_num_heads");
    const Rows keys = rows(key, "K", key_heads_, "kv_num_heads");
    const Rows values = rows(value, "V", key_heads_, "kv_num_heads");
    check_shapes(queries, keys, values);
    check_past("Attention", past_key, past_value, keys, values);
    const Layout layout = query.rank == 3 ? Layout::kFlat : Layout::kByHead;
    const std::int64_t past = past_key ? past_key.dim(2) : 0, total = past + keys.length;

    Attention attention;
    mha_attention_args& args = attention.args;
    args.batch = queries.batch;
    args.num_heads = queries.heads;
    args.query_len = queries.length;
    args.head_dim = queries.dim;
    args.value_head_dim = values.dim;
    args.scale = scale_;
    args.causal = causal_ != 0;
    args.query = view(query.data, dtype(query.type), layout, queries);
    Joined joined(context(), call, allocator());
    const Layout keys_layout = key.rank == 3 ? Layout::kFlat : Layout::kByHead;
    const mha_dtype stored = dtype(key.type);
    const mha_view all_keys =
        joined.join(past_key, view(key.data, stored, keys_layout, keys), keys, stored, kPresentKey);
    const mha_view all_values =
        joined.join(past_value, view(value.data, stored, keys_layout, values), values, stored, kPresentValue);
    attention.set_keys(all_keys, all_values, keys.heads, total);
    const Rows results = {queries.batch, queries.heads, queries.length, values.dim};
    void* output = layout == Layout::kFlat
                       ? call.output(kOutput, {results.batch, results.length, results.heads * results.dim})
                       : call.output(kOutput, {results.batch, results.heads, results.length, results.dim});
    args.output = mut_view(output, dtype(query.type), layout, results);
    attention.score_mods.softcap = softcap_;
    attention.masks.window_left = window_left_ + 1;
    attention.masks.window_right = window_right_ + 1;
    attention.set_offset(past);
    const Tensor mask = call.input(kMask);
    const std::int64_t masked = keys_of(mask, total);
    set_lengths(attention, call.input(kNonpad), past, masked);
    set_mask(attention, mask, masked);
    const Rows weights = {queries.batch, queries.heads, queries.length, total};
    void* probabilities = call.output(kProducts, {weights.batch, weights.heads, weights.length, weights.dim});
    if (!probabilities) return attention.forward(context(), call);
    const bool narrow = query.type != ort::kFloat;
    const Buffer wide(allocator(), narrow ? 4 * weights.batch * weights.heads * weights.length * weights.dim : 0);
    attention.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
    attention.results.weights.data = narrow ? wide.data() : probabilities;
    attention.forward(context(), call);
    if (!narrow) return;
    copy_rows(context(), call, weights, view(wide.data(), MHA_F32, Layout::kByHead, weights),
              mut_view(probabilities, dtype(query.type), Layout::kByHead, weights));
  }

 private:
  static void check_shapes(const Rows& queries, const Rows& keys, const Rows& values) {
    const auto same = [](const char* what, std::int64_t left, std::int64_t right) {
      if (left != right) {
        refuse(std::string("Attention: ") + what + " differ: " + std::to_string(left) + " and " +
               std::to_string(right));
      }
    };
    same("the batch sizes of Q and K", queries.batch, keys.batch);
    same("the batch sizes of K and V", keys.batch, values.batch);
    same("the head sizes of Q and K", queries.dim, keys.dim);
    same("the numbers of heads of K and V", keys.heads, values.heads);
    same("the lengths of K and V", keys.length, values.length);
  }

  // The keys that a mask says something about: its last dimension may be shorter than `total`; 1 is repeated.
  static std::int64_t keys_of(const Tensor& mask, std::int64_t total) {
    const std::int64_t width = mask && mask.rank > 0 ? mask.dim(mask.rank - 1) : total;
    return width > 1 && width < total ? width : total;
  }

  // Keys beyond the first `masked`, or beyond what nonpad_kv_seqlen says, are hidden.
  static void set_lengths(Attention& attention, const Tensor& nonpad, std::int64_t past, std::int64_t masked) {
    const std::int64_t batch = attention.args.batch, total = attention.args.key_len;
    if (!nonpad && masked == total) return;
    if (nonpad && (past > 0 || nonpad.elements() != batch)) {
      refuse("Attention: nonpad_kv_seqlen " + nonpad.text() + " with batch size " + std::to_string(batch) + " and " +
             std::to_string(past) + " keys in past_key");
    }
    for (std::int64_t b = 0; b < batch; ++b) {
      const std::int64_t given = nonpad ? nonpad.as<std::int64_t>()[b] : total;
      if (given < 0 || given > total) {
        refuse("Attention: nonpad_kv_seqlen[" + std::to_string(b) + "] is " + std::to_string(given) + " of " +
               std::to_string(total) + " keys");
      }
      attention.key_lengths.push_back(given < masked ? given : masked);
      if (nonpad) attention.offsets.push_back(given - attention.args.query_len);
    }
  }

  static void set_mask(Attention& attention, const Tensor& mask, std::int64_t masked) {
    if (!mask) return;
    const mha_attention_args& args = attention.args;
    const MaskStrides strides = broadcast(mask, "attn_mask", {args.batch, args.num_heads, args.query_len, masked});
    if (mask.type == ort::kBool) {
      set_bool_mask(attention, mask, strides, !attention.depends_on_positions() && attention.offsets.empty());
    } else {
      attention.masks.add_mask = add_mask(mask, strides);
    }
  }

  std::int64_t query_heads_, key_heads_, causal_, window_left_, window_right_;
  float scale_, softcap_;
};

bool is_float(ort::ElementType type) { return type == ort::kFloat || type == ort::kFloat16 || type == ort::kBfloat16; }

std::string why_not(const Node& node) {
  const ort::ElementType type = node.input_type(kQuery), mask = node.input_type(kMask);
  const std::int64_t mode = node.integer("qk_matmul_output_mode", 0);
  if (!is_float(type)) return "its type is none of float, float16, bfloat16";
  if (node.has_input(kMask) && mask != ort::kBool && !is_float(mask)) return "its mask has integers or doubles";
  if (node.has_output(kProducts) && mode != kProbabilities) return "qk_matmul_output_mode " + std::to_string(mode);
  return "";
}

Kernel* make(const Node& node) {
  const std::string reason = why_not(node);
  if (reason.empty()) return new OnnxAttention(node);
  const ort::ElementType mask = node.input_type(kMask);
  const std::int64_t query_heads = node.integer("q_num_heads", 0), key_heads = node.integer("kv_num_heads", 0);
  const auto shapes = [query_heads, key_heads](const Call& call) -> Shapes {
    const Tensor query = call.input(kQuery), past = call.input(kPastKey);
    const Rows queries = rows(query, "Q", query_heads, "q_num_heads");
    const Rows keys = rows(call.input(kKey), "K", key_heads, "kv_num_heads");
    const Rows values = rows(call.input(kValue), "V", key_heads, "kv_num_heads");
    const std::int64_t total = keys.length + (past ? past.dim(2) : 0);
    return {query.rank == 3 ? std::vector<std::int64_t>{queries.batch, queries.length, queries.heads * values.dim}
                            : std::vector<std::int64_t>{queries.batch, queries.heads, queries.length, values.dim},
            {keys.batch, keys.heads, total, keys.dim},
            {keys.batch, keys.heads, total, values.dim},
            {queries.batch, queries.heads, queries.length, total}};
  };
  if (node.integer("left_window_size", -1) >= 0 || node.integer("right_window_size", -1) >= 0) {
    refuse("Attention: " + reason + " is not served, and ONNX Runtime has no kernel with windows to leave it to");
  }
  Standard standard = {"Attention",
                       "",
                       24,
                       {{"is_causal", 0},
                        {"kv_num_heads", {}},
                        {"q_num_heads", {}},
                        {"qk_matmul_output_mode", 0},
                        {"softmax_precision", {}}},
                       {{"scale", {}}, {"softcap", 0.0F}},
                       {},
                       {{"T1", node.input_type(kQuery)}, {"T2", node.input_type(kValue)}},
                       shapes};
  standard.constraints.push_back({"U", mask == ort::kAny ? ort::kBool : mask});
  return leave_to_ort(node, standard, reason);
}

}  // namespace

void add_onnx_attention(std::vector<Op>& ops) {
  for (ort::ElementType type : {ort::kFloat, ort::kFloat16, ort::kBfloat16, ort::kDouble}) {
    const Port needed = {type, ort::kRequired}, optional = {type, ort::kOptional};
    ops.emplace_back(
        "Attention", 23,
        std::vector<Port>{
            needed, needed, needed, {ort::kAny, ort::kOptional}, optional, optional, {ort::kInt64, ort::kOptional}},
        std::vector<Port>{needed, optional, optional, optional}, make);
  }
}

}  // namespace host
