// SPDX-License-Identifier: Apache-2.0
// GroupQueryAttention of com.microsoft: a cache of floats, or of codes of 8 or 4 bits with fixed scales.
#include <algorithm>
#include <cstring>

#include "grouped.h"
#include "op.h"

namespace host {
namespace {

using namespace grouped;

class GroupQueryAttention : public Kernel {
 public:
  explicit GroupQueryAttention(const Node& node) : Kernel(node), of_(node) {}

  void compute(Call& call) override {
    Step step = {call, read_operands(call, of_), {}, 0, {}};
    step.lengths = read_lengths(call, step.operands.queries);
    step.capacity = room_for(call, of_, step.operands, step.lengths);
    const Operands& operands = step.operands;
    std::vector<float> tables[4];
    set_rotation(step, tables);
    Codes key_codes = codes(call.input(kKeyScale), operands.stored, of_.key_type, "k", operands.keys);
    Codes value_codes = codes(call.input(kValueScale), operands.stored, of_.value_type, "v", operands.keys);
    mha_norm key_norm = {};
    const bool normed = set_norms(step, key_norm, tables + 2);

    mha_rows_args plain = {}, rows = {};
    rows.norm = normed ? &key_norm : nullptr;
    rows.rope = step.attention.args.rope;
    rows.positions = of_.rotary ? step.attention.query_positions.data() : nullptr;
    std::unique_ptr<Buffer> memory[2];
    const mha_view key = append(step, {kPastKey, kPresentKey}, operands.key, key_codes, rows, memory[0]);
    const mha_view value = append(step, {kPastValue, kPresentValue}, operands.value, value_codes, plain, memory[1]);
    attend(step, key, value);
  }

 private:
  struct Step {
    Call& call;
    Operands operands;
    std::vector<Lengths> lengths;
    std::int64_t capacity;
    Attention attention;
  };
  struct Cache {
    std::size_t past, present;  // indices of the input and the output
  };

  static constexpr std::int64_t kPadding = INT64_MIN;  // in the place of the position of a row that is no token

  void set_rotation(Step& step, std::vector<float>* tables) const {
    if (!of_.rotary) return;
    const Call& call = step.call;
    const Rows& queries = step.operands.queries;
    const Tensor cos = call.input(kCos), sin = call.input(kSin), given = call.input(kPositions);
    if (!cos || !sin || cos.rank != 2 || sin.rank != 2 || cos.elements() != sin.elements()) {
      refuse("GroupQueryAttention: do_rotary needs cos_cache and sin_cache [positions, D / 2]");
    }
    mha_rope& rope = step.attention.rope;
    rope.style = of_.interleaved ? MHA_ROPE_INTERLEAVED : MHA_ROPE_HALF;
    rope.dims = 2 * cos.dim(1);
    step.attention.args.rope = &rope;
    const bool first = !call.input(kQueryLengths) && call.input(kTotal).as<std::int32_t>()[0] == queries.length;
    if (given && given.elements() != queries.batch * queries.length && !(first && given.elements() > 0)) {
      refuse("GroupQueryAttention: position_ids is " + given.text());
    }
    std::vector<std::int64_t>& positions = step.attention.query_positions;
    std::int64_t least = INT64_MAX, greatest = INT64_MIN;
    for (std::int64_t b = 0; b < queries.batch; ++b) {
      const Lengths& each = step.lengths[static_cast<std::size_t>(b)];
      for (std::int64_t t = 0; t < each.fresh; ++t) {
        std::int64_t position = each.before + t;
        // As the operator says: the first prompt uses the first position alone.
        if (given && first) position = given.as<std::int64_t>()[0] + t;
        if (given && !first) position = given.as<std::int64_t>()[b * queries.length + t];
        positions.push_back(position);
        least = std::min(least, position);
        greatest = std::max(greatest, position);
      }
      positions.resize(static_cast<std::size_t>((b + 1) * queries.length), kPadding);
    }
    pass_rows(step, cos, sin, least == INT64_MAX ? 0 : least, least == INT64_MAX ? 0 : greatest, tables);
  }

  // Only the rows of the positions in use are passed on: tables of 16 bits are widened in each call.
  static void pass_rows(Step& step, const Tensor& cos, const Tensor& sin, std::int64_t least, std::int64_t greatest,
                        std::vector<float>* tables) {
    if (least < 0 || greatest >= cos.dim(0)) {
      refuse("GroupQueryAttention: positions from " + std::to_string(least) + " to " + std::to_string(greatest) +
             " with cos_cache " + cos.text());
    }
    for (std::int64_t& position : step.attention.query_positions) {
      position = position == kPadding ? 0 : position - least;
    }
    const std::int64_t shape[] = {greatest - least + 1, cos.dim(1)};
    const auto rows = [&](Tensor table, std::vector<float>& storage) {
      table.data = static_cast<char*>(table.data) + least * shape[1] * bytes_of(dtype(table.type));
      table.shape = shape;
      return floats(table, storage);
    };
    step.attention.rope.cos = rows(cos, tables[0]);
    step.attention.rope.sin = rows(sin, tables[1]);
    step.attention.rope.table_positions = shape[0];
  }

  bool set_norms(Step& step, mha_norm& key_norm, std::vector<float>* tables) const {
    const Tensor query = step.call.input(kQueryNorm), key = step.call.input(kKeyNorm);
    const std::int64_t dim = step.operands.queries.dim;
    Attention& attention = step.attention;
    if (!query && !key) return false;
    if (!query || !key) refuse("GroupQueryAttention: only one of q_norm_weight and k_norm_weight is given");
    if (query.elements() != dim || key.elements() != dim) {
      refuse("GroupQueryAttention: q_norm_weight " + query.text() + " and k_norm_weight " + key.text() + " are not [" +
             std::to_string(dim) + "]");
    }
    attention.query_norm.epsilon = of_.query_epsilon;
    attention.query_norm.weight = floats(query, tables[0]);
    attention.args.query_norm = &attention.query_norm;
    key_norm.epsilon = of_.key_epsilon;
    key_norm.weight = floats(key, tables[1]);
    return true;
  }

  // Brings the earlier rows into the present tensor, unless it is the past tensor's own memory, and stores the new rows
  // behind them, normed, rotated and rounded as `args` and `codes` say.
  mha_view append(Step& step, const Cache& cache, const mha_view& fresh, Codes& codes, mha_rows_args args,
                  std::unique_ptr<Buffer>& memory) const {
    Call& call = step.call;
    const Operands& operands = step.operands;
    const Tensor past = call.input(cache.past);
    Rows all = operands.keys;
    all.length = step.capacity;
    const std::int64_t width = all.dim / (operands.stored == MHA_I4 ? 2 : 1), bytes = width * bytes_of(operands.stored);
    void* present = call.output(cache.present, {all.batch, all.heads, all.length, width});
    if (!present) {
      memory = std::make_unique<Buffer>(allocator(), all.batch * all.heads * all.length * bytes);
      present = memory->data();
    }
    if (past && past.data != present) {
      call.parallel(all.batch * all.heads, [&](std::int64_t i) {
        const std::int64_t rows = step.lengths[static_cast<std::size_t>(i / all.heads)].before;
        std::memcpy(static_cast<char*>(present) + i * all.length * bytes, past.as<char>() + i * past.dim(2) * bytes,
                    static_cast<std::size_t>(rows * bytes));
      });
    }
    std::vector<std::int64_t> slots;
    for (std::int64_t b = 0; b < all.batch; ++b) {
      const Lengths& each = step.lengths[static_cast<std::size_t>(b)];
      for (std::int64_t t = 0; t < operands.keys.length; ++t) {
        slots.push_back(t < each.fresh ? b * all.length + each.before + t : -1);
      }
    }
    args.batch = all.batch;
    args.length = operands.keys.length;
    args.num_heads = all.heads;
    args.head_dim = all.dim;
    args.input = fresh;
    args.output = mut_view(present, operands.stored, Layout::kByHead, all);
    codes.storage.fixed = &codes.quant;
    args.storage = codes.used ? &codes.storage : nullptr;
    args.slots = slots.data();
    args.page_size = all.length;
    args.num_pages = all.batch;
    args.resources = &call.resources;
    mha_error error = {};
    check(mha_rows_prepare(context(), &args, &error), error);
    mha_view result = view(present, operands.stored, Layout::kByHead, all);
    result.quant = codes.used ? &codes.quant : nullptr;
    return result;
  }

  void attend(Step& step, const mha_view& key, const mha_view& value) const {
    Call& call = step.call;
    Attention& attention = step.attention;
    mha_attention_args& args = attention.args;
    const Rows& queries = step.operands.queries;
    args.batch = queries.batch;
    args.num_heads = of_.heads;
    args.query_len = queries.length;
    args.head_dim = queries.dim;
    args.scale = of_.scale;
    args.causal = of_.causal != 0;
    args.query = step.operands.query;
    attention.set_keys(key, value, of_.key_heads, step.capacity);
    attention.masks.window_left = of_.window > 0 ? of_.window : 0;
    attention.score_mods.softcap = of_.softcap;
    for (const Lengths& each : step.lengths) {
      attention.key_lengths.push_back(each.before + each.fresh);
      attention.offsets.push_back(each.before);
    }
    if (const Tensor bias = call.input(kBias)) {
      const std::int64_t total = call.input(kTotal).as<std::int32_t>()[0];
      for (const std::int64_t length : attention.key_lengths) {
        if (length > total) {
          refuse("GroupQueryAttention: attention_bias has " + std::to_string(total) + " keys, but an item has " +
                 std::to_string(length) + " tokens");
        }
      }
      attention.masks.add_mask = add_mask(bias, broadcast(bias, "GroupQueryAttention: attention_bias",
                                                          {queries.batch, of_.heads, queries.length, total}));
    }
    if (const Tensor sink = call.input(kSink)) {
      if (sink.elements() != of_.heads) refuse("GroupQueryAttention: head_sink is " + sink.text());
      std::vector<float> storage;
      const float* logits = floats(sink, storage);
      attention.sinks.assign(logits, logits + of_.heads);
    } else if (of_.smooth == 1) {
      attention.sinks.assign(static_cast<std::size_t>(of_.heads), 0.0F);
    }
    void* output = call.output(kOutput, {queries.batch, queries.length, of_.heads * queries.dim});
    args.output = mut_view(output, step.operands.type, Layout::kFlat, queries);
    attention.forward(context(), call);
  }

  const Settings of_;
};

Kernel* make(const Node& node) {
  std::string reason;
  const bool window_cache = node.integer("sliding_window_cache", 0) != 0;
  if (node.has_output(kProducts)) reason = "the output output_qk";
  if (window_cache) reason = "sliding_window_cache";
  if (reason.empty()) return new GroupQueryAttention(node);
  const ort::ElementType type = node.input_type(kQuery), cache = node.input_type(kPastKey);
  const std::int64_t heads = node.integer("num_heads", 1), key_heads = node.integer("kv_num_heads", 1);
  const auto shapes = [=](const Call& call) -> Shapes {
    const Tensor query = call.input(kQuery), past = call.input(kPastKey);
    const std::int64_t parts = call.input(kKey) ? heads : heads + 2 * key_heads, dim = query.dim(2) / parts;
    const std::int64_t total = call.input(kTotal).as<std::int32_t>()[0];
    const std::int64_t room = past && (window_cache || past.dim(2) > total) ? past.dim(2) : total;
    const std::vector<std::int64_t> present = {query.dim(0), key_heads, room, past ? past.dim(3) : dim};
    return {{query.dim(0), query.dim(1), heads * dim}, present, present, {query.dim(0), heads, query.dim(1), total}};
  };
  return leave_to_ort(
      node,
      {"GroupQueryAttention",
       "com.microsoft",
       1,
       {{"num_heads", {}},
        {"kv_num_heads", {}},
        {"causal", 1},
        {"local_window_size", -1},
        {"do_rotary", 0},
        {"rotary_interleaved", 0},
        {"smooth_softmax", -1},
        {"kv_cache_bit_width", {}},
        {"qk_output", 0},
        {"sliding_window_cache", 0}},
       {{"scale", {}}, {"softcap", {}}, {"qk_norm_epsilon", {}}, {"q_norm_epsilon", {}}, {"k_norm_epsilon", {}}},
       {"k_quant_type", "v_quant_type"},
       {{"T", type}, {"T_CACHE", cache == ort::kAny ? type : cache}, {"T_KV_SCALE", ort::kFloat}, {"M", ort::kInt32}},
       shapes},
      reason);
}

}  // namespace

void add_group_query_attention(std::vector<Op>& ops) {
  for (ort::ElementType type : {ort::kFloat, ort::kFloat16, ort::kBfloat16}) {
    for (ort::ElementType stored : {type, ort::kInt8, ort::kUint8}) {
      const Port needed = {type, ort::kRequired}, optional = {type, ort::kOptional}, cache = {stored, ort::kOptional},
                 length = {ort::kInt32, ort::kRequired}, scale = {ort::kFloat, ort::kOptional};
      ops.emplace_back("GroupQueryAttention", 1,
                       std::vector<Port>{needed,
                                         optional,
                                         optional,
                                         cache,
                                         cache,
                                         length,
                                         length,
                                         optional,
                                         optional,
                                         {ort::kInt64, ort::kOptional},
                                         optional,
                                         optional,
                                         scale,
                                         scale,
                                         optional,
                                         optional,
                                         {ort::kInt32, ort::kOptional}},
                       std::vector<Port>{needed, cache, cache, optional}, make);
    }
  }
}

}  // namespace host
