#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The suite with clang's address, leak and undefined-behaviour sanitizers; the first report ends the test.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
flags="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g1"
export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1
export LSAN_OPTIONS=suppressions=$root/tools/check/lsan.supp:print_suppressions=0
export MHA_TEST_SEED_STEP=16  # of the random problems (tests/support/seeds.h)
export MHA_LOAD_TOKENS=10000  # of tools/examples/load_test
make_sanitized_build asan "$flags"
build_targets asan
run_ctest asan -LE consumer
