#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compares libmha with its peers: makes the Python environment and a shared libmha, then runs driver.py.
#
#   bench/peers/run.sh [build folder] [options of driver.py, such as --quick, --peer torch, --filter '^linear']
#
# Everything goes below <build>/bench: peers-venv/, shared/, peers.json, peers.md, peers.png. With everything of
# requirements.txt there it starts no pip and needs no network. A peer that pip cannot install is left out by name.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
build=${1:-$root/build}
shift || true
mkdir -p "$build/bench"
out=$(cd "$build/bench" && pwd)
venv=$out/peers-venv
wanted=$here/requirements.txt

say() { printf 'peers: %s\n' "$*" >&2; }

# The lines of requirements.txt that are not installed in that version, whatever its local suffix.
missing() {
  "$venv/bin/python" - "$wanted" <<'PYTHON'
import sys
from importlib import metadata

for line in open(sys.argv[1], encoding="utf-8"):
    line = line.split("#")[0].strip()
    if not line:
        continue
    name, version = line.split("==")
    try:
        found = metadata.version(name).split("+")[0]
    except metadata.PackageNotFoundError:
        found = None
    if found != version:
        print(line)
PYTHON
}

install() {
  "$venv/bin/python" -m pip install --disable-pip-version-check --quiet --only-binary :all: "$@" >&2
}

if ! "$venv/bin/python" -c pass 2>/dev/null; then
  say "making $venv"
  rm -rf "$venv"
  python3 -m venv "$venv" >&2
fi
mapfile -t packages < <(missing)
if [ ${#packages[@]} -gt 0 ]; then
  say "installing with pip (some 600 MB, more where torch comes with CUDA): ${packages[*]}"
  if ! install "${packages[@]}"; then
    say "not all together; one by one"
    for package in "${packages[@]}"; do
      install "$package" || say "pip has no $package for this machine"
    done
  fi
fi

# The library as a shared one, for ctypes; MHA_OPENMP and targets as they are by default.
cmake -S "$root" -B "$out/shared" -DMHA_SHARED=ON -DMHA_BUILD_TESTS=OFF -DMHA_BUILD_BENCH=OFF -DMHA_BUILD_TOOLS=OFF \
  -DMHA_INSTALL=OFF --log-level=WARNING >&2
cmake --build "$out/shared" --target mha -j "$(nproc)" >&2

load=$(cut -d' ' -f1 /proc/loadavg 2>/dev/null || echo 0)
say "load average $load; figures mean something on a quiet machine only"
export PYTHONDONTWRITEBYTECODE=1
exec "$venv/bin/python" "$here/driver.py" --library "$out/shared/libmha.so" --output "$out" \
  --command "bench/peers/run.sh build${*:+ $*}" "$@"
