#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The load test on 8 threads that share the caches, and in one packed call with 8 threads inside. Both must get the same
# results. MHA_LOAD_TOKENS says how many tokens are generated (2000).
#   run.sh <build folder>
set -euo pipefail
program=${1:?the build folder}/tools/example_load_test
tokens=${MHA_LOAD_TOKENS:-2000}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$program" "$tokens" 8 1 | tee "$work/workers"
"$program" "$tokens" 1 8 | tee "$work/packed"
diff <(grep '^result: ' "$work/workers") <(grep '^result: ' "$work/packed")
if "$program" 0 2>"$work/message"; then exit 1; fi
grep -x "load test: tokens is '0', not a number in \[1, 100000000\]" "$work/message"
