// SPDX-License-Identifier: Apache-2.0
// The score modifications of a call: checked, and as kernels take them.
#pragma once

#include "core/call/problem.h"

namespace mha {

// The field of the last modification given that changes scores, "score_mods.softcap" say; null: none does.
const char* changing_mod(const mha_score_mods& mods);

// Whether a modification given looks at the distance of query and key.
bool mods_look_at_positions(const mha_score_mods& mods);

// What kernels take of the call's scale and of its modifications; what they take of those for a row of head h.
float query_scale(const AttentionProblem& p);
ScoreMods kernel_mods(const AttentionProblem& p);
void fill_row_mods(const AttentionProblem& p, int64_t h, RowMods* row);

// A sink's logit as greatest scores are kept; 0 where the call has none.
float sink_score(float logit);
float sink_of(const AttentionProblem& p, int64_t h);

}  // namespace mha
