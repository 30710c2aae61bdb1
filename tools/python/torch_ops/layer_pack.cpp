// SPDX-License-Identifier: Apache-2.0
// layer_pack: the weights of a layer as one uint8 tensor.
#include "tools/python/torch_ops/ops.h"
#include "tools/python/torch_ops/packed.h"
#include "tools/python/torch_ops/runtime.h"

namespace mha_torch {
namespace {

constexpr const char* kWeightsSchema =
    "Tensor? in_proj_weight, Tensor? query_weight, Tensor? key_weight, Tensor? value_weight, Tensor output_weight, "
    "Tensor? in_proj_bias=None, Tensor? query_bias=None, Tensor? key_bias=None, Tensor? value_bias=None, "
    "Tensor? output_bias=None, Tensor? bias_key=None, Tensor? bias_value=None";
constexpr const char* kConfigSchema =
    "SymInt embed_dim, SymInt num_heads, SymInt num_kv_heads=0, SymInt head_dim=0, SymInt value_head_dim=0, "
    "SymInt kdim=0, SymInt vdim=0, SymInt out_dim=0, float? scale=None, bool add_zero_attn=False";

mha_layer_config next_config(Stack& stack) {
  mha_layer_config config = {};
  config.embed_dim = stack.next<int64_t>();
  config.num_heads = stack.next<int64_t>();
  config.num_kv_heads = stack.next<int64_t>();
  config.head_dim = stack.next<int64_t>();
  config.value_head_dim = stack.next<int64_t>();
  config.kdim = stack.next<int64_t>();
  config.vdim = stack.next<int64_t>();
  config.out_dim = stack.next<int64_t>();
  const auto scale = stack.next<std::optional<double>>();
  config.scale = static_cast<float>(scale.value_or(0));
  config.scale_is_exact = scale ? 1 : 0;
  config.add_zero_attn = stack.next<bool>() ? 1 : 0;
  return config;
}

mha_view weight_view(const OptionalTensor& weight, int64_t rows, int64_t columns, const char* name) {
  mha_view view = {};
  if (!weight) return view;
  if (weight->dim() != 2 || weight->size(0) != rows || weight->size(1) != columns) {
    fail(std::string(name) + " must have the shape [" + std::to_string(rows) + ", " + std::to_string(columns) + "]");
  }
  if (columns > 1 && weight->stride(1) != 1) fail(std::string(name) + " must be contiguous: call .contiguous() on it");
  view.data = data_of(*weight);
  view.dtype = float_dtype(*weight, name);
  view.stride_t = stride_of(*weight, 0, columns);
  return view;
}

class Weights {
 public:
  explicit Weights(Stack& stack) {
    for (OptionalTensor* tensor : {&in_proj_, &query_, &key_, &value_}) *tensor = stack.next<OptionalTensor>();
    output_ = stack.next<Tensor>();
    for (OptionalTensor& tensor : biases_) tensor = stack.next<OptionalTensor>();
  }
  mha_layer_weights make(const mha_layer_config& config);

 private:
  static constexpr int kNumBiases = 7;
  OptionalTensor in_proj_, query_, key_, value_, output_;
  OptionalTensor biases_[kNumBiases];
  List lists_[kNumBiases];
};

mha_layer_weights Weights::make(const mha_layer_config& given) {
  require(given.embed_dim >= 1 && given.num_heads >= 1, "embed_dim and num_heads must be at least 1");
  const auto or_default = [](int64_t value, int64_t fallback) { return value != 0 ? value : fallback; };
  const int64_t width = given.embed_dim;
  const int64_t head_dim = or_default(given.head_dim, width / given.num_heads);
  const int64_t value_dim = or_default(given.value_head_dim, head_dim);
  const int64_t kv_heads = or_default(given.num_kv_heads, given.num_heads);
  const int64_t q = given.num_heads * head_dim, k = kv_heads * head_dim, v = kv_heads * value_dim;
  const int64_t out = or_default(given.out_dim, width);
  mha_layer_weights weights = {};
  weights.in_proj_weight = weight_view(in_proj_, q + k + v, width, "in_proj_weight");
  weights.query_weight = weight_view(query_, q, width, "query_weight");
  weights.key_weight = weight_view(key_, k, or_default(given.kdim, width), "key_weight");
  weights.value_weight = weight_view(value_, v, or_default(given.vdim, width), "value_weight");
  weights.output_weight = weight_view(output_, out, given.num_heads * value_dim, "output_weight");
  const struct {
    const float** target;
    int64_t count;
    const char* name;
  } biases[kNumBiases] = {{&weights.in_proj_bias, q + k + v, "in_proj_bias"},
                          {&weights.query_bias, q, "query_bias"},
                          {&weights.key_bias, k, "key_bias"},
                          {&weights.value_bias, v, "value_bias"},
                          {&weights.output_bias, out, "output_bias"},
                          {&weights.bias_key, k, "bias_key"},
                          {&weights.bias_value, v, "bias_value"}};
  for (int i = 0; i < kNumBiases; ++i) {
    lists_[i].set(biases_[i], ScalarType::Float, biases[i].count, biases[i].name);
    *biases[i].target = lists_[i].data<float>();
  }
  return weights;
}

}  // namespace

std::string layer_pack_schema() {
  return std::string("layer_pack(") + kWeightsSchema + ", *, " + kConfigSchema + ", " + kStorageSchema + ") -> Tensor";
}

void layer_pack_op(StableIValue* stack, uint64_t /*num_args*/, uint64_t /*num_outputs*/) {
  Stack reader(stack);
  Weights tensors(reader);
  mha_layer_config config = next_config(reader);
  Storage storage(reader);
  const mha_layer_weights weights = tensors.make(config);
  config.arithmetic = storage.arithmetic();
  config.packed = storage.make();
  mha_layer* layer = nullptr;
  mha_error error = {};
  check(mha_layer_create(current_context(), &config, &weights, &layer, &error), error);
  const LayerHandle handle(layer);
  stack[0] = torch::stable::detail::from(saved(layer, mha_layer_save_bytes, mha_layer_save));
}

}  // namespace mha_torch
