// SPDX-License-Identifier: Apache-2.0
// What one query row sees of the masks: from the call's arguments to the row that kernels take.
#pragma once

#include "core/call/problem.h"
#include "core/kernels/kernel_table.h"

namespace mha {

// The row of query i of head h of item b: query, masks and the keys in sight; output and scores are left null. `extras`
// is filled where the problem has any, else null.
AttentionRow make_row(const AttentionProblem& p, int64_t b, int64_t h, int64_t i, RowExtras* extras);

// Whether rows of one head differ only in their place and in the last key they see: no masks but causality and lengths.
// Then a row is made from the first row of its head, which is quicker than from the call.
bool rows_are_alike(const AttentionProblem& p);

// Keys [begin, end).
struct KeyRange {
  int64_t begin, end;
};

// From the first to the last key that the row may see; none: {INT64_MAX, 0}.
KeyRange seen_keys(const AttentionRow& row);

inline KeyRange join(const KeyRange& a, const KeyRange& b) {
  return {a.begin < b.begin ? a.begin : b.begin, a.end > b.end ? a.end : b.end};
}

}  // namespace mha
