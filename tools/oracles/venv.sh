#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes the Python environment of the oracles and of the real-weights demo, and prints the path of its interpreter.
#
#   tools/oracles/venv.sh [directory]        default: build/venv beside this source tree
#
# Idempotent: with everything of requirements.txt there in the wanted version it starts no pip and needs no network.
# PYTHON names the interpreter to start from (default python3); pip's own settings (PIP_INDEX_URL, ...) are honoured.
# stdout is the interpreter's path alone; what it does is told on stderr.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
venv=${1:-$root/build/venv}
requirements=$here/requirements.txt

say() { printf 'venv: %s\n' "$*" >&2; }

# Status 0 when each "name==version" line is installed in that version, whatever its local suffix.
satisfied() {
  "$venv/bin/python" - "$requirements" <<'PYTHON'
import sys
from importlib import metadata

missing = []
for line in open(sys.argv[1], encoding="utf-8"):
    line = line.split("#")[0].strip()
    if not line:
        continue
    name, version = line.split("==")
    try:
        found = metadata.version(name).split("+")[0]
    except metadata.PackageNotFoundError:
        found = "none"
    if found != version:
        missing.append(f"{name} {version} (found: {found})")
if missing:
    print("venv: to install: " + ", ".join(missing), file=sys.stderr)
sys.exit(1 if missing else 0)
PYTHON
}

if [ -x "$venv/bin/python" ] && ! "$venv/bin/python" -c pass 2>/dev/null; then
  say "$venv no longer runs (its Python is gone); it will be made again"
  rm -rf "$venv"
fi

if [ ! -x "$venv/bin/python" ]; then
  python=${PYTHON:-python3}
  command -v "$python" >/dev/null 2>&1 || { say "no $python on this machine (Python 3.11 or newer is needed)"; exit 2; }
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { say "$python is older than 3.11; name a newer one in PYTHON"; exit 2; }
  say "making $venv"
  mkdir -p "$(dirname -- "$venv")"
  if ! "$python" -m venv "$venv" >&2; then
    rm -rf "$venv"
    say "$python -m venv failed; on Debian and Ubuntu the package python3-venv is needed"
    exit 2
  fi
fi

if satisfied; then
  say "$venv has everything of requirements.txt"
else
  say "installing with pip (torch is a download of some 200 MB, more where it comes with CUDA) ..."
  "$venv/bin/python" -m pip install --disable-pip-version-check --quiet --requirement "$requirements" >&2
  satisfied || { say "pip succeeded, yet requirements.txt is not met"; exit 1; }
  say "done"
fi
printf '%s\n' "$venv/bin/python"
