#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Small mistakes put into copies of the library, one at a time: each must turn the tests red that its entry names.
# mutants.txt is the list, mutants.py the work; JOBS mutants are tried at once.
#   tools/check/mutants.sh [name]...            those whose names begin so; without names a third of the list, another
#   MUTANT_PARTS=1 tools/check/mutants.sh       third with every commit; or all of it
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
best_target() {
  [ "$(host_family)" = x86_64 ] || { echo neon && return; }
  has() { for flag in "$@"; do grep -qw "$flag" /proc/cpuinfo || return 1; done; }
  if has avx512f avx512cd avx512bw avx512dq avx512vl; then echo avx512; elif has avx2 fma f16c; then echo avx2; else echo sse2; fi
}
work=$out/mutants target=$(best_target)
python3 "$root/tools/check/mutants.py" copy "$root" "$work"
# A configuration that is called Debug leaves out the library's -O3. What is left over after a change is no error.
tree=$work/tree make_build mutants/build -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-Og -DMHA_WERROR=OFF \
  -DMHA_TARGETS="$target"
build_targets mutants/build mha_tests
parts=${MUTANT_PARTS:-3}
part=$(($(git -C "$root" rev-list --count HEAD 2>/dev/null || echo 0) % parts))
python3 "$root/tools/check/mutants.py" try "$work" "$target" "$jobs" "$part/$parts" "$@"
