#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The suite with clang's thread sanitizer. gcc's libgomp is not instrumented and gives false reports, so: libomp with its
# archer tool, which tells the sanitizer about OpenMP's own synchronisation.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
archer=$(dirname "$(readlink -f "$(command -v clang)")")/../lib/libarcher.so
[ -e "$archer" ] || fail "no libarcher.so beside clang"
export OMP_TOOL_LIBRARIES=$archer TSAN_OPTIONS="ignore_noninstrumented_modules=1 halt_on_error=1"
# Threads share the same way on all targets.
make_sanitized_build tsan "-fsanitize=thread -g1" -DMHA_TARGETS="$(best_alone)"
build_targets tsan
export MHA_TEST_SEED_STEP=16  # of the random problems (tests/support/seeds.h)
export MHA_LOAD_TOKENS=10000  # of tools/examples/load_test
# Random problems by the hundred show no more races than those that other tests solve on several threads.
run_ctest tsan -LE 'consumer|unit|python'  # Python itself has no sanitizer's runtime
run_ctest tsan -R '^test_cli'
run_files 1 '~[properties]' "$out/tsan/tests/mha_tests"
