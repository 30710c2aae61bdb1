// SPDX-License-Identifier: Apache-2.0
// Rotary positions and RMS norm: their arguments checked, frequencies, and the cosines and sines of a position.
#pragma once

#include "core/validate.h"

namespace mha {

constexpr int64_t kMaxRopeDims = 1024;                    // so that one row's angles fit on the stack
constexpr int64_t kMaxPosition = (int64_t{1} << 31) - 1;  // up to which sin_cos is accurate

// An mha_rope with defaults filled in; dims 0: no rotation. `name` is what messages call it.
mha_status validate_rope(const mha_rope* rope, int64_t head_dim, mha_rope* resolved, mha_error* error);

// position in [0, kMaxPosition], and within the caller's table if there is one. `name` with the index in it is what the
// caller wrote: "positions[3]"; index -1: `name` alone.
mha_status check_position(const mha_rope& rope, const char* name, int64_t index, int64_t position, mha_error* error);

// The angle of pair d at position 1, d < dims / 2. Not used with the caller's table.
void rope_frequencies(const mha_rope& rope, double* frequencies);

// Floats of one position's row.
inline int64_t rope_row_floats(const mha_rope& rope) {
  return rope.style == MHA_ROPE_INTERLEAVED ? 2 * rope.dims : rope.dims;
}

// Cosines, then sines of a position, as KernelTable::prepare_rows takes them: dims / 2 of each, or where pairs are
// interleaved dims of each: both elements' cosine, and the sine as it multiplies the other element (-sin, sin).
void rope_row(const mha_rope& rope, const double* frequencies, int64_t position, float* row);

}  // namespace mha
