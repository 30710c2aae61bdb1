#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Tests the package over a build of the project, without a wheel and without torch: what `make test` runs.
#
#   tools/python/test_build.sh <build folder>
#
# Takes the first Python that has numpy, pytest and hypothesis: the one of PATH, or Debian's.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=$(cd "$1" && pwd)
python=$("$here/find_python.sh")
stage=$build/python
# The package beside the file that is made for it, so that the source tree stays as it is.
rm -rf "$stage/mha" && mkdir -p "$stage"
cp -r "$here/mha" "$stage/mha"
rm -f "$stage/mha/_abi.py"
"$python" "$here/generate_abi.py" "$here/../../core/mha.h" "$stage/mha/_abi.py"
export MHA_LIBRARY_DIR=$stage MHA_COMMAND=$build/tools/mha PYTHONPATH=$stage PYTHONDONTWRITEBYTECODE=1
exec "$python" -m pytest -c "$here/pyproject.toml" --rootdir "$here" "$here"/tests/test_*.py
