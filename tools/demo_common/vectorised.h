// SPDX-License-Identifier: Apache-2.0
// Plain loops that the compiler turns into vector code: what elementwise.cpp of the demos has in common.
#ifndef MHA_TOOLS_DEMO_COMMON_VECTORISED_H
#define MHA_TOOLS_DEMO_COMMON_VECTORISED_H

#include <cstdint>

// The same source for three instruction sets, chosen when the program is loaded. None contracts a multiplication and an
// addition (-ffp-contract=off), so all three give the same bits.
#if defined(__x86_64__) && defined(__linux__)
#define MHA_DEMO_VECTORISED __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define MHA_DEMO_VECTORISED
#endif

namespace mha::demo {

// Sums run over so many lanes and a fixed tree, whatever the vector width.
constexpr int64_t kLanes = 16;

// Elements from which waking a second thread pays: some 10 us of work.
constexpr int64_t kWorthThreads = 1 << 16;

}  // namespace mha::demo

#endif  // MHA_TOOLS_DEMO_COMMON_VECTORISED_H
