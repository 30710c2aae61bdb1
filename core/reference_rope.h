// SPDX-License-Identifier: Apache-2.0
// Norm and rotation of one row, for the loops of reference.cpp.
#ifndef MHA_CORE_REFERENCE_ROPE_H
#define MHA_CORE_REFERENCE_ROPE_H

#include <cstdint>

#include "core/mha.h"

namespace mha::reference {

/// x [D] in place: RMS norm where epsilon > 0, by `weight` [D] or nullptr, then rotation to `position` unless rope is
/// nullptr.
template <class T>
void prepare_row(const mha_rope* rope, float epsilon, const float* weight, int64_t position, int64_t head_dim, T* x);

}  // namespace mha::reference

#endif  // MHA_CORE_REFERENCE_ROPE_H
