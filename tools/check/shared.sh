#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The shared library: exports mha_* only, does not load the C++ runtime, and serves the consumers and the command line.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
make_build shared -DMHA_SHARED=ON
build_targets shared
library=$out/shared/libmha.so
bad=$(nm -D --defined-only "$library" | awk '{print $3}' | grep -v '^mha_' || true)
[ -z "$bad" ] || fail "libmha.so exports: $bad"
readelf -d "$library" | grep 'NEEDED.*libstdc++' && fail "libmha.so loads libstdc++"
readelf -d "$library" | grep -E 'SONAME.*\[libmha\.so\.[0-9]+\.[0-9]+\]' || fail "libmha.so has no versioned soname"
"$out/shared/tools/mha" verify
export MHA_TEST_SEED_STEP=4  # of the random problems (tests/support/seeds.h)
# Hosts that build the library themselves, static, and what installs nothing, do not see the shared one.
run_ctest shared -E '^consumer_(host_native|host_v3|headers|offline|wrong_types|two_headers)$'
