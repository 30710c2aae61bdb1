// SPDX-License-Identifier: Apache-2.0
// The ops as boxed functions of torch's stable ABI, and their schemas.
#ifndef MHA_TORCH_OPS_OPS_H
#define MHA_TORCH_OPS_OPS_H

#include <mha/mha.h>

#include <string>

#include "stack.h"

namespace mha_torch {

std::string attention_schema();
std::string attention_with_weights_schema();
void attention_op(StableIValue* stack, uint64_t num_args, uint64_t num_outputs);
void attention_with_weights_op(StableIValue* stack, uint64_t num_args, uint64_t num_outputs);

std::string linear_pack_schema();
std::string linear_schema();
void linear_pack_op(StableIValue* stack, uint64_t num_args, uint64_t num_outputs);
void linear_op(StableIValue* stack, uint64_t num_args, uint64_t num_outputs);

std::string layer_pack_schema();
std::string layer_schema();
std::string layer_with_weights_schema();
void layer_pack_op(StableIValue* stack, uint64_t num_args, uint64_t num_outputs);
void layer_op(StableIValue* stack, uint64_t num_args, uint64_t num_outputs);
void layer_with_weights_op(StableIValue* stack, uint64_t num_args, uint64_t num_outputs);

// Arguments of the ops that also return attention weights and log-sum-exp, after all others.
inline constexpr const char* kResultsSchema = "str? weights=None, Tensor? weights_rows=None, bool log_sum_exp=False";

}  // namespace mha_torch

#endif  // MHA_TORCH_OPS_OPS_H
