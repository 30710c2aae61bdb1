// SPDX-License-Identifier: Apache-2.0
// Attention weights and log-sum-exp, which the ops *_with_weights return beside the output.
#ifndef MHA_TORCH_OPS_RESULTS_H
#define MHA_TORCH_OPS_RESULTS_H

#include <mha/mha.h>

#include <cstring>

#include "tools/python/torch_ops/options.h"

namespace mha_torch {

// Reads kResultsSchema from the stack. fill() allocates the results; what is not asked for is an empty tensor.
class Results {
 public:
  explicit Results(Stack& stack)
      : mode_(stack.next_text()), rows_(stack.next<OptionalTensor>()), wants_log_sum_exp_(stack.next<bool>()) {}
  Results(const Results&) = delete;
  Results& operator=(const Results&) = delete;

  void fill(const Options& options, int64_t num_heads, int64_t query_tokens, int64_t key_columns);
  const mha_results* group() const { return &group_; }
  const Tensor& weights() const { return *weights_; }
  const Tensor& log_sum_exp() const { return *log_sum_exp_; }

 private:
  std::string mode_;
  OptionalTensor rows_;
  bool wants_log_sum_exp_;
  List rows_list_;
  OptionalTensor weights_, log_sum_exp_;
  mha_results group_ = {};
};

inline void Results::fill(const Options& options, int64_t num_heads, int64_t query_tokens, int64_t key_columns) {
  rows_list_.set(rows_, ScalarType::Long, -1, "weights_rows");
  const int64_t queries = rows_ ? rows_list_.count() : query_tokens;
  const int64_t batch = options.batch;
  const bool packed = options.packed_queries && !rows_;
  std::vector<int64_t> sizes;
  if (mode_.empty()) {
    sizes = {0};
    require(!rows_, "weights_rows needs weights");
  } else if (mode_ == "per_head") {
    group_.weights_mode = MHA_WEIGHTS_PER_HEAD;
    sizes = {batch, num_heads, queries, key_columns};
    if (packed) sizes = {num_heads, queries, key_columns};
  } else if (mode_ == "averaged") {
    group_.weights_mode = MHA_WEIGHTS_AVERAGED;
    sizes = {batch, queries, key_columns};
    if (packed) sizes = {queries, key_columns};
  } else if (mode_ == "key_sums") {
    group_.weights_mode = MHA_WEIGHTS_KEY_SUMS;
    sizes = {batch, num_heads, key_columns};
  } else {
    fail("weights \"" + mode_ + "\" is none of per_head, averaged, key_sums");
  }
  weights_ = make_dense(sizes, ScalarType::Float);
  if (!mode_.empty()) group_.weights.data = data_of(*weights_);
  // Sums over no query: mha writes nothing where there are none.
  if (queries == 0) std::memset(data_of(*weights_), 0, static_cast<size_t>(weights_->numel()) * sizeof(float));
  group_.weights_rows = rows_list_.data<int64_t>();
  group_.num_weights_rows = rows_list_.count();
  sizes = {0};
  if (wants_log_sum_exp_) {
    sizes = {batch, num_heads, query_tokens};
    if (options.packed_queries) sizes = {num_heads * query_tokens};
  }
  log_sum_exp_ = make_dense(sizes, ScalarType::Float);
  if (wants_log_sum_exp_) group_.log_sum_exp = static_cast<float*>(data_of(*log_sum_exp_));
}

// An op of the stable ABI. Call: reads its arguments from the stack, and runs.
template <class Call>
void run_op(StableIValue* stack) {
  Stack reader(stack);
  Call call(reader);
  stack[0] = torch::stable::detail::from(call.run(nullptr));
}

// The same with weights and log-sum-exp.
template <class Call>
void run_op_with_results(StableIValue* stack) {
  Stack reader(stack);
  Call call(reader);
  Results results(reader);
  const Tensor output = call.run(&results);
  stack[0] = torch::stable::detail::from(output);
  stack[1] = torch::stable::detail::from(results.weights());
  stack[2] = torch::stable::detail::from(results.log_sum_exp());
}

}  // namespace mha_torch

#endif  // MHA_TORCH_OPS_RESULTS_H
