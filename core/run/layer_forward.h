// SPDX-License-Identifier: Apache-2.0
// The layer's forward as one run of phases: query, key and value projections side by side, keys and values appended to
// a cache if there is one, attention, output projection.
#pragma once

#include "core/cache/cache.h"
#include "core/plan/forward.h"

namespace mha {

// The sequences of the cache that grow.
CacheBatch growth_of(const Forward& f);

// `f` is planned; workspace[f.plan.bytes] is aligned to 64.
mha_status run_forward(const mha_context& context, Forward& f, char* workspace, mha_error* error);

}  // namespace mha
