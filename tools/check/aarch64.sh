#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Cross build for aarch64; the suite runs under qemu's user emulation.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
make_build aarch64 -DCMAKE_TOOLCHAIN_FILE="$root/tools/cmake/aarch64-linux-gnu.cmake"
build_targets aarch64
run_ctest aarch64 -L unit
