#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the packages and uses each as a stranger would: `make test-packaging`.
#
#   tools/packaging/test.sh [build folder] [part]...     parts: sbom debian conan vcpkg (default: all)
#
# Everything is below <build>/packaging; the SBOM is that of the build folder itself, which has the library and the
# command. The packages are built with the family's baseline target alone, as Debug, which takes minutes;
# PACKAGING_FULL=1 builds all targets, optimised, as users get them. The Debian packages are unpacked, and installed
# into a root of their own; with PACKAGING_INSTALL=1 also on this machine, and removed again (root).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$(cd "${1:-$root/build}" && pwd)
out=$build/packaging
mkdir -p "$out"
shift || true
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(sbom debian conan vcpkg)
targets=sse2 build_type=Debug
[ "$(uname -m)" = x86_64 ] || targets=neon
[ "${PACKAGING_FULL:-0}" = 0 ] || targets='' build_type=Release
export CMAKE_GENERATOR=Ninja

say() { printf 'packaging: %s\n' "$*"; }
fail() {
  say "$*" >&2
  exit 1
}

# An environment of Python with what the tests need.
environment() {
  local venv=$out/venv
  if ! cmp -s "$here/requirements.txt" "$venv/requirements.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --disable-pip-version-check --quiet --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$venv/requirements.txt"
  fi
  export PATH=$venv/bin:$PATH
}

# use_cmake <prefix>: a C program that finds the package there, built and run.
use_cmake() {
  rm -rf "$out/consumer_$part"
  cmake -S "$root/tests/consumers/find_package" -B "$out/consumer_$part" -DCONSUMER_LANGUAGE=C \
    "-DCMAKE_PREFIX_PATH=$1" --log-level=WARNING
  grep -q "mha_DIR:PATH=$1/" "$out/consumer_$part/CMakeCache.txt" || fail "CMake did not find the package of $1"
  cmake --build "$out/consumer_$part" >/dev/null
  "$out/consumer_$part/consumer"
}

# use_pkg_config <folder of mha.pc>: the same with the compiler alone.
use_pkg_config() {
  local -a flags
  read -ra flags <<<"$(PKG_CONFIG_PATH=$1 pkg-config --cflags --libs --static mha)"
  cc -std=c11 -Wall -Werror "$root/tests/consumers/main.c" "${flags[@]}" -o "$out/with_pkg_config_$part"
  "$out/with_pkg_config_$part"
}

for part in "${parts[@]}"; do
  [ -e "$here/test_$part.sh" ] || fail "no part '$part'; there are: sbom debian conan vcpkg"
done
for part in "${parts[@]}"; do
  say "$part"
  started=$SECONDS
  source "$here/test_$part.sh"
  say "$part: good ($((SECONDS - started)) s)"
done
