// SPDX-License-Identifier: Apache-2.0
// What creating a linear and a layer share: weights on their way into a block of memory.
#pragma once

#include "core/api/weight_blob.h"
#include "core/base/fields.h"
#include "core/base/memory.h"
#include "core/call/layer.h"
#include "core/run/pack_weight.h"
#include "simd/dispatch.h"

namespace mha {

// Fills what follows from packing->source and the configuration.
inline mha_status prepare_packing(const KernelTable& table, const mha_storage* packed, const mha_arithmetic& arithmetic,
                                  const ProjectionSize& size, Packing* packing, mha_error* error) {
  Packing& p = *packing;
  MHA_TRY(resolve_packed(packed, arithmetic, p.source, size.in_features, &p.form, &p.rounding, error));
  p.arithmetic = static_cast<Arithmetic>(enum_value(arithmetic));
  p.table = &table, p.kernels = &linear_kernels_of(table, p.arithmetic, p.form.element);
  p.in_features = size.in_features, p.out_features = size.out_features;
  p.rounds = is_code(p.form.element) && (packed != nullptr || !is_code(p.source));
  return MHA_OK;
}

inline PackedParts parts_at(char* blob, const WeightOffsets& offsets) {
  return {blob + offsets.panels, blob + offsets.scales, blob + offsets.zeros};
}

}  // namespace mha
