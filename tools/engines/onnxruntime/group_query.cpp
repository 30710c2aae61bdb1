// SPDX-License-Identifier: Apache-2.0
// GroupQueryAttention of com.microsoft: a cache of floats, or of codes of 8 or 4 bits with fixed scales.
#include <cstring>

#include "attention.h"
#include "op.h"

namespace host {
namespace {

enum Input {
  kQuery,
  kKey,
  kValue,
  kPastKey,
  kPastValue,
  kLengths,  // seqlens_k: tokens after this call, minus 1
  kTotal,
  kCos,
  kSin,
  kPositions,
  kBias,
  kSink,
  kKeyScale,
  kValueScale,
  kQueryNorm,
  kKeyNorm,
  kQueryLengths,
  kInputs
};
enum Output { kOutput, kPresentKey, kPresentValue, kProducts, kOutputs };

// The scales of a cache of codes: one, or one for each channel of each head.
struct Codes {
  mha_quant quant = {};
  mha_storage storage = {};
  bool used = false;
};

Codes codes(const Tensor& scale, mha_dtype stored, const std::string& type, const char* name, std::int64_t heads,
            std::int64_t dim) {
  Codes result;
  if (stored != MHA_I8 && stored != MHA_I4) return result;
  const bool by_channel = type == "PER_CHANNEL";
  if (!by_channel && type != "PER_TENSOR") {
    refuse(std::string("GroupQueryAttention: a cache of codes needs ") + name + "_quant_type PER_TENSOR or PER_CHANNEL, not " +
           type);
  }
  if (!scale || scale.elements() != (by_channel ? heads * dim : 1)) {
    refuse(std::string("GroupQueryAttention: ") + name + "_scale is " + (scale ? scale.text() : "absent") + " with " + type);
  }
  result.quant.scales = scale.data;
  if (by_channel) {
    result.quant.group = result.quant.stride_d = 1;
    result.quant.stride_h = dim;
  }
  result.storage.dtype = stored;
  result.used = true;
  return result;
}

// What each item of the batch has in this call.
struct Lengths {
  std::int64_t before, fresh;
};

class GroupQueryAttention : public Kernel {
 public:
  explicit GroupQueryAttention(const Node& node)
      : Kernel(node),
        heads_(node.integer("num_heads", 0)),
        key_heads_(node.integer("kv_num_heads", 0)),
        causal_(node.integer("causal", 1)),
        window_(node.integer("local_window_size", -1)),
        rotary_(node.integer("do_rotary", 0)),
        interleaved_(node.integer("rotary_interleaved", 0)),
        smooth_(node.integer("smooth_softmax", -1)),
        bits_(node.integer("kv_cache_bit_width", 8)),
        scale_(node.real("scale", 0)),
        softcap_(node.real("softcap", 0)),
        key_type_(node.string("k_quant_type", "NONE")),
        value_type_(node.string("v_quant_type", "NONE")) {
    const float epsilon = node.real("qk_norm_epsilon", 1e-6F);
    query_epsilon_ = node.real("q_norm_epsilon", epsilon);
    key_epsilon_ = node.real("k_norm_epsilon", epsilon);
    if (heads_ <= 0 || key_heads_ <= 0 || heads_ % key_heads_ != 0) {
      refuse("GroupQueryAttention: num_heads " + std::to_string(heads_) + " is no multiple of kv_num_heads " +
             std::to_string(key_heads_));
    }
  }

  void compute(Call& call) override {
    Operands operands = read(call);
    const std::vector<Lengths> lengths = read_lengths(call, operands.queries);
    const std::int64_t capacity = check_cache(call, operands, lengths);
    Attention attention;
    std::vector<float> tables[4];
    std::vector<std::int64_t> positions;
    set_rotation(call, attention, operands.queries, lengths, positions, tables);
    Codes key_codes = codes(call.input(kKeyScale), operands.stored, key_type_, "k", key_heads_, operands.queries.dim);
    Codes value_codes = codes(call.input(kValueScale), operands.stored, value_type_, "v", key_heads_, operands.queries.dim);
    mha_norm key_norm = {};
    const bool normed = set_norms(call, attention, key_norm, tables[2], tables[3]);

    mha_rows_args rows = {};
    rows.norm = normed ? &key_norm : nullptr;
    rows.rope = attention.args.rope;
    rows.positions = rotary_ ? positions.data() : nullptr;
    std::unique_ptr<Buffer> memory[2];
    const mha_view key = append(call, operands, lengths, {kPastKey, kPresentKey, capacity}, operands.key, key_codes, rows, memory[0]);
    rows.norm = nullptr;
    rows.rope = nullptr;
    rows.positions = nullptr;
    const mha_view value =
        append(call, operands, lengths, {kPastValue, kPresentValue, capacity}, operands.value, value_codes, rows, memory[1]);
    attend(call, attention, operands, lengths, key, value, capacity);
  }

 private:
  struct Operands {
    Rows queries, keys;
    mha_view query, key, value;
    mha_dtype type, stored;
  };
  struct Cache {
    std::size_t past, present;  // indices of the input and the output
    std::int64_t capacity;
  };

  Operands read(const Call& call) const {
    const Tensor query = call.input(kQuery), key = call.input(kKey), value = call.input(kValue);
    const Tensor past = call.input(kPastKey);
    if (query.rank != 3) refuse("GroupQueryAttention: query has not 3 dimensions: " + query.text());
    Operands result;
    result.type = dtype(query.type);
    result.stored = !past || past.type == query.type ? result.type : bits_ == 4 ? MHA_I4 : MHA_I8;
    const std::int64_t parts = key ? heads_ : heads_ + 2 * key_heads_, dim = query.dim(2) / parts;
    if (query.dim(2) % parts != 0 || !key != !value) {
      refuse("GroupQueryAttention: query " + query.text() + " does not fit num_heads " + std::to_string(heads_) +
             " and kv_num_heads " + std::to_string(key_heads_));
    }
    result.queries = {query.dim(0), heads_, query.dim(1), dim};
    result.keys = {query.dim(0), key_heads_, query.dim(1), dim};
    result.query = view(query.data, result.type, Layout::kFlat, result.queries);
    if (!key) {  // [B, S, (heads of queries, keys, values) * D]
      result.query.stride_t = query.dim(2);
      result.query.stride_b = query.dim(1) * query.dim(2);
      result.key = result.value = result.query;
      const char* data = static_cast<const char*>(query.data);
      result.key.data = data + heads_ * dim * bytes_of(result.type);
      result.value.data = data + (heads_ + key_heads_) * dim * bytes_of(result.type);
      return result;
    }
    for (const Tensor* each : {&key, &value}) {
      if (each->rank != 3 || each->dim(0) != query.dim(0) || each->dim(1) != query.dim(1) ||
          each->dim(2) != key_heads_ * dim) {
        refuse("GroupQueryAttention: " + std::string(each == &key ? "key " : "value ") + each->text() +
               " does not fit query " + query.text());
      }
    }
    result.key = view(key.data, result.type, Layout::kFlat, result.keys);
    result.value = view(value.data, result.type, Layout::kFlat, result.keys);
    return result;
  }

  static std::vector<Lengths> read_lengths(const Call& call, const Rows& queries) {
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

  // The tokens that the present tensors have room for.
  std::int64_t check_cache(const Call& call, const Operands& operands, const std::vector<Lengths>& lengths) const {
    const Tensor key = call.input(kPastKey), value = call.input(kPastValue);
    const std::int64_t width = operands.queries.dim / (operands.stored == MHA_I4 ? 2 : 1);
    std::int64_t capacity = call.input(kTotal).as<std::int32_t>()[0];
    if (!key != !value) refuse("GroupQueryAttention: only one of past_key and past_value is given");
    for (const Tensor* each : {&key, &value}) {
      if (!*each) continue;
      if (each->rank != 4 || each->dim(0) != operands.queries.batch || each->dim(1) != key_heads_ ||
          each->dim(3) != width || each->dim(2) != key.dim(2)) {
        refuse("GroupQueryAttention: " + std::string(each == &key ? "past_key" : "past_value") + " is " + each->text() +
               " with kv_num_heads " + std::to_string(key_heads_) + " and rows of " + std::to_string(width));
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

  void set_rotation(const Call& call, Attention& attention, const Rows& queries, const std::vector<Lengths>& lengths,
                    std::vector<std::int64_t>& positions, std::vector<float>* tables) const {
    if (!rotary_) return;
    const Tensor cos = call.input(kCos), sin = call.input(kSin), given = call.input(kPositions);
    if (!cos || !sin || cos.rank != 2 || sin.rank != 2 || cos.elements() != sin.elements()) {
      refuse("GroupQueryAttention: do_rotary needs cos_cache and sin_cache [positions, D / 2]");
    }
    attention.rope.style = interleaved_ ? MHA_ROPE_INTERLEAVED : MHA_ROPE_HALF;
    attention.rope.dims = 2 * cos.dim(1);
    attention.rope.cos = floats(cos, tables[0]);
    attention.rope.sin = floats(sin, tables[1]);
    attention.rope.table_positions = cos.dim(0);
    attention.args.rope = &attention.rope;
    const bool first = !call.input(kQueryLengths) && call.input(kTotal).as<std::int32_t>()[0] == queries.length;
    if (given && given.elements() != queries.batch * queries.length && !first) {
      refuse("GroupQueryAttention: position_ids is " + given.text());
    }
    for (std::int64_t b = 0; b < queries.batch; ++b) {
      for (std::int64_t t = 0; t < queries.length; ++t) {
        std::int64_t position = lengths[static_cast<std::size_t>(b)].before + t;
        // As the operator says: the first prompt uses the first position alone.
        if (given) position = first ? given.as<std::int64_t>()[0] + t : given.as<std::int64_t>()[b * queries.length + t];
        positions.push_back(t < lengths[static_cast<std::size_t>(b)].fresh ? position : 0);
      }
    }
    attention.query_positions = positions;
  }

  bool set_norms(const Call& call, Attention& attention, mha_norm& key_norm, std::vector<float>& query_storage,
                 std::vector<float>& key_storage) const {
    const Tensor query = call.input(kQueryNorm), key = call.input(kKeyNorm);
    if (!query && !key) return false;
    if (!query || !key) refuse("GroupQueryAttention: only one of q_norm_weight and k_norm_weight is given");
    attention.query_norm.epsilon = query_epsilon_;
    attention.query_norm.weight = floats(query, query_storage);
    attention.args.query_norm = &attention.query_norm;
    key_norm.epsilon = key_epsilon_;
    key_norm.weight = floats(key, key_storage);
    return true;
  }

  // Brings the earlier rows into the present tensor, unless it is the past tensor's own memory, and stores the new rows
  // behind them, normed, rotated and rounded as `args` and `codes` say.
  mha_view append(Call& call, const Operands& operands, const std::vector<Lengths>& lengths, const Cache& cache,
                  const mha_view& fresh, Codes& codes, mha_rows_args args, std::unique_ptr<Buffer>& memory) const {
    const Tensor past = call.input(cache.past);
    Rows all = operands.keys;
    all.length = cache.capacity;
    const std::int64_t width = all.dim / (operands.stored == MHA_I4 ? 2 : 1), bytes = width * bytes_of(operands.stored);
    void* present = call.output(cache.present, {all.batch, all.heads, all.length, width});
    if (!present) {
      memory = std::make_unique<Buffer>(allocator(), all.batch * all.heads * all.length * bytes);
      present = memory->data();
    }
    if (past && past.data != present) {
      call.parallel(all.batch * all.heads, [&](std::int64_t i) {
        const std::int64_t rows = lengths[static_cast<std::size_t>(i / all.heads)].before;
        std::memcpy(static_cast<char*>(present) + i * all.length * bytes,
                    past.as<char>() + i * past.dim(2) * bytes, static_cast<std::size_t>(rows * bytes));
      });
    }
    std::vector<std::int64_t> slots;
    for (std::int64_t b = 0; b < all.batch; ++b) {
      const Lengths& each = lengths[static_cast<std::size_t>(b)];
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

  void attend(Call& call, Attention& attention, const Operands& operands, const std::vector<Lengths>& lengths,
              const mha_view& key, const mha_view& value, std::int64_t capacity) const {
    mha_attention_args& args = attention.args;
    const Rows& queries = operands.queries;
    args.batch = queries.batch;
    args.num_heads = heads_;
    args.query_len = queries.length;
    args.head_dim = queries.dim;
    args.scale = scale_;
    args.causal = causal_ != 0;
    args.query = operands.query;
    attention.set_keys(key, value, key_heads_, capacity);
    attention.masks.window_left = window_ > 0 ? window_ : 0;
    attention.score_mods.softcap = softcap_;
    for (const Lengths& each : lengths) {
      attention.key_lengths.push_back(each.before + each.fresh);
      attention.offsets.push_back(each.before);
    }
    if (const Tensor bias = call.input(kBias)) {
      const std::int64_t total = call.input(kTotal).as<std::int32_t>()[0];
      attention.masks.add_mask = add_mask(
          bias, broadcast(bias, "GroupQueryAttention: attention_bias", {queries.batch, heads_, queries.length, total}));
    }
    if (const Tensor sink = call.input(kSink)) {
      if (sink.elements() != heads_) refuse("GroupQueryAttention: head_sink is " + sink.text());
      std::vector<float> storage;
      const float* logits = floats(sink, storage);
      attention.sinks.assign(logits, logits + heads_);
    } else if (smooth_ == 1) {
      attention.sinks.assign(static_cast<std::size_t>(heads_), 0.0F);
    }
    void* output = call.output(kOutput, {queries.batch, queries.length, heads_ * queries.dim});
    args.output = mut_view(output, operands.type, Layout::kFlat, queries);
    attention.forward(context(), call);
  }

  std::int64_t heads_, key_heads_, causal_, window_, rotary_, interleaved_, smooth_, bits_;
  float scale_, softcap_, query_epsilon_, key_epsilon_;
  std::string key_type_, value_type_;
};

Kernel* make(const Node& node) {
  std::string reason;
  if (node.has_output(kProducts)) reason = "the output output_qk";
  if (node.integer("sliding_window_cache", 0) != 0) reason = "sliding_window_cache";
  if (reason.empty()) return new GroupQueryAttention(node);
  const ort::ElementType type = node.input_type(kQuery), cache = node.input_type(kPastKey);
  const std::int64_t heads = node.integer("num_heads", 1), key_heads = node.integer("kv_num_heads", 1);
  const bool window_cache = node.integer("sliding_window_cache", 0) != 0;
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
                       std::vector<Port>{needed, optional, optional, cache, cache, length, length, optional, optional,
                                         {ort::kInt64, ort::kOptional}, optional, optional, scale, scale, optional,
                                         optional, {ort::kInt32, ort::kOptional}},
                       std::vector<Port>{needed, cache, cache, optional}, make);
    }
  }
}

}  // namespace host
