#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# How large the library is: the stripped archive with all targets and with each alone, and the code of a C program that
# makes a layer and runs it, linked statically (without libc) with what it does not use removed.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

row() { # <build> <label>
  local build=$out/$1 stripped program
  stripped=$build/libmha-stripped.a
  program=$build/minimal
  strip --strip-debug --strip-unneeded -o "$stripped" "$build/libmha.a"
  cc -O2 -ffunction-sections -fdata-sections -I"$build/include" "$root/tests/consumers/main.c" "$build/libmha.a" -lm \
    -Wl,--gc-sections -o "$program"
  printf '%-22s %9d %9d %9d\n' "$2" "$(stat -c %s "$stripped")" \
    "$(size "$build/libmha.a" | awk 'NR > 1 {sum += $1} END {print sum}')" "$(size "$program" | awk 'NR == 2 {print $1}')"
}

mapfile -t names < <(target_names "$(host_family)")
build_size() { # <name> <argument>...
  make_build "$@" -DMHA_OPENMP=OFF -DMHA_BUILD_TESTS=OFF -DMHA_BUILD_TOOLS=OFF >&2
  build_targets "$1" mha >&2
}
build_size size_all
for name in "${names[@]}"; do build_size "size_$name" -DMHA_TARGETS="$name"; done

printf '%-22s %9s %9s %9s\n' 'bytes (no OpenMP)' archive text program
row size_all "all targets"
for name in "${names[@]}"; do row "size_$name" "$name alone"; done
