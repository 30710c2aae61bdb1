// SPDX-License-Identifier: Apache-2.0
// The targets built into the library. A context chooses one when it is made and passes its table down.
#pragma once

#include <cstdint>

#include "core/kernels/kernel_table.h"
#include "simd/cpu.h"

namespace mha {

int64_t target_count();
const KernelTable* target_table(int64_t index);  // best first; index in [0, target_count())
bool target_supported(int64_t index, const CpuFeatures& cpu);
bool target_chosen(int64_t index, const CpuFeatures& cpu);  // where none is asked for, the first of these

// The projections' kernels of the same target or its base (dispatch_linear.cpp). The table must be one of the targets';
// the pair must be defined.
const LinearKernels& linear_kernels_of(const KernelTable& table, Arithmetic arithmetic, Element panels);

}  // namespace mha
