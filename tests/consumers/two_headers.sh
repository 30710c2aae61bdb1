# SPDX-License-Identifier: Apache-2.0
# Sourced by run.sh. A shared library and its caller from two versions of the header, of which the newer one has a field
# of mha_attention_args and one of mha_masks where this one has a reserved word. An old program runs on the newer
# library, as it is and with the same bits; a newer one runs on this library until it sets such a field, and is told
# which then.
[ "$(uname -m)" = x86_64 ] && one=sse2 || one=neon
mkdir "$work/next_tree"
cp -r "$source"/{CMakeLists.txt,core,simd,tools} "$work/next_tree"
name_field() { # <struct>: the first of its reserved words becomes next_field
  local header=$work/next_tree/core/mha.h range="/^typedef struct $1 \{/,/^\} $1;/" words
  words=$(sed -n -E "$range s/^ *uint64_t reserved\[([0-9]+)\];.*/\1/p" "$header")
  sed -i -E "$range s/uint64_t reserved\[$words\];/uint64_t next_field, reserved[$((words - 1))];/" "$header"
}
name_field mha_attention_args
name_field mha_masks
[ "$(grep -c 'uint64_t next_field, reserved\[[1-9]\];' "$work/next_tree/core/mha.h")" = 2 ]
sed -i -E 's/^(#define MHA_VERSION_PATCH) [0-9]+$/\1 77/' "$work/next_tree/core/mha.h"

build_shared() { # <source tree> <name>
  configure -S "$1" -B "$work/$2" -DCMAKE_BUILD_TYPE=Release -DMHA_SHARED=ON -DMHA_TARGETS=$one -DMHA_OPENMP=OFF \
    -DMHA_BUILD_TESTS=OFF -DMHA_BUILD_BENCH=OFF -DMHA_BUILD_TOOLS=OFF
  cmake --build "$work/$2" -j 2 --target mha
}
build_shared "$source" now
build_shared "$work/next_tree" next
program() { # <name> <flag>...: with the header of that build, linked to its library
  cc -std=c11 "${warnings[@]}" -DMHA_SHARED=1 "${@:2}" "$here/two_headers.c" -I"$work/$1/include" -L"$work/$1" -lmha \
    -o "$work/program_$1"
}
program now
program next -DNEWER

on() { LD_LIBRARY_PATH=$work/$1 "$work/program_$2" "$3"; } # <library> <program> <field>
version() { awk '/^#define MHA_VERSION_(MAJOR|MINOR|PATCH)/ {print $3}' "$work/$1/include/mha/mha.h" | paste -sd.; }
now=$(version now) next=$(version next)
[ "$now" != "$next" ]
bits=$(on now now none | sed "s/^$now: //")
[[ $bits =~ ^([0-9a-f]{8}\ ){3}[0-9a-f]{8}$ ]]
{
  on next now none # the very file that ran on this library
  on now next none
  on next next none
  on next next args # what the newer library knows
  on next next masks
  on now next args
  on now next masks
} | tee "$work/answers.txt"
refused="is not 0: the caller was built for a newer mha than this one ($now), or the struct was not zeroed"
diff "$work/answers.txt" - <<EOF
$next: $bits
$now: $bits
$next: $bits
$next: $bits
$next: $bits
MHA_ERR_ARGUMENT: args.reserved[0] $refused
MHA_ERR_ARGUMENT: masks.reserved[0] $refused
EOF
