# SPDX-License-Identifier: Apache-2.0
# Sourced by run.sh. Whatever a parent has in CXXFLAGS, the compiler is left with the same instruction sets and
# arithmetic for each kind of source: its predefined macros say so. Nothing is compiled.
CXXFLAGS="-DHOST_FLAGS_HERE" configure -S "$here/hosts" -B "$work/build" -DMHA_SOURCE="$source" -DHOST_STANDARD=17 \
  -DCMAKE_EXPORT_COMPILE_COMMANDS=ON

# macros <source> <parent's flags>: what the compiler predefines with the command of that source. Left out are the CPU
# that code is tuned for, and instructions that no compiler uses unasked.
macros() {
  local command
  command=$(grep -o '"command": .*'"$source/$1\"" "$work/build/compile_commands.json" | cut -d'"' -f4)
  [ -n "$command" ] || { echo "no compile command for $1" >&2 && return 1; }
  command=${command//-DHOST_FLAGS_HERE/$2}
  command="${command% -o *} -dM -E -x c++ /dev/null"
  $command | grep -vE '__tune_|__(XSAVE|ADX|LAHF_SAHF)' | sort
}

if [ "$(uname -m)" = x86_64 ]; then
  instructions=(-march=native -march=x86-64-v3 -march=x86-64-v4 -mavx512f "-mavx -mbmi2 -mlzcnt -mpopcnt -mmovbe" -mfma4
    -msse4.2 -mfpmath=387)
  sources=(core/plan/plan.cpp core/run/parallel.cpp simd/dispatch.cpp simd/targets/x86_64/{sse2,avx2,avx512}.cpp)
else
  instructions=(-mcpu=native -march=armv8.2-a+fp16+dotprod -march=armv8-a+sve)
  sources=(core/plan/plan.cpp core/run/parallel.cpp simd/dispatch.cpp simd/targets/aarch64/neon.cpp)
fi
arithmetic=(-ffast-math -Ofast -funsafe-math-optimizations -ffinite-math-only -fassociative-math -freciprocal-math
  -fno-signed-zeros -fno-trapping-math -ffp-contract=fast -frounding-math -fsingle-precision-constant)
compared=0
for flags in "${instructions[@]}" "${arithmetic[@]}" "-flto -fno-signed-zeros"; do
  # shellcheck disable=SC2086  # words
  "$cxx" $flags -E -x c++ /dev/null >"$work/known.txt" 2>&1 || { echo "$cxx does not know $flags" && continue; }
  for file in "${sources[@]}"; do
    macros "$file" "" >"$work/plain.txt"
    macros "$file" "$flags" >"$work/hostile.txt"
    diff "$work/plain.txt" "$work/hostile.txt" || { echo "$file: a parent's $flags stays in force" >&2 && exit 1; }
    compared=$((compared + 1))
  done
done
echo "$compared comparisons"
[ "$compared" -ge 40 ]
