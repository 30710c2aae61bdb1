// SPDX-License-Identifier: Apache-2.0
// The kernel tables behind the public names of targets.
#ifndef MHA_TESTS_NUMERICS_TABLES_H
#define MHA_TESTS_NUMERICS_TABLES_H

#include <stdexcept>
#include <string>

#include "core/kernels/kernel_table.h"
#include "simd/dispatch.h"

namespace mha::test {

inline const KernelTable& table_of(const std::string& target) {
  for (int64_t n = 0; n < target_count(); ++n)
    if (target == target_table(n)->name) return *target_table(n);
  throw std::runtime_error("no target " + target);
}

inline const RowKernels& row_kernels_of(const std::string& target) { return table_of(target).rows(); }

}  // namespace mha::test

#endif  // MHA_TESTS_NUMERICS_TABLES_H
