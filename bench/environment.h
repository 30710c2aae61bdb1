// SPDX-License-Identifier: Apache-2.0
// What a result must carry along to mean anything: revision, compiler, flags, CPU, caches, settings.
#ifndef MHA_BENCH_ENVIRONMENT_H
#define MHA_BENCH_ENVIRONMENT_H

#include <string>

namespace mha::bench {

/// Adds it all to the context that Google Benchmark prints and writes; `target` and `threads` are those of the cases
/// whose names say nothing else.
void describe_environment(const std::string& target, int threads);

}  // namespace mha::bench

#endif  // MHA_BENCH_ENVIRONMENT_H
