#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# On an emulated CPU that has the instructions of every x86-64 target (tools/emulator): `mha verify` passes with this
# machine's bits, and tests of INT8, BF16, tiles and golden bits pass on each target. Emulated CPUs that have less pick the
# right target. By hand (`make emulated`), no step of `make check`: six minutes of CPU time, four more to build the emulator.
#   MHA_EMULATED_BUILD=<folder>    a build that is there, instead of build/check/release
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[ "$(host_family)" = x86_64 ] || fail "needs an x86-64 machine"
unset MHA_TARGET
"$root/tools/emulator/build.sh"
build=${MHA_EMULATED_BUILD:-$out/release}
[ -n "${MHA_EMULATED_BUILD:-}" ] || release_build mha_tests mha_cli
targets=$(target_names x86_64 | paste -sd,)

emulate() { "$root/tools/emulator/run.sh" -t 7200 "$@"; }

picked() {
  emulate -m "$1" "$build/tools/mha" info --json |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["target"])'
}
while read -r model target; do
  echo "$model: $(picked "$model" </dev/null)" | tee "$out/picked.txt"
  grep -qx "$model: $target" "$out/picked.txt" || fail "$model does not pick $target"
done <<END
tigerlake avx512_vnni
corei7_skylake_x avx512
arrow_lake avx2_vnni
corei7_haswell_4770 avx2
END

bits() { grep -o 'bits of .*' "$out/$1"; }
"$build/tools/mha" verify --quick >"$out/verify.txt"
emulate "$build/tools/mha" verify --quick | tee "$out/verify_emulated.txt"
here=$(bits verify.txt) there=$(bits verify_emulated.txt)
[ "$there" = "$here" ] || fail "other bits than here: $here"

# Of random problems every 32nd (tests/support/seeds.h). Left out are the cases that take longest, and PyTorch's numbers.
emulate -e MHA_REQUIRE_TARGETS="$targets" -e MHA_TEST_SEED_STEP=32 "$build/tests/mha_tests" -d yes \
  '[int8],[bf16]~[accuracy]~[elements]~[properties]~[golden],[tiles],golden bits*' | tee "$out/tests_emulated.txt"
passed=$(grep -o '([0-9]* assertions in [0-9]* test cases)' "$out/tests_emulated.txt")

echo "${targets//,/, }: $there; tests passed $passed"
