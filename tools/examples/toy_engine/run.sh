#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the toy engines in C and in C++, each on one and on several threads. All generate the same tokens, with the same bits
# of their hidden states and logits; the program in C compares them with each request run alone.
#   run.sh <build folder>
set -euo pipefail
tools=${1:?the build folder}/tools
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for program in toy_engine toy_engine_cpp; do
  for threads in 1 8; do
    "$tools/example_$program" $threads >"$work/$program.$threads"
    echo "example_$program $threads"
    grep -v '^request' "$work/$program.$threads"
    grep '^request' "$work/$program.$threads" >"$work/requests"
    [ -e "$work/first" ] || cp "$work/requests" "$work/first"
    diff "$work/first" "$work/requests"
  done
  if "$tools/example_$program" many 2>"$work/message"; then exit 1; fi
  grep -Fx "threads is 'many', not in [1, 1024]" "$work/message"
done
[ "$(wc -l <"$work/first")" -eq 108 ]
echo "the same tokens and bits from all: $(wc -l <"$work/first") requests"
