#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds and runs one program that uses the library as a stranger would. What takes more than a few lines has a file of
# its own beside this one, named after its kind.
#   run.sh <kind> <source tree> <build tree> <library folder under the prefix>
set -euo pipefail
kind=$1 source=$2 build=$3 libdir=$4
here=$source/tests/consumers
prefix=$build/tests/consumers/prefix
work=$build/tests/consumers/$kind
warnings=(-Wall -Wextra -pedantic -Werror)
export PKG_CONFIG_PATH=$prefix/$libdir/pkgconfig LD_LIBRARY_PATH=$prefix/$libdir
rm -rf "$work"
mkdir -p "$work"

cached() { sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt"; } # a variable of the build under test
cxx=$(cached CMAKE_CXX_COMPILER)
openmp=()
[ "$kind" = install ] || ! grep -qs fopenmp "$prefix/$libdir/pkgconfig/mha.pc" || openmp=(-fopenmp)

# cmake, with the compilers, launchers and xsimd of the build under test.
configure() {
  local -a settings=()
  local name value
  for name in CMAKE_C_COMPILER CMAKE_CXX_COMPILER CMAKE_C_COMPILER_LAUNCHER CMAKE_CXX_COMPILER_LAUNCHER; do
    value=$(cached "$name")
    [ -z "$value" ] || settings+=("-D$name=$value")
  done
  cmake "${settings[@]}" "$@"
}

# No -lstdc++ and no C++ compiler: the archive needs only libm and, with OpenMP, its runtime.
plain_cc() { # <source> <result> <argument>...
  cc -std=c11 "${warnings[@]}" "$here/$1" "${@:3}" -I"$prefix/include" -L"$prefix/$libdir" -lmha -lm "${openmp[@]}" \
    -o "$work/$2"
}

# A plug-in that has the library in it, loaded and unloaded a thousand times.
plugin() {
  plain_cc hosts/plugin.c plugin.so -shared -fPIC
  cc -std=c11 "${warnings[@]}" -Wno-pedantic "$here/hosts/load.c" -ldl -o "$work/consumer"
  "$work/consumer" "$work/plugin.so" 1000
}

# shellcheck disable=SC2046  # pkg-config prints words
with_pkg_config() {
  cc -std=c11 "${warnings[@]}" "$here/main.c" $(pkg-config --cflags --libs mha) -o "$work/consumer"
}

with_cmake() { # <project folder> <argument>...
  configure -S "$here/$1" -B "$work/build" "${@:2}"
  cmake --build "$work/build" -j 2
  cp "$work/build/consumer" "$work/consumer"
}

# A header included twice, and a program that uses it, under every warning that a strict project may have.
headers() { # <compiler> <language> <standard> <header> <program>
  local -a strict=("${warnings[@]}" -Wshadow -Wconversion -Wsign-conversion -Wundef -Wcast-qual -fsyntax-only)
  if [ "$2" = c ]; then
    strict+=(-Wstrict-prototypes)
  else
    strict+=(-Wold-style-cast -Wzero-as-null-pointer-constant -Wextra-semi -Wnon-virtual-dtor)
  fi
  printf '#include <mha/%s>\n#include <mha/%s>\n' "$4" "$4" | "$1" -x "$2" "-std=$3" "${strict[@]}" -I"$build/include" -
  [ -z "$5" ] || "$1" -x "$2" "-std=$3" "${strict[@]}" -I"$build/include" "$here/$5"
}

case $kind in
  install)
    rm -rf "$prefix"
    cmake --install "$build" --prefix "$prefix"
    # Nothing of xsimd, and no path of the build machine's, may be in the package.
    ! grep -rlE "xsimd|$build" "$prefix/include" "$prefix/$libdir/cmake" "$prefix/$libdir/pkgconfig"
    exit
    ;;
  cc) plain_cc main.c consumer ;;
  few_threads) plain_cc hosts/few.c consumer ;;
  plugin)
    plugin
    exit
    ;;
  pkg_config) with_pkg_config ;;
  find_package_c) with_cmake find_package -DCMAKE_PREFIX_PATH="$prefix" -DCONSUMER_LANGUAGE=C ;;
  find_package_cxx) with_cmake find_package -DCMAKE_PREFIX_PATH="$prefix" -DCONSUMER_LANGUAGE=CXX ;;
  add_subdirectory) # one target, because host_native builds all of them as a subproject
    [ "$(uname -m)" = x86_64 ] && one=sse2 || one=neon
    with_cmake subproject -DMHA_SOURCE="$source" -DMHA_TARGETS=$one
    ;;
  headers)
    for standard in c11 c17 c2x; do headers cc c $standard mha.h main.c; done # c2x: C23, as gcc 12 calls it
    for standard in c++17 c++20 c++2b; do                                     # c++2b: C++23
      headers "$cxx" c++ $standard mha.h ""
      headers "$cxx" c++ $standard mha.hpp main.cpp
      headers "$cxx" c++ $standard mha.hpp hosts/bits.cpp
    done
    exit
    ;;
  host_native | host_v3 | host_shared)
    source "$here/host.sh"
    exit
    ;;
  embedding_*)
    source "$here/embedding.sh"
    exit
    ;;
  host_options | two_versions | two_headers | wrong_types | exported | offline | make_install | components)
    source "$here/$kind.sh"
    exit
    ;;
  *)
    echo "unknown kind $kind" >&2
    exit 2
    ;;
esac
"$work/consumer"
