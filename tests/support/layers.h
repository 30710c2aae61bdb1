// SPDX-License-Identifier: Apache-2.0
// Linear and layer problems: sizes, weights drawn from a seed, one call through the library and one through the
// reference.
#ifndef MHA_TESTS_SUPPORT_LAYERS_H
#define MHA_TESTS_SUPPORT_LAYERS_H

#include <cmath>

#include "tests/support/shapes.h"

namespace mha::test {

inline LinearPtr make_linear(const mha_context* context, int64_t in_features, int64_t out_features, const float* weight,
                             const float* bias, mha_arithmetic arithmetic = MHA_ARITHMETIC_F32) {
  mha_linear_config config = {};
  config.in_features = in_features, config.out_features = out_features;
  config.weight = view(weight), config.bias = bias, config.arithmetic = arithmetic;
  mha_linear* linear = nullptr;
  mha_error error = {};
  require_ok(mha_linear_create(context, &config, &linear, &error), error);
  return LinearPtr(linear);
}

inline int64_t out_features_of(const mha_linear* linear) {
  mha_linear_config config = {};
  mha_linear_get_config(linear, &config);
  return config.out_features;
}

/// Dense arguments of a linear.
inline mha_linear_args linear_args(int64_t rows, const float* input, float* output) {
  mha_linear_args args = {};
  args.rows = rows, args.input = view(input), args.output = mut_view(output);
  return args;
}

/// Dense input [rows, in_features] -> dense output.
inline std::vector<float> run_linear(const mha_context* context, const mha_linear* linear,
                                     const std::vector<float>& input, int64_t rows) {
  std::vector<float> output = poisoned(rows * out_features_of(linear));
  const mha_linear_args args = linear_args(rows, input.data(), output.data());
  mha_error error = {};
  require_ok(mha_linear_forward(context, linear, &args, &error), error);
  return output;
}

/// The configuration with its defaults filled in.
inline mha_layer_config full_config(mha_layer_config c) {
  if (!c.num_kv_heads) c.num_kv_heads = c.num_heads;
  if (!c.head_dim) c.head_dim = c.embed_dim / c.num_heads;
  if (!c.value_head_dim) c.value_head_dim = c.head_dim;
  if (!c.kdim) c.kdim = c.embed_dim;
  if (!c.vdim) c.vdim = c.embed_dim;
  if (!c.out_dim) c.out_dim = c.embed_dim;
  return c;
}

enum class Biases { kNone, kAll, kOutputOnly, kInOnly };

/// Weights and biases from the members of `o`, which have the names of mha_layer_weights.
template <class Owner>
mha_layer_weights separate_weights_of(const Owner& o) {
  mha_layer_weights w = {};
  w.query_weight = view(o.query_weight.data());
  w.key_weight = view(o.key_weight.data());
  w.value_weight = view(o.value_weight.data());
  w.output_weight = view(o.output_weight.data());
  w.query_bias = o.query_bias.data();
  w.key_bias = o.key_bias.data();
  w.value_bias = o.value_bias.data();
  w.output_bias = o.output_bias.data();
  return w;
}

/// A layer's weights and one input, owned. Separate weights; fused_weights() gives the same ones fused.
struct LayerProblem {
  mha_layer_config config;  // as given, defaults not filled in
  int64_t B, Tq, Tk;
  std::vector<float> query_weight, key_weight, value_weight, output_weight;
  std::vector<float> query_bias, key_bias, value_bias, output_bias;
  std::vector<float> in_proj_weight, in_proj_bias;
  std::vector<float> query, key, value;
  Masks masks;
  bool has_in_bias, has_out_bias;

  LayerProblem(const mha_layer_config& given, int64_t batch, int64_t query_len, int64_t key_len, Biases biases,
               uint64_t seed)
      : config(given), B(batch), Tq(query_len), Tk(key_len) {
    const mha_layer_config c = full_config(given);
    const int64_t q_rows = c.num_heads * c.head_dim, k_rows = c.num_kv_heads * c.head_dim;
    const int64_t v_rows = c.num_kv_heads * c.value_head_dim, o_cols = c.num_heads * c.value_head_dim;
    const auto weight = [&](int64_t rows, int64_t columns) {
      return random_floats(rows * columns, ++seed, 1 / std::sqrt(static_cast<float>(columns)));
    };
    query_weight = weight(q_rows, c.embed_dim);
    key_weight = weight(k_rows, c.kdim);
    value_weight = weight(v_rows, c.vdim);
    output_weight = weight(c.out_dim, o_cols);
    query_bias = random_floats(q_rows, ++seed);
    key_bias = random_floats(k_rows, ++seed);
    value_bias = random_floats(v_rows, ++seed);
    output_bias = random_floats(c.out_dim, ++seed);
    for (const auto* part : {&query_weight, &key_weight, &value_weight})
      in_proj_weight.insert(in_proj_weight.end(), part->begin(), part->end());
    for (const auto* part : {&query_bias, &key_bias, &value_bias})
      in_proj_bias.insert(in_proj_bias.end(), part->begin(), part->end());
    has_in_bias = biases == Biases::kAll || biases == Biases::kInOnly;
    has_out_bias = biases == Biases::kAll || biases == Biases::kOutputOnly;
    query = random_floats(B * Tq * c.embed_dim, ++seed);
    key = random_floats(B * Tk * c.kdim, ++seed);
    value = random_floats(B * Tk * c.vdim, ++seed);
    key.reserve(1), value.reserve(1);  // without keys not NULL either, which would mean self-attention
  }
  LayerProblem(const LayerProblem&) = delete;
  LayerProblem& operator=(const LayerProblem&) = delete;

  mha_layer_weights separate_weights() const {
    mha_layer_weights w = separate_weights_of(*this);
    if (!has_in_bias) w.query_bias = w.key_bias = w.value_bias = nullptr;
    if (!has_out_bias) w.output_bias = nullptr;
    return w;
  }
  /// Needs kdim == vdim == embed_dim.
  mha_layer_weights fused_weights() const {
    mha_layer_weights w = {};
    w.in_proj_weight = view(in_proj_weight.data());
    w.output_weight = view(output_weight.data());
    if (has_in_bias) w.in_proj_bias = in_proj_bias.data();
    if (has_out_bias) w.output_bias = output_bias.data();
    return w;
  }
  LayerCall args() const {
    LayerCall args;
    args.batch = B;
    args.query_len = Tq;
    args.key_len = Tk;
    args.query = view(query.data());
    args.key = view(key.data());
    args.value = view(value.data());
    masks.put_into(&args);
    return args;
  }
  LayerPtr make(const mha_context* context) const { return make_from(context, separate_weights()); }
  LayerPtr make_from(const mha_context* context, const mha_layer_weights& weights) const {
    mha_layer* layer = nullptr;
    mha_error error = {};
    require_ok(mha_layer_create(context, &config, &weights, &layer, &error), error);
    return LayerPtr(layer);
  }
};

struct LayerResult {
  std::vector<float> output, weights;
};

/// Self-attention has as many keys as queries.
inline int64_t keys_of(const LayerCall& args) { return args.key.data ? args.key_len : args.query_len; }

/// Calls mha_layer_forward with dense results of its own and a workspace of exactly the size asked for, both poison
/// before. `added_keys`: how many the layer adds to those given.
inline LayerResult run_layer(const mha_context* context, const mha_layer* layer, LayerCall args,
                             int64_t added_keys = 0) {
  mha_layer_config c = {};
  mha_layer_get_config(layer, &c);
  LayerResult result;
  result.output = poisoned(args.batch * args.query_len * c.out_dim);
  args.output = mut_view(result.output.data());
  if (args.results.weights_mode != MHA_WEIGHTS_NONE) {
    const int64_t heads = args.results.weights_mode == MHA_WEIGHTS_AVERAGED ? 1 : c.num_heads;
    result.weights = poisoned(args.batch * heads * args.query_len * (keys_of(args) + added_keys));
    args.results.weights = mut_view(result.weights.data());
  }
  mha_error error = {};
  size_t bytes = 0;
  require_ok(layer_workspace_bytes(context, layer, args, &bytes, &error), error);
  std::vector<float> workspace = poisoned(static_cast<int64_t>(bytes / sizeof(float) + 1));
  args.resources.workspace = workspace.data();
  args.resources.workspace_bytes = bytes;
  require_ok(layer_forward(context, layer, args, &error), error);
  return result;
}

struct LayerReference {
  std::vector<double> output, weights;
};

inline LayerReference reference_layer(const mha_layer_config& config, const mha_layer_weights& weights,
                                      const LayerCall& args) {
  const mha_layer_config c = full_config(config);
  LayerReference result;
  result.output.resize(static_cast<size_t>(args.batch * args.query_len * c.out_dim));
  const int64_t heads = args.results.weights_mode == MHA_WEIGHTS_AVERAGED ? 1 : c.num_heads;
  const int64_t keys = keys_of(args) + (weights.bias_key ? 1 : 0) + (config.add_zero_attn ? 1 : 0);
  result.weights.resize(static_cast<size_t>(args.batch * heads * args.query_len * keys));
  reference::forward<double>(config, weights, args.raw(), result.output.data(),
                             args.results.weights_mode == MHA_WEIGHTS_NONE ? nullptr : result.weights.data());
  if (args.results.weights_mode == MHA_WEIGHTS_NONE) result.weights.clear();
  return result;
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_LAYERS_H
