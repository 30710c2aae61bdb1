// SPDX-License-Identifier: Apache-2.0
// The natural log-sum-exp of a row from its softmax state.
#pragma once

#include "core/kernels/kernel_table.h"

namespace mha {

// ln(sum over visible keys of exp(score)); -inf for a row without visible keys. Same bits on every machine.
float log_sum_exp(const RowState& state);

}  // namespace mha
