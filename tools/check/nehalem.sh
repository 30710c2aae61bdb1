#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# An emulated CPU without AVX runs a quarter of the suite's files, another quarter with every commit, with no illegal
# instruction, on the baseline; one with AVX2 picks that.
#   NEHALEM_PARTS=1 tools/check/nehalem.sh      all of them
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[ "$(host_family)" = x86_64 ] || fail "needs an x86-64 machine"
release_build
export MHA_TEST_SEED_STEP=16  # of the random problems (tests/support/seeds.h)
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
# Random problems by the hundred show nothing more of the CPU, and any CPU runs the baseline's kernels in `make test`.
run_files "${NEHALEM_PARTS:-4}" '~[not_emulated]~[properties]' qemu-x86_64 -cpu Nehalem "$out/release/tests/mha_tests"
