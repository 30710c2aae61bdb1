// SPDX-License-Identifier: Apache-2.0
// Norm and rotation of one row, for the loops of reference.cpp.
#ifndef MHA_CORE_REFERENCE_ROPE_H
#define MHA_CORE_REFERENCE_ROPE_H

#include <cstdint>

#include "core/mha.h"

namespace mha::reference {

/// x [D] in place: RMS norm unless it is nullptr, then rotation to `position` unless rope is.
template <class T>
void norm_rope_row(const mha_rope* rope, const mha_norm* norm, int64_t position, int64_t head_dim, T* x);

}  // namespace mha::reference

#endif  // MHA_CORE_REFERENCE_ROPE_H
