// SPDX-License-Identifier: Apache-2.0
// The arguments of rotary positions.
#pragma once

#include "core/math/rope.h"

namespace mha {

// An mha_rope with defaults filled in; dims 0: no rotation. `name` is what messages call it.
mha_status validate_rope(const mha_rope* rope, int64_t head_dim, mha_rope* resolved, mha_error* error);

// position in [0, kMaxPosition], and within the caller's table if there is one. `name` with the index in it is what the
// caller wrote: "positions[3]"; index -1: `name` alone.
mha_status check_position(const mha_rope& rope, const char* name, int64_t index, int64_t position, mha_error* error);

// Positions of tokens that are given, or count on from `first`, which is called `name`.
mha_status check_given_positions(const mha_rope& rope, const char* name, const int64_t* positions, int64_t count,
                                 mha_error* error);
mha_status check_counted_positions(const mha_rope& rope, const char* name, int64_t first, int64_t count,
                                   mha_error* error);

}  // namespace mha
