#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a layer of each checkpoint here and compares it with transformers; then what must be refused, and how.
#   run.sh <build folder>
set -euo pipefail
program=$(cd "${1:?the build folder}" && pwd)/tools/example_layer_from_checkpoint
cd "$(dirname "${BASH_SOURCE[0]}")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for family in llama bert; do
  "$program" $family 1 $family/expected.safetensors | tee "$work/output"
  grep -q '^704 numbers' "$work/output"
  # Another layer's numbers are not these.
  if "$program" $family 0 $family/expected.safetensors >"$work/output"; then exit 1; fi
  grep -q '^704 numbers' "$work/output"
done

refused() { # <words that the message must have> <argument>...
  if "$program" "${@:2}" 2>"$work/message"; then exit 1; fi
  cat "$work/message"
  grep -qF -- "$1" "$work/message"
}
refused "layers.7.self_attn.q_proj.weight" llama 7 llama/expected.safetensors
refused "no_such_folder/config.json" no_such_folder 0 llama/expected.safetensors
for changed in '"model_type": "mamba"' '"rope_type": "longrope"' '"num_attention_heads": 8'; do
  rm -rf "$work/changed"
  cp -r llama "$work/changed"
  sed -i "s/${changed%%:*}: .*[^,]/$changed/" "$work/changed/config.json"
  words=$(sed 's/.*: "*//; s/"//g' <<<"$changed")
  [ "$words" != 8 ] || words="[32, 32], not [64, 32]"
  refused "$words" "$work/changed" 1 llama/expected.safetensors
done
