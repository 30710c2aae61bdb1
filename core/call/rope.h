// SPDX-License-Identifier: Apache-2.0
// The arguments of rotary positions.
#pragma once

#include "core/math/rope.h"

namespace mha {

// *resolved is *rope with defaults filled in; dims 0: no rotation.
mha_status validate_rope(const mha_rope* rope, int64_t head_dim, mha_rope* resolved, mha_error* error);

// position must be in [0, kMaxPosition], and within the caller's table if there is one. Messages call it name[index]:
// "positions[3]"; index -1: `name` alone.
mha_status check_position(const mha_rope& rope, const char* name, int64_t index, int64_t position, mha_error* error);

// Positions of tokens: given one by one, or counted from `first` on. Messages call them, or `first`, `name`.
mha_status check_given_positions(const mha_rope& rope, const char* name, const int64_t* positions, int64_t count,
                                 mha_error* error);
mha_status check_counted_positions(const mha_rope& rope, const char* name, int64_t first, int64_t count,
                                   mha_error* error);

}  // namespace mha
