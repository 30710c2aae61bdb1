#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the wheel of <build>/wheel into a clean environment, beside torch, transformers and jax of PyPI; checks style and
# types (ruff, mypy --strict); runs all tests of tools/python.
#
#   tools/python/test_wheel.sh <build folder> [options of pytest]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$(cd "${1:-$here/../../build}/wheel" && pwd)
shift || true
venv=$out/test-venv

say() { printf 'test-python: %s\n' "$*" >&2; }

if ! "$venv/bin/python" -c 'import torch, transformers, jax, ruff' 2>/dev/null; then
  say "making $venv (some 2 GB from PyPI, more where torch comes with CUDA)"
  rm -rf "$venv"
  python3 -m venv "$venv" >&2
  "$venv/bin/python" -m pip install --disable-pip-version-check --quiet torch==2.13.0 >&2
  "$venv/bin/python" -m pip install --disable-pip-version-check --quiet -r "$here/tests/requirements.txt" >&2
fi
wheel=$(ls "$out"/*"_$(uname -m).whl")
"$venv/bin/python" -m pip uninstall --disable-pip-version-check --quiet --yes mha-cpu >&2
"$venv/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps "$wheel" >&2
cd "$out"  # nothing of the source tree is on the path
say "style, types"
"$venv/bin/ruff" check --quiet --no-cache --config "$here/pyproject.toml" "$here"
"$venv/bin/ruff" format --quiet --check --no-cache --config "$here/pyproject.toml" "$here"
"$venv/bin/python" -m mypy --cache-dir "$out/mypy" --config-file "$here/pyproject.toml" -p mha
say "tests of $(basename "$wheel")"
export PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
exec "$venv/bin/python" -m pytest -c "$here/pyproject.toml" --rootdir "$here" "$here/tests" "$@"
