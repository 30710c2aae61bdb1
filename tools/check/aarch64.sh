#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Cross build for aarch64; the suite runs under qemu's user emulation.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
make_build aarch64 -DCMAKE_TOOLCHAIN_FILE="$root/tools/cmake/aarch64-linux-gnu.cmake"
build_targets aarch64
export MHA_TEST_SEED_STEP=16  # of the random problems (tests/support/seeds.h)
qemu-aarch64 -L /usr/aarch64-linux-gnu "$out/aarch64/tests/mha_tests" --filenames-as-tags \
  '[#test_fork]~[not_emulated],[#test_thread_pool]~[not_emulated]'
run_ctest aarch64 -L unit -E '^test_(fork|thread_pool)$'
