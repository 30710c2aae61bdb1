#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds with one target only, and its base if it has one: the build has just these, and they agree with the reference
# where this CPU can run them.
# An unknown name is refused. Builds without codes and without BF16 pass the tests that need none, and say why they
# refuse them.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
verified=
mapfile -t names < <(target_names "$(host_family)")
for name in "${names[@]}"; do
  base=$(base_of "$name")  # which a target of few kernels needs
  make_build "only_$name" -DMHA_TARGETS="$name${base:+;$base}"
  build_targets "only_$name" mha_cli
  built=$(nm --defined-only --demangle "$out/only_$name/libmha.a" 2>/dev/null |
    sed -n 's/.* mha::\([a-z0-9_]*\)::table$/\1/p' | sort | paste -sd' ')
  [ "$built" = "$(printf '%s\n' $name $base | sort | paste -sd' ')" ] || fail "asked for $name, got: $built"
  runnable_targets | grep -xF "$name${base:+$'\n'$base}" >/dev/null || continue
  listed=$("$out/only_$name/tools/mha" info --json |
    python3 -c 'import json, sys; print(*[t["name"] for t in json.load(sys.stdin)["targets"]])')
  [ "$listed" = "$name${base:+ $base}" ] || fail "asked for $name, mha info says: $listed"
  "$out/only_$name/tools/mha" verify
  runs=$name
  runnable_targets | grep -xF "$name" >/dev/null || runs="the base of $name"
  verified+="${verified:+, }$runs"
done
if make_build unknown_target -DMHA_TARGETS=quantum 2>"$out/unknown_target.txt"; then fail "unknown target accepted"; fi
grep -q "unknown target 'quantum'" "$out/unknown_target.txt" || fail "unknown target: unclear message"
best=avx2
[ "$(host_family)" = x86_64 ] || best=neon
make_build less -DMHA_TARGETS="$best" -DMHA_CODES=OFF -DMHA_BF16=OFF
build_targets less mha_tests
MHA_TEST_SEED_STEP=8 "$out/less/tests/mha_tests" '~[codes]~[widening],[no_codes]'
if [ "$(host_family)" = x86_64 ]; then
  if make_build no_bf16_target -DMHA_TARGETS="avx512;avx512_bf16" -DMHA_BF16=OFF 2>"$out/no_bf16_target.txt"; then
    fail "a target of bf16 in a build without BF16"
  fi
  grep -q "avx512_bf16.*MHA_BF16" "$out/no_bf16_target.txt" || fail "a target of bf16 without BF16: unclear message"
fi
echo "built alone: ${names[*]}; run: $verified; $best without codes and BF16"
