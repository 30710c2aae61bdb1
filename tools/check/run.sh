#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the steps of `make check`, all of them or those named, keeps a log of each and ends with a table.
#   tools/check/run.sh [step]...     logs: build/check/<step>.log
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

all_steps=(format layers tidy symbols instructions snippets shared no_openmp one_target xsimd_recent nehalem quota asan tsan aarch64 mutants fuzz)
steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=("${all_steps[@]}")
for step in "${steps[@]}"; do
  [[ " ${all_steps[*]} " == *" $step "* ]] || fail "no step '$step'; there are: ${all_steps[*]}"
done

rows=()
failed=0
for step in "${steps[@]}"; do
  printf 'check: %s ...\n' "$step"
  started=$SECONDS
  if "$root/tools/check/$step.sh" >"$out/$step.log" 2>&1; then
    result=ok
  else
    result=FAILED
    failed=1
    tail -n 25 "$out/$step.log"
  fi
  # A step's last line says what it saw.
  rows+=("$(printf '%-14s %-7s %5d s  %s' "$step" "$result" $((SECONDS - started)) "$(grep -v '^ *$' "$out/$step.log" | tail -n 1)")")
done

printf '\n%-14s %-7s %7s  %s\n' step result time 'last line of its log'
printf '%s\n' "${rows[@]}"
exit $failed
