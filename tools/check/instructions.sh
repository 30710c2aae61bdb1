#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Which instructions each object holds: code that runs before or without dispatch may use the baseline only, and each
# target no more than its own set. Also: no compile command asks for fast-math or for this machine's CPU.
#   instructions.sh [static build tree]
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
build=${1:-$out/release}
[ -n "${1:-}" ] || release_build mha
objects=$build/CMakeFiles/mha.dir

check_commands() {
  commands=$(grep -o '"command": .*' "$build/compile_commands.json" | grep 'mha.dir')
  bad=$(printf '%s\n' "$commands" |
    grep -E -- '-ffast-math|-Ofast|-funsafe-math|-ffinite-math|-fassociative-math|-freciprocal-math|-march=native|-flto' || true)
  [ -z "$bad" ] || fail "unsafe flags: $bad"
  bad=$(printf '%s\n' "$commands" | grep -v -- '-ffp-contract=off' || true)
  [ -z "$bad" ] || fail "no -ffp-contract=off: $bad"
}
[ -n "${1:-}" ] || check_commands

[ "$(host_family)" = x86_64 ] || { echo "flags looked at (the instruction scan knows x86-64)" && exit; }

# What a CPU with AVX-512 F, CD, BW, DQ and VL may lack.
vnni='^(\{vex\} +)?vpdp[bw]'
bf16='^vdpbf16|^vcvtn?e.*bf16|^vcvtne2'
tiles='^(tdp|tile|ldtilecfg|sttilecfg)'

# has <object> <extended regular expression on the disassembly>
# (grep reads to the end: with -q it would leave early, and pipefail would take objdump's broken pipe for "no".)
has() { objdump -d --no-show-raw-insn "$1" | cut -f2- | grep -E "$2" >/dev/null; }
vex='^v[a-z0-9]+ .*%[xyz]mm|%ymm|%zmm|%k[0-7]|^v(zeroupper|zeroall)'
avx512='%zmm|%k[0-7]|%[xy]mm(1[6-9]|2[0-9]|3[01])'
after_sse2='^(addsubp|haddp|hsubp|lddqu|movddup|movshdup|movsldup|pshufb|phadd|phsub|palignr|pabs|psign|pmulhrsw|pmaddubsw|blend|pblend|round[ps]|dpp|insertps|extractps|pinsr[bdq]|pextr[bdq]|pmov[sz]x|pm(in|ax)(s[bd]|u[wd])|pmulld|pmuldq|ptest|packusdw|pcmpeqq|pcmpgtq|pcmp[ei]str|mpsadbw|popcnt|crc32|lzcnt|tzcnt|andn |bextr|bzhi|mulx|rorx|sarx|shlx|shrx)'

count=0
while IFS= read -r object; do
  name=${object#"$objects"/}
  case $name in
    simd/targets/*/amx.cpp.o) ;;
    simd/targets/*/avx512_bf16.cpp.o) has "$object" "$tiles" && fail "$name: AMX instructions" ;;
    simd/targets/*/avx512_vnni.cpp.o) has "$object" "$bf16|$tiles" && fail "$name: BF16 or AMX instructions" ;;
    simd/targets/*/avx512.cpp.o) has "$object" "$vnni|$bf16|$tiles" && fail "$name: VNNI, BF16 or AMX instructions" ;;
    simd/targets/*/avx2_vnni.cpp.o) has "$object" "$avx512" && fail "$name: AVX-512 instructions" ;;
    simd/targets/*/avx2.cpp.o) has "$object" "$avx512|$vnni" && fail "$name: AVX-512 or VNNI instructions" ;;
    *)
      has "$object" "$vex" && fail "$name: AVX instructions outside a target that has them"
      has "$object" "$after_sse2" && fail "$name: instructions beyond SSE2"
      ;;
  esac
  count=$((count + 1))
done < <(find "$objects" -name '*.o')
[ $count -gt 0 ] || fail "no objects in $objects"
# The patterns must be able to see what they look for, in a target that a given tree may leave out.
given=${1:-}
sees() { # <target> <pattern> <instructions>
  local object=$objects/simd/targets/x86_64/$1.cpp.o
  if [ -n "$given" ] && [ ! -e "$object" ]; then return; fi
  has "$object" "$2" || fail "the scan does not see $3 in the $1 target"
}
sees avx2 "$vex" AVX
sees avx512 "$avx512" AVX-512
sees avx512_vnni "$vnni" VNNI
sees avx2_vnni "$vnni" AVX-VNNI
sees avx512_bf16 "$bf16" BF16
sees amx "$tiles" AMX
echo "$count objects hold only the instructions they may"
