#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A short libFuzzer run of every target in tools/fuzz, with the address and undefined-behaviour sanitizers.
#   FUZZ_SECONDS=600 tools/check/fuzz.sh      for a longer one
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
seconds=${FUZZ_SECONDS:-25}
make_build fuzz -DCMAKE_CXX_COMPILER=clang++ -DMHA_BUILD_FUZZERS=ON -DMHA_BUILD_TESTS=OFF -DMHA_WERROR=OFF
build_targets fuzz
count=0
for target in "$out"/fuzz/tools/fuzz/fuzz_*; do
  [ -x "$target" ] && [ -f "$target" ] || continue
  name=$(basename "$target")
  mkdir -p "$out/fuzz/corpus/$name"
  echo "$name: $seconds s"
  (cd "$out/fuzz" && "$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$out/fuzz/$name-" "$out/fuzz/corpus/$name")
  count=$((count + 1))
done
[ $count -gt 0 ] || fail "no fuzz targets were built"
echo "$count fuzz targets, $seconds s each, nothing found"
