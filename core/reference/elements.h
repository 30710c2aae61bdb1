// SPDX-License-Identifier: Apache-2.0
// Elements of every type as numbers, one at a time by their formats' definitions.
#ifndef MHA_CORE_REFERENCE_ELEMENTS_H
#define MHA_CORE_REFERENCE_ELEMENTS_H

#include <cstdint>

#include "core/mha.h"

namespace mha::reference {

/// Element `index` of an array, exactly.
float element_at(mha_dtype dtype, const void* data, int64_t index);

/// Whether the type is one of codes, which have scales.
bool is_code(mha_dtype dtype);

/// Elements from one row of codes to the next that is dense after it: rows begin at a byte.
int64_t dense_code_row(mha_dtype dtype, int64_t width);

/// Element d of the row of codes (b, t, h), which begins `offset` elements into the view: scale * (code - zero), both
/// operations in float, as mha_quant says.
float code_value(const mha_view& view, int64_t offset, int64_t b, int64_t t, int64_t h, int64_t d);

}  // namespace mha::reference

#endif  // MHA_CORE_REFERENCE_ELEMENTS_H
