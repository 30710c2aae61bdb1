// SPDX-License-Identifier: Apache-2.0
// layer and layer_with_weights: projections, attention and output projection over a packed layer.
#include <algorithm>

#include "tools/python/torch_ops/ops.h"
#include "tools/python/torch_ops/options.h"
#include "tools/python/torch_ops/packed.h"
#include "tools/python/torch_ops/results.h"
#include "tools/python/torch_ops/runtime.h"

namespace mha_torch {
namespace {

constexpr const char* kTensorsSchema =
    "Tensor query, Tensor? key, Tensor? value, Tensor packed, SymInt out_dim, SymInt num_heads, ";
constexpr const char* kKeysSchema =
    ", Tensor? key_norm=None, Tensor? key_positions=None, SymInt added_keys=0, bool tokens_first=False, "
    "ScalarType? out_dtype=None";

mha_view token_view(const Tensor& tensor, int64_t width, const char* name) {
  if (tensor.dim() != 3 || tensor.size(2) != width) {
    fail(std::string(name) + " must have the shape [batch, tokens, " + std::to_string(width) + "]");
  }
  if (!tensor.is_cpu()) fail(std::string(name) + " must be on the CPU");
  if (width > 1 && tensor.stride(2) != 1) {
    fail(std::string(name) + "'s last dimension must have stride 1: call .contiguous() on it first");
  }
  mha_view view = {};
  view.data = data_of(tensor);
  view.dtype = float_dtype(tensor, name);
  view.stride_b = stride_of(tensor, 0, width);
  view.stride_t = stride_of(tensor, 1, width);
  return view;
}

class Call {
 public:
  explicit Call(Stack& stack)
      : query_(stack.next<Tensor>()),
        key_(stack.next<OptionalTensor>()),
        value_(stack.next<OptionalTensor>()),
        packed_(stack.next<Tensor>()),
        out_dim_(stack.next<int64_t>()),
        num_heads_(stack.next<int64_t>()),
        options_(stack),
        key_norm_(stack.next<OptionalTensor>()),
        key_positions_(stack.next<OptionalTensor>()),
        added_keys_(stack.next<int64_t>()),
        tokens_first_(stack.next<bool>()),
        out_dtype_(stack.next<std::optional<ScalarType>>()) {}

  Tensor run(Results* results);

 private:
  Tensor make_output() const;
  Extent extent_of(const mha_layer_config& config) const;
  void set_keys(const mha_layer_config& config, mha_layer_args& args);
  void set_key_groups(const mha_layer_config& config, mha_layer_args& args);

  Tensor query_;
  OptionalTensor key_, value_;
  Tensor packed_;
  int64_t out_dim_, num_heads_;
  Options options_;
  OptionalTensor key_norm_, key_positions_;
  int64_t added_keys_;
  bool tokens_first_;
  std::optional<ScalarType> out_dtype_;

  List key_norm_list_, key_positions_list_;
  mha_norm norm_ = {};
  mha_positions positions_ = {};
};

Extent Call::extent_of(const mha_layer_config& config) const {
  const Tensor& keys = key_ ? *key_ : query_;
  Extent extent;
  extent.num_heads = config.num_heads;
  extent.query_batch = query_.size(0);
  extent.query_tokens = query_.size(1);
  extent.key_batch = keys.size(0);
  extent.key_tokens = extent.key_rows = keys.size(1);
  extent.head_dim = config.head_dim;
  extent.has_own_keys = key_.has_value();
  return extent;
}

void Call::set_keys(const mha_layer_config& config, mha_layer_args& args) {
  args.query = token_view(query_, config.embed_dim, "query");
  require(key_ || !value_, "value needs key");
  if (!key_) return;
  args.key_len = key_->size(1);
  args.key = token_view(*key_, config.kdim, "key");
  require(key_->size(0) == 1 || key_->size(0) == args.batch, "query and key must have the same batch size");
  if (key_->size(0) == 1 && args.batch != 1) args.key.stride_b = MHA_BROADCAST;
  if (!value_) return;
  args.value = token_view(*value_, config.vdim, "value");
  require(value_->size(1) == key_->size(1), "key and value must have the same number of tokens");
  require(value_->size(0) == 1 || value_->size(0) == args.batch, "query and value must have the same batch size");
  if (value_->size(0) == 1 && args.batch != 1) args.value.stride_b = MHA_BROADCAST;
}

void Call::set_key_groups(const mha_layer_config& config, mha_layer_args& args) {
  if (key_norm_) {
    require(args.query_norm != nullptr, "key_norm needs query_norm, whose norm_epsilon it has");
    key_norm_list_.set(key_norm_, ScalarType::Float, config.head_dim, "key_norm");
    norm_ = *args.query_norm;
    norm_.weight = key_norm_list_.data<float>();
    args.key_norm = &norm_;
  }
  if (key_positions_) {
    require(key_.has_value(), "key_positions needs key");
    const bool packed_keys = args.items != nullptr && args.items->key_offsets != nullptr;
    key_positions_list_.set(key_positions_, ScalarType::Long, key_->size(1) * (packed_keys ? 1 : args.batch),
                            "key_positions");
    positions_ = *args.positions;
    positions_.key = key_positions_list_.data<int64_t>();
    args.positions = &positions_;
  }
}

// [B, T, out_dim]; with tokens_first it is [T, B, out_dim] in memory.
Tensor Call::make_output() const {
  const int64_t batch = query_.size(0), tokens = query_.size(1);
  const ScalarType dtype = out_dtype_ ? *out_dtype_ : query_.scalar_type();
  if (!tokens_first_) return make_dense({batch, tokens, out_dim_}, dtype);
  return make_tensor({batch, tokens, out_dim_}, {out_dim_, std::max<int64_t>(batch, 1) * out_dim_, 1}, dtype);
}

Tensor Call::run(Results* results) {
  refuse_gradient(query_, key_ ? *key_ : query_, value_ ? *value_ : query_);
  refuse_gradient({&key_norm_});
  const LayerHandle layer = map_layer(packed_);
  mha_layer_config config = {};
  mha_layer_get_config(layer.get(), &config);
  require(out_dim_ == config.out_dim && num_heads_ == config.num_heads,
          "packed is a layer of another out_dim or num_heads");
  require(query_.dim() == 3 && (!key_ || key_->dim() == 3), "query and key must have 3 dimensions");
  options_.fill(extent_of(config));
  require(!options_.has_scale(), "the scale of a layer is packed with it: give it to layer_pack");
  mha_layer_args args = {};
  options_.apply(args);
  args.query_len = query_.size(1);
  set_keys(config, args);
  set_key_groups(config, args);
  const Tensor output = make_output();
  args.output.data = data_of(output);
  args.output.dtype = float_dtype(output, "out_dtype");
  args.output.stride_b = output.stride(0);
  args.output.stride_t = output.stride(1);
  if (results != nullptr) {
    require(added_keys_ == mha_layer_added_keys(layer.get()), "packed is a layer of other added_keys");
    results->fill(options_, num_heads_, query_.size(1), options_.longest_keys + added_keys_);
    args.results = results->group();
  }
  mha_error error = {};
  check(mha_layer_forward(current_context(), layer.get(), &args, &error), error);
  check_threads();
  return output;
}

}  // namespace

std::string layer_schema() {
  return std::string("layer(") + kTensorsSchema + kOptionsSchema + kKeysSchema + ") -> Tensor";
}

std::string layer_with_weights_schema() {
  return std::string("layer_with_weights(") + kTensorsSchema + kOptionsSchema + kKeysSchema + ", " + kResultsSchema +
         ") -> (Tensor, Tensor, Tensor)";
}

void layer_op(StableIValue* stack, uint64_t /*num_args*/, uint64_t /*num_outputs*/) { run_op<Call>(stack); }

void layer_with_weights_op(StableIValue* stack, uint64_t /*num_args*/, uint64_t /*num_outputs*/) {
  run_op_with_results<Call>(stack);
}

}  // namespace mha_torch
