#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Tests the adapters of tools/engines inside their engines, or times them beside the engines' own kernels.
#
#   tools/engines/run.sh <build folder> [--bench] [engine]...      engine: a folder beside this file (default: all)
#
# Everything goes below <build>/engines: mha/ (the installed library), <engine>/venv (requirements.txt of the engine, from
# PyPI), <engine>/build (the adapter, a CMake project of its own that finds mha as any project does). Where no engines are
# named, those whose packages pip cannot install on this machine are left out by name; where none is left, or an engine
# that was named cannot be had, the result is 1.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=$(cd "$1" && pwd)
shift
out=$build/engines
bench=
engines=()
for argument in "$@"; do
  case $argument in
    --bench) bench=1 ;;
    *) engines+=("$argument") ;;
  esac
done
named=${engines[*]}
if [ -z "$named" ]; then
  for file in "$here"/*/requirements.txt; do
    engines+=("$(basename "$(dirname "$file")")")
  done
fi

say() { printf 'engines: %s\n' "$*" >&2; }

# make_venv <engine>: succeeds if everything that its requirements.txt names is installed.
make_venv() {
  local venv=$out/$1/venv wanted=$here/$1/requirements.txt
  if cmp -s "$wanted" "$venv/installed.txt"; then return 0; fi
  say "$1: making $venv (packages of PyPI)"
  rm -rf "$venv"
  mkdir -p "$out/$1"
  python3 -m venv "$venv" >&2
  local -a pip=("$venv/bin/python" -m pip install --disable-pip-version-check --quiet)
  # torch first, in the version stated: another package's range could choose a build for CUDA.
  local torch
  torch=$(grep -E '^torch==' "$wanted" || true)
  { [ -z "$torch" ] || "${pip[@]}" "$torch"; } >&2 && "${pip[@]}" -r "$wanted" >&2 && cp "$wanted" "$venv/installed.txt"
}

build_adapter() {
  cmake -S "$here/$1" -B "$out/$1/build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$out/mha" \
    -DENGINE_PYTHON="$out/$1/venv/bin/python" --log-level=WARNING >&2 &&
    cmake --build "$out/$1/build" -j "$(nproc)" >&2
}

cmake --install "$build" --prefix "$out/mha" >/dev/null
rows=()
failed=0
tried=0
for engine in "${engines[@]}"; do
  if [ ! -f "$here/$engine/requirements.txt" ]; then
    say "there is no engine '$engine'"
    exit 2
  fi
  if ! make_venv "$engine"; then
    rows+=("$engine: left out, because pip cannot install its packages here: $(tr '\n' ' ' <"$here/$engine/requirements.txt")")
    [ -z "$named" ] || failed=1
    continue
  fi
  tried=$((tried + 1))
  if ! build_adapter "$engine"; then
    rows+=("$engine: FAILED, the adapter does not compile")
    failed=1
    continue
  fi
  python=$out/$engine/venv/bin/python
  export MHA_ENGINE_BUILD=$out/$engine/build PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
  export PYTHONPATH=$here/common
  if [ -n "$bench" ]; then
    "$python" "$here/$engine/bench.py" || failed=1
  elif "$python" -m pytest -q -p no:cacheprovider "$here/$engine"; then
    rows+=("$engine: ok")
  else
    rows+=("$engine: FAILED")
    failed=1
  fi
done
[ ${#rows[@]} -eq 0 ] || printf 'engines: %s\n' "${rows[@]}"
[ $tried -gt 0 ] || failed=1
exit $failed
