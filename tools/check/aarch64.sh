#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Cross build for aarch64. Under qemu's user emulation run the hashes of bits, the threads' tests, and a quarter of the
# suite's files, another quarter with every commit.
#   AARCH64_PARTS=1 tools/check/aarch64.sh      all files
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parts=${AARCH64_PARTS:-4}
always=(test_golden_bits test_thread_pool test_cli test_cli_run)
make_build aarch64 -DCMAKE_TOOLCHAIN_FILE="$root/tools/cmake/aarch64-linux-gnu.cmake" \
  -DMHA_TEST_FILES="$({ printf '%s\n' "${always[@]}" && test_files "$parts"; } | paste -sd';')"
build_targets aarch64
export MHA_TEST_SEED_STEP=16  # of the random problems (tests/support/seeds.h)
emulated=(qemu-aarch64 -L /usr/aarch64-linux-gnu "$out/aarch64/tests/mha_tests")
"${emulated[@]}" --filenames-as-tags -w NoTests '[#test_golden_bits],[#test_thread_pool]~[not_emulated]'
run_ctest aarch64 -R '^test_cli'
run_files "$parts" '~[not_emulated]' "${emulated[@]}"
