#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds and runs one program that uses the library as a stranger would.
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

# No -lstdc++ and no C++ compiler: the archive needs only libm and, with OpenMP, its runtime.
plain_cc() { # <source> <result> <argument>...
  local -a openmp=()
  grep -q fopenmp "$prefix/$libdir/pkgconfig/mha.pc" && openmp=(-fopenmp)
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
  cmake -S "$here/$1" -B "$work/build" "${@:2}"
  cmake --build "$work/build" -j 2
  cp "$work/build/consumer" "$work/consumer"
}

headers() { # <compiler> <language> <standard> <header>
  printf '#include <mha/%s>\n#include <mha/%s>\n' "$4" "$4" |
    "$1" -x "$2" "-std=$3" "${warnings[@]}" -Wshadow -Wconversion -fsyntax-only -I"$build/include" -
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
  add_subdirectory) with_cmake subproject -DMHA_SOURCE="$source" ;;
  headers)
    headers cc c c11 mha.h
    headers cc c c17 mha.h
    headers c++ c++ c++17 mha.h
    headers c++ c++ c++17 mha.hpp
    headers c++ c++ c++20 mha.hpp
    exit
    ;;
  *)
    echo "unknown kind $kind" >&2
    exit 2
    ;;
esac
"$work/consumer"
