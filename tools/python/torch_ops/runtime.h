// SPDX-License-Identifier: Apache-2.0
// Contexts that run on torch's threads, and errors of mha as exceptions.
#ifndef MHA_TORCH_OPS_RUNTIME_H
#define MHA_TORCH_OPS_RUNTIME_H

#include <mha/mha.h>

#include <initializer_list>

#include "stack.h"

namespace mha_torch {

// The context for as many threads as torch has now (torch.set_num_threads). There is one for each number of threads in a
// process. It is made at the first call and lives as long as the process.
const mha_context* current_context();

// Throws if `status` is an error.
void check(mha_status status, const mha_error& error);

// Throws if the last call on this thread could not use torch's threads. Call it after each call of mha.
void check_threads();

// Throws if grad mode is on and one of the tensors requires a gradient, which mha cannot compute.
void refuse_gradient(std::initializer_list<const OptionalTensor*> tensors);
void refuse_gradient(const Tensor& first, const Tensor& second, const Tensor& third);

}  // namespace mha_torch

#endif  // MHA_TORCH_OPS_RUNTIME_H
