#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a compiler's command line for the builds with sanitizers. UBSan's checks of every pointer are four fifths of the time
# that AVX2, AVX-512 and AMX kernels take to compile; they stay in the baseline target, which is made of the same sources.
[[ " $* " != *simd/targets/x86_64/a[vm]x* ]] || set -- "$@" -fno-sanitize=null,alignment,pointer-overflow,object-size
command -v ccache >/dev/null 2>&1 && set -- ccache "$@"
exec "$@"
