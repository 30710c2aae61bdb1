#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# How large the library is, counted where the user pays: the bytes that a linked, stripped C program grows by when it
# calls attention, or makes a layer and runs it (no OpenMP, what is not used removed), beside the stripped archive; with
# all targets and with each alone; then built for size, and without codes and BF16 (MHA_CODES=OFF, MHA_BF16=OFF).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

program_bytes() { # <name> <source> <argument>...
  local program=$out/size_$1
  shift
  cc -O2 -ffunction-sections -fdata-sections "$@" -lm -Wl,--gc-sections -o "$program"
  strip "$program"
  stat -c %s "$program"
}

row() { # <build> <label>
  local build=$out/$1 stripped attention layer
  stripped=$build/libmha-stripped.a
  strip --strip-debug --strip-unneeded -o "$stripped" "$build/libmha.a"
  attention=$(program_bytes attention "$root/tests/consumers/attention_only.c" -I"$build/include" "$build/libmha.a")
  layer=$(program_bytes layer "$root/tests/consumers/main.c" -I"$build/include" "$build/libmha.a")
  printf '%-28s %9d %9d %9d\n' "$2" "$(stat -c %s "$stripped")" $((attention - empty)) $((layer - empty))
}

mapfile -t names < <(target_names "$(host_family)")
build_size() { # <name> <argument>...
  make_build "$@" -DMHA_OPENMP=OFF -DMHA_BUILD_TESTS=OFF -DMHA_BUILD_TOOLS=OFF >&2
  build_targets "$1" mha >&2
}
small=(-DCMAKE_BUILD_TYPE=MinSizeRel)
edge=${names[0]}  # the target of small builds
for name in "${names[@]}"; do [ "$name" = avx2 ] && edge=avx2; done
build_size size_all
for name in "${names[@]}"; do
  base=$(sed -n 's|^// base: ||p' "$root/simd/targets/$(host_family)/$name.cpp")  # which a target of few kernels needs
  build_size "size_$name" -DMHA_TARGETS="$name${base:+;$base}"
done
build_size size_all_small "${small[@]}"
build_size "size_${edge}_small" "${small[@]}" -DMHA_TARGETS="$edge"
build_size size_all_floats "${small[@]}" -DMHA_CODES=OFF -DMHA_BF16=OFF
build_size "size_${edge}_floats" "${small[@]}" -DMHA_CODES=OFF -DMHA_BF16=OFF -DMHA_TARGETS="$edge"

printf 'int main(void) { return 0; }\n' >"$out/size_empty.c"
empty=$(program_bytes empty "$out/size_empty.c")
printf '%-28s %9s %9s %9s\n' 'bytes (no OpenMP)' archive attention layer
row size_all "all targets"
for name in "${names[@]}"; do row "size_$name" "$name alone"; done
row size_all_small "all, MinSizeRel"
row "size_${edge}_small" "$edge alone, MinSizeRel"
row size_all_floats "all, MinSizeRel, no codes, BF16"
row "size_${edge}_floats" "$edge, MinSizeRel, no codes, BF16"
