# SPDX-License-Identifier: Apache-2.0
# Sourced by run.sh. Two versions of the static library in one process: the installed one in a program and in a plug-in,
# the next one, with one target, in another plug-in. Each answers with its own version and list of targets.
[ "$(uname -m)" = x86_64 ] && one=sse2 || one=neon
mkdir "$work/next"
cp -r "$source"/{CMakeLists.txt,core,simd,tools} "$work/next"
sed -i -E 's/^(#define MHA_VERSION_PATCH) [0-9]+$/\1 77/' "$work/next/core/mha.h"
[ ${#openmp[@]} -gt 0 ] && with_openmp=ON || with_openmp=OFF
configure -S "$work/next" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DMHA_TARGETS=$one -DMHA_OPENMP=$with_openmp \
  -DMHA_BUILD_TESTS=OFF -DMHA_BUILD_BENCH=OFF -DMHA_BUILD_TOOLS=OFF
cmake --build "$work/build" -j 2 --target mha

plugin() { # <name> <folder of headers> <archive> <linker option>...
  cc -std=c11 "${warnings[@]}" -shared -fPIC -DPLUGIN="$1" "$here/plugin.c" -I"$2" \
    "${@:4}" "$3" -Wl,--no-whole-archive -lm "${openmp[@]}" -o "$work/$1.so"
}
plugin now "$prefix/include" "$prefix/$libdir/libmha.a"
plugin next "$work/build/include" "$work/build/libmha.a"
# One that links the whole archive and would export all that may be exported.
plugin whole "$work/build/include" "$work/build/libmha.a" -Wl,--whole-archive
cc -std=c11 "${warnings[@]}" -rdynamic "$here/two_versions.c" -I"$prefix/include" -Wl,--whole-archive \
  "$prefix/$libdir/libmha.a" -Wl,--no-whole-archive -lm "${openmp[@]}" -ldl -o "$work/program"

for file in now.so next.so whole.so program; do
  if nm -D --defined-only "$work/$file" | grep -E ' (mha_|.*3mha)'; then
    echo "$file exports names of the library"
    exit 1
  fi
done
"$work/program" "$work/now.so" now "$work/next.so" next "$work/whole.so" whole | tee "$work/answers.txt"
version() { awk '/^#define MHA_VERSION_(MAJOR|MINOR|PATCH)/ {print $3}' "$1/mha/mha.h" | paste -sd.; }
targets=$(awk '$1 == "program" {print $3}' "$work/answers.txt")
now=$(version "$prefix/include") next=$(version "$work/build/include")
[ "$now" != "$next" ]
diff "$work/answers.txt" - <<EOF
program $now $targets
now $now $targets
next $next 1
whole $next 1
EOF
