#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Small mistakes put into copies of the library, one at a time: each must turn the tests red that its entry names.
# mutants.txt is the list, mutants.py the work; JOBS mutants are tried at once.
#   tools/check/mutants.sh [name]...            those whose names begin so; without names a sixth of the list, another
#   MUTANT_PARTS=1 tools/check/mutants.sh       sixth with every commit; or all of it
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
work=$out/mutants target=$(best_alone)
python3 "$root/tools/check/mutants.py" copy "$root" "$work"
# A configuration that is called Debug leaves out the library's -O3. What is left over after a change is no error.
tree=$work/tree make_build mutants/build -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-Og -DMHA_WERROR=OFF \
  -DMHA_TARGETS="$target"
build_targets mutants/build mha_tests
parts=${MUTANT_PARTS:-6}
part=$(part_of_commit "$parts")
python3 "$root/tools/check/mutants.py" try "$work" "$target" "$jobs" "$part/$parts" "$@"
