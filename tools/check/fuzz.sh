#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A short libFuzzer run of every target in tools/fuzz, with the address and undefined-behaviour sanitizers.
#   FUZZ_SECONDS=600 tools/check/fuzz.sh      for a longer one
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
seconds=${FUZZ_SECONDS:-25}
make_sanitized_build fuzz "" -DMHA_BUILD_FUZZERS=ON -DMHA_BUILD_TESTS=OFF
mapfile -t names < <(basename -s .cpp "$root"/tools/fuzz/fuzz_*.cpp)
build_targets fuzz "${names[@]}"
targets=("${names[@]/#/$out/fuzz/tools/fuzz/}")
# As many at once as there are CPUs; xargs fails when one of them does.
run_target() {
  local name
  name=$(basename "$1")
  mkdir -p "$out/fuzz/corpus/$name"
  echo "$name: $seconds s"
  (cd "$out/fuzz" && "$1" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$out/fuzz/$name-" "$out/fuzz/corpus/$name")
}
export -f run_target
export out seconds
printf '%s\0' "${targets[@]}" | xargs -0 -P "$jobs" -I{} bash -ec 'run_target {}'
echo "${#targets[@]} fuzz targets, $seconds s each, nothing found"
