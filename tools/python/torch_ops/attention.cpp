// SPDX-License-Identifier: Apache-2.0
// scaled_dot_product_attention and scaled_dot_product_attention_with_weights.
#include <algorithm>

#include "tools/python/torch_ops/ops.h"
#include "tools/python/torch_ops/options.h"
#include "tools/python/torch_ops/results.h"
#include "tools/python/torch_ops/runtime.h"

namespace mha_torch {
namespace {

constexpr const char* kCodesSchema =
    "str? key_format=None, Tensor? key_scales=None, Tensor? key_zeros=None, bool key_hadamard=False, "
    "str? value_format=None, Tensor? value_scales=None, Tensor? value_zeros=None, bool value_hadamard=False, "
    "SymInt scale_tokens=1, Tensor? page_table=None, ScalarType? out_dtype=None";

Codes next_codes(Stack& stack) {
  Codes codes;
  codes.format = stack.next_text();
  codes.scales = stack.next<OptionalTensor>();
  codes.zeros = stack.next<OptionalTensor>();
  codes.hadamard = stack.next<bool>();
  return codes;
}

// All arguments of a call, and the views and groups made from them.
class Call {
 public:
  explicit Call(Stack& stack)
      : query_(stack.next<Tensor>()),
        key_(stack.next<Tensor>()),
        value_(stack.next<Tensor>()),
        options_(stack),
        key_codes_(next_codes(stack)),
        value_codes_(next_codes(stack)) {
    key_codes_.scale_tokens = stack.next<int64_t>();
    value_codes_.scale_tokens = key_codes_.scale_tokens;
    page_table_ = stack.next<OptionalTensor>();
    out_dtype_ = stack.next<std::optional<ScalarType>>();
  }

  Tensor run(Results* results);

 private:
  void set_rows();
  void set_pages(Extent& extent);
  Tensor make_output() const;

  Tensor query_, key_, value_;
  Options options_;
  Codes key_codes_, value_codes_;
  OptionalTensor page_table_;
  std::optional<ScalarType> out_dtype_;

  Rows query_rows_, key_rows_, value_rows_;
  List table_list_;
  mha_pages pages_ = {};
};

void Call::set_rows() {
  query_rows_.set(query_, Codes(), 0, "query");
  key_rows_.set(key_, key_codes_, query_rows_.width, "key");
  value_rows_.set(value_, value_codes_, 0, "value");
  require(key_codes_.scale_tokens == 1 || key_rows_.view.quant != nullptr || value_rows_.view.quant != nullptr,
          "scale_tokens needs key_scales or value_scales");
  require(key_rows_.width == query_rows_.width, "query and key must have the same head dimension");
  require(key_rows_.heads == value_rows_.heads, "key and value must have the same number of heads");
  require(key_rows_.tokens == value_rows_.tokens, "key and value must have the same number of tokens");
  require(key_rows_.heads > 0 && query_rows_.heads % key_rows_.heads == 0,
          "the number of query heads must be a multiple of the number of key heads");
}

void Call::set_pages(Extent& extent) {
  require(page_table_->dim() == 2, "page_table must have the shape [batch, pages of an item]");
  require(key_rows_.batch == value_rows_.batch, "key and value must have the same number of pages");
  table_list_.set(page_table_, ScalarType::Int, -1, "page_table");
  pages_.table = table_list_.data<int32_t>();
  pages_.stride = page_table_->size(1);
  pages_.page_size = key_rows_.tokens;
  pages_.num_pages = key_rows_.batch;
  extent.keys_in_pages = true;
  extent.key_rows = pages_.stride * pages_.page_size;
}

// As torch's own attention does, the result is [B, T, H, D] in memory, so that joining the heads costs no copy.
Tensor Call::make_output() const {
  const int64_t heads = query_rows_.heads, tokens = query_rows_.tokens, width = value_rows_.width;
  const ScalarType dtype = out_dtype_ ? *out_dtype_ : query_.scalar_type();
  const int64_t step_tokens = std::max<int64_t>(heads, 1) * width;  // as torch counts strides: empty dimensions as 1
  return make_tensor({query_rows_.batch, heads, tokens, width},
                     {std::max<int64_t>(tokens, 1) * step_tokens, width, step_tokens, 1}, dtype);
}

Tensor Call::run(Results* results) {
  refuse_gradient(query_, key_, value_);
  refuse_gradient({&key_codes_.scales, &key_codes_.zeros, &value_codes_.scales, &value_codes_.zeros});
  set_rows();
  Extent extent;
  extent.num_heads = query_rows_.heads;
  extent.query_tokens = query_rows_.tokens;
  extent.query_batch = query_rows_.batch;
  extent.key_tokens = extent.key_rows = key_rows_.tokens;
  extent.key_batch = key_rows_.batch;
  extent.head_dim = query_rows_.width;
  if (page_table_) set_pages(extent);
  options_.fill(extent);

  mha_attention_args args = {};
  options_.apply(args);
  options_.apply_scale(args);
  if (page_table_) {
    require(page_table_->size(0) == args.batch, "page_table must have a row for each item of the batch");
    args.pages = &pages_;
  } else {
    for (Rows* rows : {&key_rows_, &value_rows_}) {
      if (rows->batch == 1 && args.batch != 1) rows->view.stride_b = MHA_BROADCAST;
      require(rows->batch == 1 || rows->batch == args.batch, "query, key and value must have the same batch size");
    }
  }
  args.num_heads = query_rows_.heads;
  args.num_kv_heads = key_rows_.heads;
  args.query_len = query_rows_.tokens;
  args.key_len = extent.key_rows;
  args.head_dim = query_rows_.width;
  args.value_head_dim = value_rows_.width;
  require(args.value_head_dim > 0, "value must have a head dimension of at least 1");
  args.query = query_rows_.view;
  args.key = key_rows_.view;
  args.value = value_rows_.view;

  Tensor output = make_output();
  args.output.data = data_of(output);
  args.output.dtype = float_dtype(output, "out_dtype");
  if (results != nullptr) {
    results->fill(options_, args.num_heads, args.query_len, options_.longest_keys);
    args.results = results->group();
  }
  mha_error error = {};
  check(mha_attention(current_context(), &args, &error), error);
  check_threads();
  return output;
}

}  // namespace

std::string attention_schema() {
  return std::string("scaled_dot_product_attention(Tensor query, Tensor key, Tensor value, ") + kOptionsSchema + ", " +
         kCodesSchema + ") -> Tensor";
}

std::string attention_with_weights_schema() {
  return std::string("scaled_dot_product_attention_with_weights(Tensor query, Tensor key, Tensor value, ") +
         kOptionsSchema + ", " + kCodesSchema + ", " + kResultsSchema + ") -> (Tensor, Tensor, Tensor)";
}

void attention_op(StableIValue* stack, uint64_t /*num_args*/, uint64_t /*num_outputs*/) { run_op<Call>(stack); }

void attention_with_weights_op(StableIValue* stack, uint64_t /*num_args*/, uint64_t /*num_outputs*/) {
  run_op_with_results<Call>(stack);
}

}  // namespace mha_torch
