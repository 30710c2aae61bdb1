#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# clang-tidy (.clang-tidy) over every compiled source, our headers included.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# clang's own command lines: it knows none of gcc's options.
make_build tidy -DMHA_BUILD_BENCH=ON -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_CXX_COMPILER_LAUNCHER=
build_targets tidy mha_bench_revision  # bench/ includes a header that it makes
cd "$root"
run-clang-tidy -quiet -p "$out/tidy" -j "$jobs" "^$root/(core|simd|tests|bench|tools)/.*\\.cpp\$"
echo "clang-tidy has nothing to say"
