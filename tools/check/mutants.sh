#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Small mistakes put into copies of the library, one at a time: each must turn the tests red that its entry names.
# mutants.txt is the list, mutants.py the work; JOBS mutants are tried at once.
#   tools/check/mutants.sh [name]...     all, or those whose names begin so
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
python3 "$root/tools/check/mutants.py" try "$work" "$target" "$jobs" "$@"
