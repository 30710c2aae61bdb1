#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs through apt what is missing for a group of tasks, and says so; quiet when nothing is. What is there already, in
# whatever version and from wherever, is used.
#
#   tools/setup.sh build            what the library and the command line are built with: all that `make install` needs
#   tools/setup.sh test             what `make test` needs beyond that
#   tools/setup.sh bench            what `make bench` needs beyond that
#   tools/setup.sh check            what `make check` needs beyond that
#   tools/setup.sh peers            what `make bench-peers` needs beyond that
#   tools/setup.sh engines          what `make test-engines` needs beyond what the build needs
#   tools/setup.sh docs             what `make docs` needs
#   tools/setup.sh packaging        what `make test-packaging` needs beyond what the build needs
#   tools/setup.sh mpi              what `make demo-mpi` needs beyond that: OpenMPI, unless there is an MPI
#   tools/setup.sh emulator         what `make emulated` needs beyond what `make test` needs
#   tools/setup.sh wheel [machine]  what `make wheel` needs beyond what the build needs; for x86_64 or aarch64
#   tools/setup.sh python [folder]  the Python environment of the oracles, in folder/venv (default build/venv)
#   tools/setup.sh --print <group>  the packages of a group, one a line, whether they are there or not; installs nothing
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
missing=()
print_only=

say() { printf 'setup: %s\n' "$*" >&2; }

# want_command <program> <package>
want_command() { there command -v "$1" || missing+=("$2"); }

# there <command>...: does it succeed? Never when packages are printed: then all of a group count as missing.
there() { [ -z "$print_only" ] && "$@" >/dev/null 2>&1; }

# want_header <package> <header>...: one of the headers, where a compiler or CMake would look for it.
want_header() {
  local package=$1
  shift
  there has_header "$@" || missing+=("$package")
}

has_header() {
  local header prefix
  for header in "$@"; do
    for prefix in /usr /usr/local ${CMAKE_PREFIX_PATH:+${CMAKE_PREFIX_PATH//[;:]/ }}; do
      [ -e "$prefix/include/$header" ] && return
    done
    [ -n "${XSIMD_INCLUDE_DIR:-}" ] && [ -e "$XSIMD_INCLUDE_DIR/$header" ] && return
  done
  return 1
}

# compiles <compiler> <flag>...: can it build and link an empty program with these flags?
compiles() {
  local compiler=$1
  shift
  command -v "$compiler" >/dev/null 2>&1 &&
    printf 'int main(void) { return 0; }\n' | "$compiler" "$@" -x c - -o /dev/null >/dev/null 2>&1
}

install_missing() {
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ -n "$print_only" ]; then
    printf '%s\n' "${missing[@]}"
    missing=()
    return
  fi
  local -a as_root=()
  if ! command -v apt-get >/dev/null 2>&1; then
    say "missing: ${missing[*]} (Debian's package names), and there is no apt here: install them by hand"
    return 1
  fi
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
      say "missing: ${missing[*]}. Not root and no sudo; ask for: apt-get install ${missing[*]}"
      return 1
    fi
    as_root=(sudo)
  fi
  say "installing with apt: ${missing[*]}"
  local -a install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends)
  local log
  log=$(mktemp)
  # The package lists may be absent or old: fetch them when a first try fails.
  if ! "${install[@]}" "${missing[@]}" >"$log" 2>&1; then
    if ! { "${as_root[@]}" apt-get update -q && "${install[@]}" "${missing[@]}"; } >"$log" 2>&1; then
      tail -n 20 "$log" >&2
      rm -f "$log"
      say "apt could not install them"
      return 1
    fi
  fi
  rm -f "$log"
  missing=()
}

# install_libraries <tools are missing too>: CMake can fetch libraries, but no compiler.
install_libraries() {
  if [ "$1" -gt 0 ]; then
    install_missing
  else
    install_missing || say "CMake will try to fetch them, for which it needs git"
  fi
}

group_build() {
  want_command c++ g++
  want_command cmake cmake
  [ "${CMAKE_GENERATOR:-Ninja}" != Ninja ] || want_command ninja ninja-build
  local tools=${#missing[@]}
  want_header libxsimd-dev xsimd/xsimd.hpp
  want_header libcli11-dev CLI/CLI.hpp
  want_header nlohmann-json3-dev nlohmann/json.hpp
  install_libraries "$tools"
}

group_test() {
  want_command python3 python3
  want_command pkg-config pkg-config
  want_command objdump binutils
  want_command meson meson
  # The tests of the Python package run on Debian's Python where that of PATH has not what they need.
  there "$root/tools/python/find_python.sh" || missing+=(python3-numpy python3-pytest python3-hypothesis)
  local tools=${#missing[@]}
  want_header catch2 catch2/catch_all.hpp catch2/catch.hpp
  want_header libbenchmark-dev benchmark/benchmark.h
  install_libraries "$tools"
}

group_bench() {
  want_command python3 python3
  want_command git git
  local tools=${#missing[@]}
  want_header libbenchmark-dev benchmark/benchmark.h
  install_libraries "$tools"
}

group_check() {
  want_command clang++ clang
  want_command clang-tidy clang-tidy
  want_command clang-format clang-format
  want_command aarch64-linux-gnu-g++ g++-aarch64-linux-gnu
  want_command qemu-aarch64 qemu-user
  want_command ccache ccache
  want_command objdump binutils
  want_command python3 python3
  there python3 -c 'import ensurepip, venv' || missing+=(python3-venv)
  install_missing
  [ -z "$print_only" ] || return 0
  # Which packages clang's run-time libraries are in depends on its version.
  local version
  version=$(clang -dumpversion | cut -d. -f1)
  compiles clang -fsanitize=address || missing+=("libclang-rt-$version-dev")
  compiles clang -fopenmp || missing+=("libomp-$version-dev")
  install_missing
}

group_peers() {
  want_command python3 python3
  there python3 -c 'import ensurepip, venv' || missing+=(python3-venv)
  install_missing
}

group_engines() { group_peers; }

group_docs() { group_peers; }

group_packaging() {
  want_command dpkg-buildpackage dpkg-dev
  want_command dh debhelper
  want_command lintian lintian
  want_command pkg-config pkg-config
  group_peers
}

group_mpi() {
  want_command mpirun openmpi-bin
  want_command mpicc libopenmpi-dev
  install_missing
}

# The wheel of tools/python is built in a virtual environment of its own; that of another machine by the cross compiler.
group_wheel() {
  group_peers
  if [ "${1:-$(uname -m)}" != "$(uname -m)" ]; then
    want_command "$1-linux-gnu-g++" "g++-${1//_/-}-linux-gnu"
    install_missing
  fi
}

group_emulator() {
  want_command c++ g++
  want_command make make
  want_command xz xz-utils
  want_command strip binutils
  want_command python3 python3
  want_command cpio cpio
  want_command xorriso xorriso
  install_missing
}

group_python() {
  group_peers
  [ -z "$print_only" ] || return 0
  "$root/tools/oracles/venv.sh" "${1:-$root/build}/venv" >/dev/null
}

if [ "${1:-}" = --print ]; then
  print_only=1
  shift
fi
case ${1:-} in
  build | test | bench | check | peers | engines | docs | packaging | mpi | emulator) "group_$1" ;;
  wheel) group_wheel "${2:-}" ;;
  python) group_python "${2:-}" ;;
  *)
    sed -n '3,18s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 2
    ;;
esac
