// SPDX-License-Identifier: Apache-2.0
// Storage formats against the floats that they stand for; see verify_storage.h.
#include "tools/cli/verify_storage.h"

#include "tools/cli/stored_rows.h"
#include "tools/cli/support.h"

namespace mha::cli {
namespace {

constexpr const char* kFormats[] = {"f16",
                                    "bf16",
                                    "i8",
                                    "i8:group=16:scales=f16",
                                    "u8:zeros:scales=bf16",
                                    "u8:group=32",
                                    "i4:group=32:scales=f16",
                                    "u4:zeros:group=16",
                                    "q8_0",
                                    "q4_0"};

using Bits = std::vector<float>;

// Sizes of case i. Within 20 cases each size meets every other that the same call takes. Widths are multiples of 32,
// for blocks.
struct Sizes {
  explicit Sizes(std::int64_t i)
      : queries(i % 2 == 0 ? 1 : 37),
        keys(i % 3 == 0   ? 40
             : i % 3 == 1 ? 300
                          : 7),
        width(32 + 32 * (i % 5)),
        batch(1 + i / 2 % 2),
        rows(i % 4 == 0 ? 1 : 19) {}
  std::int64_t queries, keys, width, batch, rows;
  static constexpr std::int64_t kHeads = 4, kKvHeads = 2;
  std::string text() const {
    return "Tq " + std::to_string(queries) + " Tk " + std::to_string(keys) + " D " + std::to_string(width) + " M " +
           std::to_string(rows);
  }
};

// Contexts of one target: on one thread and on three, in turn, so that both sides meet both.
struct Machine {
  Context one, three;
};

Bits attention(const Context& context, const Sizes& s, const mha_view& key, const mha_view& value,
               mha_arithmetic arithmetic) {
  const Bits query = random_values(s.batch * s.queries * Sizes::kHeads * s.width, 61);
  Bits output(query.size());
  AttentionCall args;
  args.batch = s.batch, args.num_heads = Sizes::kHeads, args.num_kv_heads = Sizes::kKvHeads;
  args.query_len = s.queries, args.key_len = s.keys, args.head_dim = s.width;
  args.query = view(query.data()), args.key = key, args.value = value;
  args.output = mut_view(output.data());
  args.causal = 1;
  args.arithmetic = arithmetic;
  check_supported(context.attention(args));
  return output;
}

bool attention_case(const Machine& m, const Format& format, const Sizes& s, mha_arithmetic arithmetic) {
  const RowSizes rows = {s.batch, s.keys, Sizes::kKvHeads, s.width};
  const StoredRows key(m.one, format, rows, 1, 62), value(m.one, format, rows, 1, 63);
  const Bits wide_key = key.widened(), wide_value = value.widened();
  return same_bits(attention(m.one, s, key.view(), value.view(), arithmetic),
                   attention(m.three, s, view(wide_key.data()), view(wide_value.data()), arithmetic));
}

// A cache that rounds what is appended, against the floats that it exports.
bool cache_case(const Machine& m, const Format& format, const Sizes& s, mha_arithmetic arithmetic) {
  mha_cache_config config{};
  config.kind = MHA_CACHE_PAGED, config.page_size = 16;
  config.num_kv_heads = Sizes::kKvHeads, config.head_dim = s.width, config.capacity = s.keys;
  config.key = config.value = storage_of(format);
  Cache cache = take_supported(Cache::create(m.one, config));
  const std::int64_t count = s.keys * Sizes::kKvHeads * s.width;
  const Bits key = random_values(count, 64), value = random_values(count, 65);
  mha_append_args append{};
  append.batch = 1, append.length = s.keys, append.key = view(key.data()), append.value = view(value.data());
  check_supported(cache.append(m.one, append));
  Bits wide_key(key.size()), wide_value(value.size());
  mha_export_args exported{};
  exported.count = s.keys;
  exported.key = mut_view(wide_key.data()), exported.value = mut_view(wide_value.data());
  check_supported(cache.export_to(exported));

  Sizes one = s;
  one.batch = 1;
  const Bits query = random_values(one.queries * Sizes::kHeads * one.width, 61);
  Bits output(query.size());
  AttentionCall args;
  args.batch = 1, args.num_heads = Sizes::kHeads, args.num_kv_heads = Sizes::kKvHeads;
  args.query_len = one.queries, args.head_dim = one.width;
  args.query = view(query.data()), args.output = mut_view(output.data());
  args.causal = 1, args.cache = cache.get(), args.arithmetic = arithmetic;
  check_supported(m.three.attention(args));
  return same_bits(output, attention(m.one, one, view(wide_key.data()), view(wide_value.data()), arithmetic));
}

Bits linear(const Context& context, const Sizes& s, const mha_view& weight, mha_arithmetic arithmetic) {
  constexpr std::int64_t kOutputs = 45;
  mha_linear_config config{};
  config.in_features = s.width, config.out_features = kOutputs, config.weight = weight;
  config.arithmetic = arithmetic;
  const Linear made = take_supported(Linear::create(context, config));
  const Bits input = random_values(s.rows * s.width, 66);
  Bits output(static_cast<std::size_t>(s.rows * kOutputs));
  mha_linear_args args{};
  args.rows = s.rows, args.input = view(input.data()), args.output = mut_view(output.data());
  check_supported(made.forward(context, args));
  return output;
}

bool linear_case(const Machine& m, const Format& format, const Sizes& s, mha_arithmetic arithmetic) {
  const StoredRows weight(m.one, format, {1, 45, 1, s.width}, 1, 67);
  const Bits wide = weight.widened();
  return same_bits(linear(m.one, s, weight.view(), arithmetic), linear(m.three, s, view(wide.data()), arithmetic));
}

// Self-attention of width E = D with one weight for all four projections.
Bits layer(const Context& context, const Sizes& s, const mha_view& weight, mha_arithmetic arithmetic) {
  mha_layer_config config{};
  config.embed_dim = s.width, config.num_heads = Sizes::kHeads, config.arithmetic = arithmetic;
  mha_layer_weights weights{};
  weights.query_weight = weights.key_weight = weights.value_weight = weights.output_weight = weight;
  const Layer made = take_supported(Layer::create(context, config, weights));
  const Bits input = random_values(s.rows * s.width, 68);
  Bits output(input.size());
  LayerCall args;
  args.batch = 1, args.query_len = s.rows, args.causal = 1, args.arithmetic = arithmetic;
  args.query = view(input.data()), args.output = mut_view(output.data());
  check_supported(made.forward(context, args));
  return output;
}

bool layer_case(const Machine& m, const Format& format, const Sizes& s, mha_arithmetic arithmetic) {
  const StoredRows weight(m.one, format, {1, s.width, 1, s.width}, 0.2F, 69);
  const Bits wide = weight.widened();
  return same_bits(layer(m.one, s, weight.view(), arithmetic), layer(m.three, s, view(wide.data()), arithmetic));
}

struct Call {
  const char* name;
  bool (*same)(const Machine&, const Format&, const Sizes&, mha_arithmetic);
};
constexpr Call kCalls[] = {
    {"attention", attention_case}, {"cache", cache_case}, {"linear", linear_case}, {"layer", layer_case}};

// Returns whether the library has the combination.
bool check_call(const Machine& m, const Call& call, const Format& format, mha_arithmetic arithmetic, bool quick,
                StorageCheck& out) {
  const std::string name = std::string(call.name) + " " + format.text + " in " + arithmetic_name(arithmetic);
  for (std::int64_t i = 0; i < (quick ? 4 : 20); ++i) {
    const Sizes sizes(i);
    try {
      const bool same = call.same(m, format, sizes, arithmetic);
      ++out.cases;
      if (!same) out.failures.push_back(name + ", " + sizes.text() + ": other bits than over the widened floats");
    } catch (const Unsupported& unsupported) {
      out.missing.push_back(name + ": " + unsupported.what());
      return false;
    }
  }
  return true;
}

}  // namespace

StorageCheck check_storage(const std::string& target, bool quick) {
  StorageCheck result;
  result.target = target;
  const Machine machine = {make_context(target.c_str(), 1), make_context(target.c_str(), 3)};
  for (const char* name : kFormats) {
    const Format format = parse_format("format", name);
    bool has_f32 = true;
    for (const mha_arithmetic arithmetic : {MHA_ARITHMETIC_F32, MHA_ARITHMETIC_BF16}) {
      for (const Call& call : kCalls) {
        if (is_block(format.dtype) && call.same == cache_case) continue;  // caches do not store blocks
        const bool has = check_call(machine, call, format, arithmetic, quick, result);
        has_f32 = has_f32 && (has || arithmetic != MHA_ARITHMETIC_F32);
      }
    }
    if (has_f32) result.formats.push_back(format.text);
  }
  return result;
}

}  // namespace mha::cli
