#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Without OpenMP the library builds, names no OpenMP symbol, and passes the whole suite, consumers included; its threads
# sleep on a condition, as on systems without futexes.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
make_build no_openmp -DMHA_OPENMP=OFF -DCMAKE_PROJECT_mha_INCLUDE="$root/tools/check/no_futex.cmake"
build_targets no_openmp
nm --undefined-only "$out/no_openmp/libmha.a" | grep -iE 'gomp|omp_|kmpc' && fail "OpenMP symbols in a build without it"
export MHA_TEST_SEED_STEP=4  # of the random problems (tests/support/seeds.h)
# What a host's own flags do, and what installs nothing, is the same as in a build with OpenMP.
run_ctest no_openmp -E '^consumer_(host_.*|headers|offline|make_install|wrong_types|exported|two_.*)$'
