#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What the linker can see. A symbol that two targets' objects share would be merged to one copy, which then runs on CPUs
# without its instructions; a symbol of the C++ runtime would keep a C program from linking.
#   symbols.sh [static build tree]
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
build=${1:-$out/release}
[ -n "${1:-}" ] || release_build mha
objects=$build/CMakeFiles/mha.dir
archive=$build/libmha.a

checked=0
for object in "$objects"/simd/targets/*/*.o; do
  name=$(basename "$object" .cpp.o)
  # Upper-case types are external; 'u' (unique) and lower-case 'v', 'w' (weak) are external too.
  external=$(nm --defined-only --demangle "$object" | awk '$2 ~ /^[A-Zuvw]$/')
  # The table of attention's kernels and that of the projections', so that a program may link the first alone.
  [ "$(printf '%s\n' "$external" | grep -cE ' [DRB] mha::([a-z0-9_]+::)*(table|linear_table)$')" -eq 2 ] &&
    [ "$(printf '%s\n' "$external" | wc -l)" -eq 2 ] ||
    fail "$name: only its two tables may be external, but there is:"$'\n'"$external"
  checked=$((checked + 1))
done
[ $checked -gt 0 ] || fail "no target objects in $objects"

# Columns of readelf -s: number, value, size, type, binding, visibility, section, name.
bad=$(readelf -sW "$archive" | awk '$5 ~ /GLOBAL|WEAK|UNIQUE/ && $7 != "UND" && $1 ~ /:$/ {print $5, $6, $8}' | c++filt |
  grep -vE '^GLOBAL HIDDEN mha_[a-z0-9_]+$|^(GLOBAL|WEAK) HIDDEN (.* )?mha::' || true)
[ -z "$bad" ] || fail "libmha.a defines names that are not hidden, or outside mha_* and mha:::"$'\n'"$bad"

# A host that unpacks the archive into one folder (ar x) must get every member.
twice=$(ar t "$archive" | sort | uniq -d)
[ -z "$twice" ] || fail "libmha.a has members of one name: $twice"

defined=$(nm --defined-only "$archive" | awk 'NF == 3 {print $3}' | sort -u)
undefined=$(nm --undefined-only "$archive" | awk 'NF == 2 {print $2}' | sort -u)
needed=$(comm -13 <(printf '%s\n' "$defined") <(printf '%s\n' "$undefined"))
runtime=$(printf '%s\n' "$needed" | grep -E '^_Z|^__cxa_|^__gxx_|^_Unwind|^__dynamic_cast' || true)
[ -z "$runtime" ] || fail "libmha.a needs the C++ runtime: $runtime"
printf 'libmha.a needs: %s\n' "$(printf '%s\n' "$needed" | paste -sd' ')"
echo "$checked target objects, two tables each; no C++ runtime"
