#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# clang-tidy (.clang-tidy) over the compiled sources, our headers included: the library, what the last 8 commits changed,
# and a quarter of tests, bench and tools, another quarter with every commit.
#   TIDY_PARTS=1 tools/check/tidy.sh      all of them
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parts=${TIDY_PARTS:-4}
# clang's own command lines: it knows none of gcc's options.
make_build tidy -DMHA_BUILD_BENCH=ON -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_CXX_COMPILER_LAUNCHER=
build_targets tidy mha_bench_revision  # bench/ includes a header that it makes
cd "$root"
# What this build compiles: not the fuzz targets, the adapters of engines, the ops of torch, and what is for other CPUs.
compiled=$out/tidy/compiled.txt
sed -n "s|^ *\"file\": \"$root/\(.*\)\",\{0,1\}\$|\1|p" "$out/tidy/compile_commands.json" | sort -u >"$compiled"
mapfile -t chosen < <({
  sources | grep -E '^(core|simd)/.*\.cpp$'
  sources | grep -E '^(tests|bench|tools)/.*\.cpp$' | part_of "$parts" "$(part_of_commit "$parts")"
  git diff --name-only --relative HEAD~8 -- '*.cpp' 2>/dev/null || true
} | sort -u | comm -12 - "$compiled")
[ ${#chosen[@]} -gt 100 ] || fail "only ${#chosen[@]} files to look at"
run-clang-tidy -quiet -p "$out/tidy" -j "$jobs" "${chosen[@]/#/^$root/}"
echo "clang-tidy has nothing to say of ${#chosen[@]} files"
