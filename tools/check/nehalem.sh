#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# An emulated CPU without AVX runs the suite with no illegal instruction, on the baseline; one with AVX2 picks that.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[ "$(host_family)" = x86_64 ] || fail "needs an x86-64 machine"
release_build
unset MHA_TARGET
mha=$out/release/tools/mha
picked() {
  qemu-x86_64 -cpu "$1" "$mha" info --json |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["target"])'
}
[ "$(picked Nehalem 2>/dev/null)" = sse2 ] || fail "Nehalem does not pick sse2"
[ "$(picked Haswell 2>/dev/null)" = avx2 ] || fail "Haswell does not pick avx2"
qemu-x86_64 -cpu Haswell "$mha" verify --quick
qemu-x86_64 -cpu Nehalem "$mha" verify --quick
# test_cli and test_cli_run start the command as a process of its own, which the emulator would not follow. The other files
# go in groups, as many at once as there are CPUs; their random problems by the hundred show nothing more of the CPU.
mapfile -t files < <(cd "$root/tests" && basename -s .cpp */test_*.cpp | grep -vxE 'test_cli|test_cli_run')
groups=$((4 * jobs))
for ((group = 0; group < groups; ++group)); do
  spec=
  for ((n = group; n < ${#files[@]}; n += groups)); do spec+="${spec:+,}[#${files[n]}]~[not_emulated]~[properties]"; done
  echo "$spec"
done | xargs -P "$jobs" -d '\n' -n 1 qemu-x86_64 -cpu Nehalem "$out/release/tests/mha_tests" --filenames-as-tags |
  tee "$out/nehalem.txt"
awk '/^All tests passed/ { cases += $7 } END { print cases, "test cases passed" }' "$out/nehalem.txt"
