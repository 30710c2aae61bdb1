// SPDX-License-Identifier: Apache-2.0
// Makes the calls that `mha bench` times; see bench_cases.h.
#include "tools/cli/bench_cases.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "tools/cli/stored_rows.h"
#include "tools/cli/support.h"

namespace mha::cli {
namespace {

// Weights that turn inputs of magnitude 1 into results of magnitude 1.
float weight_scale(std::int64_t inputs) { return static_cast<float>(std::sqrt(3.0 / static_cast<double>(inputs))); }

double product(std::initializer_list<std::int64_t> sizes) {
  double result = 1;
  for (const std::int64_t size : sizes) result *= static_cast<double>(size);
  return result;
}

// Attention over tensors: causal prefill, or one query of each item over keys in a format that caches do not store.
class TensorAttention final : public BenchCase {
 public:
  TensorAttention(const BenchSpec& s, const Context& context, std::int64_t queries) : context_(context) {
    const RowSizes rows = {s.batch, s.length, s.num_kv_heads, s.head_dim};
    key_ = StoredRows(context, s.format, rows, 1, 1);
    value_ = StoredRows(context, s.format, rows, 1, 2);
    query_ = random_values(s.batch * queries * s.num_heads * s.head_dim, 3);
    output_.resize(query_.size());
    args_.batch = s.batch, args_.num_heads = s.num_heads, args_.num_kv_heads = s.num_kv_heads;
    args_.query_len = queries, args_.key_len = s.length, args_.head_dim = s.head_dim;
    args_.query = view(query_.data()), args_.output = mut_view(output_.data());
    args_.key = key_.view(), args_.value = value_.view();
    args_.causal = 1;
    args_.arithmetic = s.arithmetic;
    workspace_.resize(take_supported(context.attention_workspace_bytes(args_)));
    args_.resources.workspace = workspace_.data(), args_.resources.workspace_bytes = workspace_.size();
    if (queries == 1) bytes = static_cast<double>(key_.bytes() + value_.bytes());
  }
  void run() override { check_supported(context_.attention(args_)); }

 private:
  const Context& context_;
  StoredRows key_, value_;
  std::vector<float> query_, output_;
  std::vector<std::byte> workspace_;
  AttentionCall args_;
};

// One query of each sequence over a cache.
class CacheAttention final : public BenchCase {
 public:
  CacheAttention(const BenchSpec& s, const Context& context) : context_(context) {
    mha_cache_config config{};
    config.num_kv_heads = s.num_kv_heads, config.head_dim = s.head_dim;
    config.max_sequences = s.batch, config.capacity = s.length;
    config.key = config.value = storage_of(s.format);
    cache_ = take_supported(Cache::create(context, config));
    fill(s);
    query_ = random_values(s.batch * s.num_heads * s.head_dim, 3);
    output_.resize(query_.size());
    args_.batch = s.batch, args_.num_heads = s.num_heads, args_.num_kv_heads = s.num_kv_heads;
    args_.query_len = 1, args_.head_dim = s.head_dim;
    args_.query = view(query_.data()), args_.output = mut_view(output_.data());
    args_.causal = 1;
    args_.cache = cache_.get();
    args_.arithmetic = s.arithmetic;
    workspace_.resize(take_supported(context.attention_workspace_bytes(args_)));
    args_.resources.workspace = workspace_.data(), args_.resources.workspace_bytes = workspace_.size();
    bytes = row_bytes(s.format, s.head_dim) * 2 * product({s.batch, s.length, s.num_kv_heads});
  }
  void run() override { check_supported(context_.attention(args_)); }

 private:
  void fill(const BenchSpec& s) {
    // One item's tokens serve for all sequences.
    const std::int64_t count = s.length * s.num_kv_heads * s.head_dim;
    const std::vector<float> key = random_values(count, 1), value = random_values(count, 2);
    for (std::int64_t b = 0; b < s.batch; ++b) {
      mha_append_args append{};
      append.batch = 1, append.length = s.length, append.sequences = &b;
      append.key = view(key.data()), append.value = view(value.data());
      check_supported(cache_.append(context_, append));
    }
  }
  // Of a row with its scales and zeros.
  static double row_bytes(const Format& format, std::int64_t width) {
    auto total = static_cast<double>(code_bytes(format.dtype, width));
    if (!has_scales(format.dtype)) return total;
    const std::int64_t groups = format.group > 0 ? width / format.group : 1;
    total += static_cast<double>(code_bytes(format.scale_dtype, groups));
    return total + (format.zeros ? static_cast<double>(groups) : 0.0);
  }

  const Context& context_;
  Cache cache_;
  std::vector<float> query_, output_;
  std::vector<std::byte> workspace_;
  AttentionCall args_;
};

class LinearBench final : public BenchCase {
 public:
  LinearBench(const BenchSpec& s, const Context& context) : context_(context) {
    const StoredRows weight(context, s.format, {1, s.out_features, 1, s.in_features}, weight_scale(s.in_features), 1);
    mha_linear_config config{};
    config.in_features = s.in_features, config.out_features = s.out_features;
    config.weight = weight.view();
    config.arithmetic = s.arithmetic;
    linear_ = take_supported(Linear::create(context, config));
    input_ = random_values(s.length * s.in_features, 2);
    output_.resize(static_cast<std::size_t>(s.length * s.out_features));
    args_.rows = s.length;
    args_.input = view(input_.data()), args_.output = mut_view(output_.data());
    workspace_.resize(take_supported(linear_.workspace_bytes(context, args_)));
    resources_.workspace = workspace_.data(), resources_.workspace_bytes = workspace_.size();
    args_.resources = &resources_;
    constexpr std::int64_t kFewRows = 8;
    if (s.length <= kFewRows) bytes = static_cast<double>(weight.bytes());
  }
  void run() override { check_supported(linear_.forward(context_, args_)); }

 private:
  const Context& context_;
  Linear linear_;
  std::vector<float> input_, output_;
  std::vector<std::byte> workspace_;
  mha_resources resources_{};
  mha_linear_args args_{};
};

class LayerBench final : public BenchCase {
 public:
  LayerBench(const BenchSpec& s, const Context& context) : context_(context) {
    const std::int64_t E = s.num_heads * s.head_dim, kv = s.num_kv_heads * s.head_dim;
    const auto weight = [&](std::int64_t rows, std::uint32_t seed) {
      return StoredRows(context, s.format, {1, rows, 1, E}, weight_scale(E), seed);
    };
    const StoredRows query = weight(E, 1), key = weight(kv, 2), value = weight(kv, 3), output = weight(E, 4);
    mha_layer_config config{};
    config.embed_dim = E, config.num_heads = s.num_heads, config.num_kv_heads = s.num_kv_heads;
    config.arithmetic = s.arithmetic;
    mha_layer_weights weights{};
    weights.query_weight = query.view(), weights.key_weight = key.view();
    weights.value_weight = value.view(), weights.output_weight = output.view();
    layer_ = take_supported(Layer::create(context, config, weights));
    input_ = random_values(s.batch * s.length * E, 5);
    output_.resize(input_.size());
    args_.batch = s.batch, args_.query_len = s.length, args_.causal = 1;
    args_.query = view(input_.data()), args_.output = mut_view(output_.data());
    args_.arithmetic = attention_arithmetic("", s.arithmetic);
    workspace_.resize(take_supported(layer_.workspace_bytes(context, args_)));
    args_.resources.workspace = workspace_.data(), args_.resources.workspace_bytes = workspace_.size();
  }
  void run() override { check_supported(layer_.forward(context_, args_)); }

 private:
  const Context& context_;
  Layer layer_;
  std::vector<float> input_, output_;
  std::vector<std::byte> workspace_;
  LayerCall args_;
};

std::unique_ptr<BenchCase> make_case(const BenchSpec& s, const Context& context) {
  switch (s.kind) {
    case BenchKind::kPrefill:
      return std::make_unique<TensorAttention>(s, context, s.length);
    case BenchKind::kDecode:
      if (is_block(s.format.dtype)) return std::make_unique<TensorAttention>(s, context, 1);
      return std::make_unique<CacheAttention>(s, context);
    case BenchKind::kLinear:
      return std::make_unique<LinearBench>(s, context);
    case BenchKind::kLayer:
      break;
  }
  return std::make_unique<LayerBench>(s, context);
}

// Visible pairs of a query and a key of one item, over all heads, times D.
double pairs(const BenchSpec& s) {
  if (s.kind == BenchKind::kDecode) return product({s.num_heads, s.head_dim, s.length});
  return product({s.num_heads, s.head_dim, s.length, s.length + 1}) / 2;
}

double operations_of(const BenchSpec& s) {
  if (s.kind == BenchKind::kLinear) return 2 * product({s.length, s.in_features, s.out_features});
  double operations = 4 * product({s.batch}) * pairs(s);
  if (s.kind == BenchKind::kLayer) {
    const double E = product({s.num_heads, s.head_dim}), kv = product({s.num_kv_heads, s.head_dim});
    operations += 4 * product({s.batch, s.length}) * E * (E + kv);
  }
  return operations;
}

// So that products of sizes fit, and a mistyped size does not fill the memory.
void check_sizes(const BenchSpec& s) {
  constexpr double kMost = 0x1p31;  // elements
  const double width = product({s.num_heads, s.head_dim});
  const bool linear = s.kind == BenchKind::kLinear;
  const double tensor = linear ? product({s.length, std::max(s.in_features, s.out_features)})
                               : product({s.batch, s.length}) * std::max(width, product({s.num_kv_heads, s.head_dim}));
  const double weight = linear ? product({s.in_features, s.out_features}) : width * width;
  if (std::max(tensor, s.kind == BenchKind::kLayer || linear ? weight : 0.0) > kMost) {
    throw Failure(s.name() + ": a tensor is beyond the limit of bench, 2^31 elements");
  }
}

}  // namespace

std::string BenchSpec::name() const {
  const auto number = [](std::int64_t n) { return std::to_string(n); };
  const std::string begin = kBenchKindNames[static_cast<int>(kind)];
  if (kind == BenchKind::kLinear) {
    return begin + " M " + number(length) + " K " + number(in_features) + " N " + number(out_features);
  }
  return begin + " B " + number(batch) + " H " + number(num_heads) + "/" + number(num_kv_heads) + " D " +
         number(head_dim) + (kind == BenchKind::kDecode ? " Tk " : " T ") + number(length);
}

std::unique_ptr<BenchCase> make_bench_case(const BenchSpec& spec, const Context& context) {
  check_sizes(spec);
  std::unique_ptr<BenchCase> made = make_case(spec, context);
  made->tokens = spec.kind == BenchKind::kDecode   ? product({spec.batch})
                 : spec.kind == BenchKind::kLinear ? product({spec.length})
                                                   : product({spec.batch, spec.length});
  made->operations = operations_of(spec);
  return made;
}

}  // namespace mha::cli
