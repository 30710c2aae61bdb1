// SPDX-License-Identifier: Apache-2.0
// Packed weights in saved blocks: how they are stored, and where their parts lie.
#pragma once

#include "core/base/layout.h"
#include "core/cache/blob.h"
#include "core/call/packed_weight.h"

namespace mha {

BlobStorage blob_storage(const WeightForm& form);

// The form of a header, checked; `name` is what the weight is called in messages.
mha_status read_form(const char* name, uint32_t arithmetic, const BlobStorage& storage, WeightForm* form,
                     mha_error* error);

struct WeightOffsets {
  int64_t panels, scales, zeros;
};
WeightOffsets append_weight(Arithmetic arithmetic, int64_t in_features, int64_t out_features, const WeightForm& form,
                            Layout* layout);
PackedWeight weight_at(const char* blob, const WeightOffsets& offsets, const WeightForm& form);

}  // namespace mha
