#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Greedy generation with a small Llama, beside torch: what `make demo-decode` runs.
#
#   tools/demo_decode/run.sh [build folder] [options of compare.py, such as --target avx2 --threads 1 --repeat 5]
#
# Fetches with pip, into the build folder only, the Python environment (tools/oracles/venv.sh); needs no network once that
# is there. Status 1: a token, a logit or a bit differs.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
build=${1:-$root/build}
[ $# -eq 0 ] || shift
mkdir -p "$build"
build=$(CDPATH='' cd -- "$build" && pwd)

python=$("$root/tools/oracles/venv.sh" "$build/venv")
cmake --build "$build" --target mha_decoder >&2
exec "$python" "$here/compare.py" --decoder "$build/tools/mha_decoder" --work "$build/demo_decode" "$@"
