// SPDX-License-Identifier: Apache-2.0
// What one query row sees of the masks: from the call's arguments to the row that kernels take.
#pragma once

#include "core/kernels/kernel_table.h"
#include "core/problem.h"

namespace mha {

// The row of query i of head h of item b: query, masks and the keys in sight; output and scores are left null.
AttentionRow make_row(const AttentionProblem& p, int64_t b, int64_t h, int64_t i);

}  // namespace mha
