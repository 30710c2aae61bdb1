#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the site of the project into <build>/docs. A warning, a dead link or anchor, and a page that is not shown as its
# Markdown says end it with status 1.
#
#   tools/docs/build.sh [build folder]
#
# The Python environment is <build>/docs-venv; with everything of requirements.txt there it needs no network.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
mkdir -p "${1:-$root/build}"
build=$(cd "${1:-$root/build}" && pwd)
venv=$build/docs-venv
work=$build/docs-work
out=$build/docs

if ! cmp -s "$here/requirements.txt" "$venv/requirements.txt"; then
  printf 'docs: making %s (PyPI)\n' "$venv" >&2
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --disable-pip-version-check --quiet --requirement "$here/requirements.txt"
  cp "$here/requirements.txt" "$venv/requirements.txt"
fi

export PYTHONDONTWRITEBYTECODE=1 PYTHONWARNINGS=error::UserWarning NO_MKDOCS_2_WARNING=1
rm -rf "$out"
"$venv/bin/python" "$here/assemble.py" "$root" "$work" "$out"
# Not --quiet: that hides the warnings from --strict, too.
"$venv/bin/mkdocs" build --strict --config-file "$work/mkdocs.yml" >"$work/mkdocs.txt" 2>&1 ||
  { cat "$work/mkdocs.txt" && exit 1; }
"$venv/bin/python" "$here/rendering.py" "$work" "$out"
"$venv/bin/python" "$here/links.py" "$out"
printf 'docs: %s/index.html\n' "$out"
