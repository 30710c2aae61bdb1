// SPDX-License-Identifier: Apache-2.0
// Case i takes the i-th entry of each list of sizes, round and round. The lists' lengths share no factor, so that pairs
// of sizes meet each other in all combinations as i grows.
#include "tools/cli/verify_cases.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <memory>

#include "core/reference.h"
#include "tools/cli/support.h"

namespace mha::cli {
namespace {

constexpr std::int64_t kLinearCases = 60;
constexpr std::int64_t kAttentionCases = 240;
constexpr std::int64_t kLayerCases = 60;
constexpr std::int64_t kQuickDivisor = 4;

// Results are sums of up to 257 products (linear) or means of values (attention), all of magnitude 1 and each rounded
// in float; measured worst errors are below a fifth of these on every target.
constexpr double kLinearBound = 1e-5;
constexpr double kAttentionBound = 5e-6;
constexpr double kLayerBound = 1e-5;

template <std::size_t kCount>
std::int64_t pick(const std::int64_t (&list)[kCount], std::int64_t index) {
  return list[static_cast<std::size_t>(index) % kCount];
}

std::string sizes_text(const std::vector<std::pair<const char*, std::int64_t>>& sizes) {
  std::string text;
  for (const auto& [name, value] : sizes) text += std::string(" ") + name + " " + std::to_string(value);
  return text;
}

std::vector<float> scaled(std::vector<float> values, double factor) {
  for (float& value : values) value = static_cast<float>(value * factor);
  return values;
}

VerifyCase linear_case(std::int64_t index) {
  constexpr std::int64_t kRows[] = {1, 2, 3, 5, 6, 7, 8, 13, 31, 64, 129};                // 11
  constexpr std::int64_t kInputs[] = {1, 3, 16, 20, 64, 65, 257};                         // 7
  constexpr std::int64_t kOutputs[] = {1, 2, 7, 8, 15, 16, 17, 20, 31, 33, 63, 64, 100};  // 13
  const std::int64_t rows = pick(kRows, index);
  const std::int64_t in = pick(kInputs, index);
  const std::int64_t out = pick(kOutputs, index);
  const std::int64_t stride = in + index % 3;
  struct Data {
    std::vector<float> input, weight, bias;
  };
  const auto data = std::make_shared<Data>(
      Data{random_values(rows * stride, 11), random_values(out * in, 12), random_values(out, 13)});
  const float* bias = index % 4 == 0 ? nullptr : data->bias.data();
  VerifyCase result;
  result.name = "linear" + sizes_text({{"M", rows}, {"N", out}, {"K", in}, {"row stride", stride}});
  result.bound = kLinearBound;
  result.reference = [=] {
    std::vector<double> output(static_cast<std::size_t>(rows * out));
    reference::linear<double>(data->input.data(), stride, rows, in, data->weight.data(), bias, out, output.data());
    return output;
  };
  result.run = [=](const mha_context* context) {
    mha_error error{};
    mha_linear* raw = nullptr;
    check(mha_linear_create(context, in, out, data->weight.data(), bias, &raw, &error), error);
    const Linear linear(raw);
    std::vector<float> output(static_cast<std::size_t>(rows * out));
    mha_linear_args args{};
    args.rows = rows;
    args.input = data->input.data();
    args.input_stride = stride;
    args.output = output.data();
    check(mha_linear_forward(context, linear.get(), &args, &error), error);
    return output;
  };
  return result;
}

// Masks for B, H, Tq, Tk; bits of `kind`: 1 causal, 2 key lengths, 4 boolean, 8 additive. The data lives in this.
struct MaskData {
  std::vector<std::int64_t> lengths;
  std::vector<std::uint8_t> booleans;
  std::vector<float> added;
  mha_masks masks{};

  MaskData(std::int64_t kind, std::int64_t B, std::int64_t H, std::int64_t Tq, std::int64_t Tk) {
    if ((kind & 1) != 0) masks.causal = MHA_CAUSAL_BOTTOM_RIGHT;
    if ((kind & 2) != 0) {
      for (std::int64_t b = 0; b < B; ++b) lengths.push_back(std::max<std::int64_t>(0, Tk - 3 * b - 1));
      masks.key_lengths = lengths.data();
    }
    if ((kind & 4) != 0) {  // one for all heads
      for (const float x : random_values(B * Tq * Tk, 21)) booleans.push_back(x < 0.5F ? 1 : 0);
      masks.bool_mask = {booleans.data(), Tq * Tk, 0, Tk};
    }
    if ((kind & 8) != 0) {  // one for all batch items
      added = random_values(H * Tq * Tk, 22);
      for (float& x : added) x = x < -0.8F ? -std::numeric_limits<float>::infinity() : x;
      masks.add_mask = {added.data(), 0, Tq * Tk, Tk};
    }
  }
};

constexpr std::int64_t kMaskKinds[] = {0, 1, 2, 4, 8, 3, 15};  // 7

VerifyCase attention_case(std::int64_t index) {
  constexpr std::int64_t kHeadDims[] = {1, 3, 5, 8, 16, 20, 33, 48, 64, 80, 128};             // 11
  constexpr std::int64_t kQueries[] = {1, 2, 3, 7, 17};                                       // 5
  constexpr std::int64_t kKeys[] = {1, 2, 9, 31, 32, 65, 127, 200, 255, 256, 257, 513, 600};  // 13
  constexpr std::int64_t kHeads[][2] = {{1, 1}, {4, 4}, {4, 2}, {6, 1}};                      // 4: H, Hkv
  constexpr std::int64_t kValueDims[] = {0, 24, 7};                                           // 3; 0: as D
  mha_attention_args args{};
  args.batch = 1 + index % 2;
  args.num_heads = kHeads[index % 4][0];
  args.num_kv_heads = kHeads[index % 4][1];
  args.query_len = pick(kQueries, index);
  args.key_len = pick(kKeys, index);
  args.head_dim = pick(kHeadDims, index);
  args.value_head_dim = pick(kValueDims, index);
  if (args.value_head_dim == 0) args.value_head_dim = args.head_dim;
  args.weights_mode = static_cast<mha_weights_mode>(index % 3);
  const std::int64_t B = args.batch, H = args.num_heads, Hkv = args.num_kv_heads, Tq = args.query_len,
                     Tk = args.key_len;
  const std::int64_t D = args.head_dim, Dv = args.value_head_dim, kind = pick(kMaskKinds, index);
  struct Data {
    std::vector<float> query, key, value;
    MaskData masks;
  };
  const auto data = std::make_shared<Data>(Data{random_values(B * Tq * H * D, 31), random_values(B * Tk * Hkv * D, 32),
                                                random_values(B * Tk * Hkv * Dv, 33), MaskData(kind, B, H, Tq, Tk)});
  args.query.data = data->query.data();
  args.key.data = data->key.data();
  args.value.data = data->value.data();
  if (index % 5 == 0) {  // heads before positions
    args.query = {data->query.data(), H * Tq * D, D, Tq * D, 1};
    args.key = {data->key.data(), Hkv * Tk * D, D, Tk * D, 1};
  }
  args.masks = data->masks.masks;
  const auto output_size = static_cast<std::size_t>(B * Tq * H * Dv);
  const bool averaged = args.weights_mode == MHA_WEIGHTS_AVERAGED;
  const bool wanted = args.weights_mode != MHA_WEIGHTS_NONE;
  const auto weights_size = static_cast<std::size_t>(wanted ? B * (averaged ? 1 : H) * Tq * Tk : 0);
  const std::size_t total = output_size + weights_size + static_cast<std::size_t>(B * H * Tq);
  VerifyCase result;
  result.name = "attention" + sizes_text({{"B", B},
                                          {"H", H},
                                          {"Hkv", Hkv},
                                          {"Tq", Tq},
                                          {"Tk", Tk},
                                          {"D", D},
                                          {"Dv", Dv},
                                          {"masks", kind},
                                          {"weights", args.weights_mode}});
  result.bound = kAttentionBound;
  result.reference = [=] {
    (void)data;  // keeps what args points to
    std::vector<double> all(total);
    reference::attention<double>(args, all.data(), wanted ? all.data() + output_size : nullptr,
                                 all.data() + output_size + weights_size);
    return all;
  };
  result.run = [=](const mha_context* context) {
    (void)data;
    std::vector<float> all(total);
    mha_attention_args call = args;
    call.output.data = all.data();
    if (wanted) call.weights.data = all.data() + output_size;
    call.log_sum_exp = all.data() + output_size + weights_size;
    mha_error error{};
    check(mha_attention(context, &call, &error), error);
    return all;
  };
  return result;
}

VerifyCase layer_case(std::int64_t index) {
  constexpr std::int64_t kHeads[][2] = {{1, 1}, {2, 2}, {4, 4}, {4, 2}, {4, 1}};      // 5
  constexpr std::int64_t kWidths[] = {4, 20, 48, 64, 96, 128, 200};                   // 7
  constexpr std::int64_t kLengths[] = {1, 2, 3, 10, 33, 64, 70, 100, 130, 257, 300};  // 11
  mha_layer_config config{};
  config.embed_dim = pick(kWidths, index);
  config.num_heads = kHeads[index % 5][0];
  config.num_kv_heads = kHeads[index % 5][1];
  config.head_dim = config.embed_dim / config.num_heads;
  config.value_head_dim = index % 3 == 0 ? 9 : config.head_dim;
  config.kdim = index % 2 == 0 ? config.embed_dim : 30;
  config.vdim = index % 2 == 0 ? config.embed_dim : 17;
  config.out_dim = index % 4 == 0 ? 11 : config.embed_dim;
  const std::int64_t B = 1 + index % 3, H = config.num_heads, Hkv = config.num_kv_heads, E = config.embed_dim;
  const std::int64_t Tq = pick(kLengths, index), Tk = pick(kLengths, index + index / 11);
  const std::int64_t query_rows = H * config.head_dim, key_rows = Hkv * config.head_dim;
  const std::int64_t value_rows = Hkv * config.value_head_dim, columns = H * config.value_head_dim;
  const std::int64_t kind = pick(kMaskKinds, index);
  struct Data {
    std::vector<float> query, key, value, wq, wk, wv, wo, bias;
    MaskData masks;
  };
  const auto weight = [](std::int64_t rows, std::int64_t cols, std::uint32_t seed) {
    return scaled(random_values(rows * cols, seed), 1.7 / std::sqrt(static_cast<double>(cols)));
  };
  const auto data = std::make_shared<Data>(Data{
      random_values(B * Tq * E, 41), random_values(B * Tk * config.kdim, 42), random_values(B * Tk * config.vdim, 43),
      weight(query_rows, E, 44), weight(key_rows, config.kdim, 45), weight(value_rows, config.vdim, 46),
      weight(config.out_dim, columns, 47), random_values(1000, 48), MaskData(kind, B, H, Tq, Tk)});
  mha_layer_weights weights{};
  weights.query_weight = data->wq.data();
  weights.key_weight = data->wk.data();
  weights.value_weight = data->wv.data();
  weights.output_weight = data->wo.data();
  if (index % 2 == 0) weights.query_bias = weights.value_bias = weights.output_bias = data->bias.data();
  mha_forward_args args{};
  args.batch = B;
  args.query_len = Tq;
  args.key_len = Tk;
  args.query.data = data->query.data();
  args.key.data = data->key.data();
  args.value.data = data->value.data();
  args.masks = data->masks.masks;
  args.weights_mode = index % 3 == 0 ? MHA_WEIGHTS_AVERAGED : MHA_WEIGHTS_NONE;
  const bool wanted = args.weights_mode != MHA_WEIGHTS_NONE;
  const auto output_size = static_cast<std::size_t>(B * Tq * config.out_dim);
  const std::size_t total = output_size + static_cast<std::size_t>(wanted ? B * Tq * Tk : 0);
  VerifyCase result;
  result.name =
      "layer" + sizes_text({{"B", B}, {"H", H}, {"Hkv", Hkv}, {"Tq", Tq}, {"Tk", Tk}, {"E", E}, {"masks", kind}});
  result.bound = kLayerBound;
  result.reference = [=] {
    (void)data;
    std::vector<double> all(total);
    reference::forward<double>(config, weights, args, all.data(), wanted ? all.data() + output_size : nullptr);
    return all;
  };
  result.run = [=](const mha_context* context) {
    (void)data;
    mha_error error{};
    mha_layer* raw = nullptr;
    check(mha_layer_create(context, &config, &weights, &raw, &error), error);
    const Layer layer(raw);
    std::vector<float> all(total);
    mha_forward_args call = args;
    call.output.data = all.data();
    if (wanted) call.weights.data = all.data() + output_size;
    check(mha_layer_forward(context, layer.get(), &call, &error), error);
    return all;
  };
  return result;
}

}  // namespace

std::int64_t verify_case_count(bool quick) {
  return (kLinearCases + kAttentionCases + kLayerCases) / (quick ? kQuickDivisor : 1);
}

VerifyCase make_verify_case(std::int64_t index, bool quick) {
  const std::int64_t divisor = quick ? kQuickDivisor : 1;
  if (index < kLinearCases / divisor) return linear_case(index);
  index -= kLinearCases / divisor;
  if (index < kAttentionCases / divisor) return attention_case(index);
  return layer_case(index - kAttentionCases / divisor);
}

}  // namespace mha::cli
