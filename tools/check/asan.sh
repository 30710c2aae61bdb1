#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A quarter of the suite's files, another quarter with every commit, and all other tests with clang's address, leak and
# undefined-behaviour sanitizers; the first report ends the test. Four commits have the targets of AVX-512, if the CPU runs
# these, the next four the others. (Python itself has no sanitizer's runtime.)
#   ASAN_PARTS=1 tools/check/asan.sh      all files and targets
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
flags="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g1"
export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1
export LSAN_OPTIONS=suppressions=$root/tools/check/lsan.supp:print_suppressions=0
export MHA_TEST_SEED_STEP=16  # of the random problems (tests/support/seeds.h)
export MHA_LOAD_TOKENS=10000  # of tools/examples/load_test
parts=${ASAN_PARTS:-4}
targets=$(runnable_targets)
wide=$(grep -E '^(amx|avx512)' <<<"$targets" || true)
if [ -n "$wide" ] && [ "$parts" -gt 1 ]; then
  if [ "$(part_of_commit 2 "$parts")" = 0 ]; then targets=$wide; else targets=$(grep -vxF "$wide" <<<"$targets"); fi
fi
make_sanitized_build asan "$flags" -DMHA_TARGETS="$(paste -sd';' <<<"$targets")" \
  -DMHA_TEST_FILES="$({ echo test_cli && echo test_cli_run && test_files "$parts"; } | paste -sd';')"
build_targets asan
run_ctest asan -LE 'consumer|unit|python'
run_ctest asan -R '^test_cli'
echo "targets: $(paste -sd' ' <<<"$targets")"
run_files "$parts" '' "$out/asan/tests/mha_tests"
