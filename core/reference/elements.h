// SPDX-License-Identifier: Apache-2.0
// Elements of every type as numbers, one at a time by their formats' definitions.
#ifndef MHA_CORE_REFERENCE_ELEMENTS_H
#define MHA_CORE_REFERENCE_ELEMENTS_H

#include <cstdint>

#include "core/mha.h"

namespace mha::reference {

/// Element `index` of an array, exactly.
float element_at(mha_dtype dtype, const void* data, int64_t index);

}  // namespace mha::reference

#endif  // MHA_CORE_REFERENCE_ELEMENTS_H
