# SPDX-License-Identifier: Apache-2.0
# Sourced by run.sh. Views of what the library does not read or write do not compile, in C by MHA_VIEW, MHA_MUT_VIEW and
# MHA_CODES, in C++ by mha::view, mha::mut_view and mha::Codes. Beside each stands what it must not be taken for, in the
# same place, which does compile: nothing but the type is wrong.
include=$build/include
count=0

# <compiler> <language> <standard> <declarations> <statement>; the compiler's words go to $work/words.txt
compiles() {
  if [ "$2" = c ]; then
    printf '#include <mha/mha.h>\n%s\nint main(void) { %s return 0; }\n' "$4" "$5" >"$work/program.c"
  else
    printf '#include <mha/mha.hpp>\n%s\nint main() { %s return 0; }\n' "$4" "$5" >"$work/program.cc"
  fi
  "$1" "-std=$3" -Wall -Wextra -Wno-unused -fsyntax-only -I"$include" "$work/program.${2/c++/cc}" \
    >"$work/words.txt" 2>&1
}

# <compiler> <language> <standard> <declarations> <right> <wrong> <words of the error>
only_right() {
  count=$((count + 1))
  if ! compiles "$1" "$2" "$3" "$4" "$5" || [ -s "$work/words.txt" ]; then
    echo "$1 refuses or warns of: $4 $5"
    cat "$work/words.txt"
    exit 1
  fi
  if compiles "$1" "$2" "$3" "$4" "$6"; then
    echo "$1 compiles: $4 $6"
    exit 1
  fi
  if ! grep -qE "error: .*($7)" "$work/words.txt"; then
    echo "$1 refuses $6, and does not say $7:"
    cat "$work/words.txt"
    exit 1
  fi
}

data='static float f[4]; static const float cf[4] = ZERO; static double d[4]; static const double cd[4] = ZERO;
static int i[4]; static mha_f16 half[4]; static uint16_t bits[4]; static int8_t codes[4]; static uint8_t bytes[4];
static const int8_t ccodes[4] = ZERO; static int16_t wide[4]; static const mha_quant q = ZERO; static void* any;'

in_c() { # <compiler>
  local zero='{0}'
  local -a c=("$1" c c11 "${data//ZERO/$zero}")
  local none="_Generic|no association|not compatible with any"
  only_right "${c[@]}" 'mha_view v = MHA_VIEW(f);' 'mha_view v = MHA_VIEW(d);' "$none"
  only_right "${c[@]}" 'mha_view v = MHA_VIEW(cf);' 'mha_view v = MHA_VIEW(cd);' "$none"
  only_right "${c[@]}" 'mha_view v = MHA_VIEW(cf);' 'mha_view v = MHA_VIEW(i);' "$none"
  only_right "${c[@]}" 'mha_view v = MHA_VIEW(half);' 'mha_view v = MHA_VIEW(bits);' "$none"
  only_right "${c[@]}" 'mha_view v = MHA_VIEW(half);' 'mha_view v = MHA_VIEW(any);' "$none"
  only_right "${c[@]}" 'mha_mut_view v = MHA_MUT_VIEW(f);' 'mha_mut_view v = MHA_MUT_VIEW(d);' "$none"
  only_right "${c[@]}" 'mha_mut_view v = MHA_MUT_VIEW(f);' 'mha_mut_view v = MHA_MUT_VIEW(cf);' "$none"
  only_right "${c[@]}" 'mha_mut_view v = MHA_MUT_VIEW(half);' 'mha_mut_view v = MHA_MUT_VIEW(i);' "$none"
  only_right "${c[@]}" 'mha_mut_view v = MHA_MUT_VIEW(half);' 'mha_mut_view v = MHA_MUT_VIEW(codes);' "$none"
  only_right "${c[@]}" 'mha_view v = MHA_CODES(codes, &q);' 'mha_view v = MHA_VIEW(codes);' "$none"
  only_right "${c[@]}" 'mha_view v = MHA_CODES(bytes, &q);' 'mha_view v = MHA_VIEW(bytes);' "$none"
  only_right "${c[@]}" 'mha_view v = MHA_CODES(ccodes, &q);' 'mha_view v = MHA_CODES(wide, &q);' "$none"
  only_right "${c[@]}" 'mha_view v = MHA_VIEW(f);' 'mha_view v = MHA_CODES(f, &q);' "$none"
}

in_cxx() { # <compiler> <standard>
  local zero='{}'
  local -a c=("$1" c++ "$2" "${data//ZERO/$zero}
    static float scales[4]; static double wrong_scales[4];
    static mha::AttentionCall call; static mha::LayerCall layer;
    mha::AttentionCall made(); mha::LayerCall made_layer();")
  local none="incomplete type|undefined template" gone="deleted"
  only_right "${c[@]}" 'auto v = mha::view(f);' 'auto v = mha::view(d);' "$none"
  only_right "${c[@]}" 'auto v = mha::view(cf);' 'auto v = mha::view(cd);' "$none"
  only_right "${c[@]}" 'auto v = mha::view(half);' 'auto v = mha::view(any);' "$none|void"
  only_right "${c[@]}" 'auto v = mha::view(half);' 'auto v = mha::view(bits);' "codes are read with their scales"
  only_right "${c[@]}" 'const mha::Codes c(codes, scales); mha_view v = c;' \
    'mha_view v = mha::view(codes);' "codes are read with their scales"
  only_right "${c[@]}" 'auto v = mha::mut_view(f);' 'auto v = mha::mut_view(d);' "$none"
  only_right "${c[@]}" 'auto v = mha::mut_view(f);' 'auto v = mha::mut_view(cf);' "results are written"
  only_right "${c[@]}" 'auto v = mha::mut_view(half);' 'auto v = mha::mut_view(i);' "results are floats"
  only_right "${c[@]}" 'auto v = mha::mut_view(half);' 'auto v = mha::mut_view(codes);' "results are floats"
  only_right "${c[@]}" 'mha::Codes c(codes, scales);' 'mha::Codes c(f, scales);' "codes are integers"
  only_right "${c[@]}" 'mha::Codes c(codes, scales);' 'mha::Codes c(wide, scales);' "$none"
  only_right "${c[@]}" 'mha::Codes c(codes, scales);' 'mha::Codes c(codes, wrong_scales);' "$none"
  only_right "${c[@]}" 'const mha::Codes c(codes, scales); mha_view v = c;' \
    'mha_view v = mha::Codes(codes, scales);' "$gone"
  only_right "${c[@]}" 'mha_attention_args a = call.raw();' 'mha_attention_args a = made().raw();' "$gone"
  only_right "${c[@]}" 'mha_layer_args a = layer.raw();' 'mha_layer_args a = made_layer().raw();' "$gone"
}

for compiler in cc clang; do
  ! command -v $compiler >/dev/null || in_c $compiler
done
for compiler in "$cxx" clang++; do
  for standard in c++17 c++20; do
    ! command -v "$compiler" >/dev/null || in_cxx "$compiler" $standard
  done
done
echo "$count pairs of a right and a wrong type"
[ $count -ge 43 ] # of one C and one C++ compiler
