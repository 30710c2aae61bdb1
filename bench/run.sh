#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs mha_bench and writes <build>/bench/mha_bench.json, report.md (also printed), roofline.png and roofline.svg.
#
#   bench/run.sh [build folder] [options of mha_bench, such as --quick]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=${1:-$here/../build}
shift || true
out=$build/bench

# Prints a Python that has matplotlib: the system's, that of the build folder, or one made for it. Without a network the
# table is printed all the same.
find_python() {
  local python
  for python in python3 "$build/venv/bin/python" "$out/venv/bin/python"; do
    if "$python" -c 'import matplotlib' >/dev/null 2>&1; then
      echo "$python"
      return
    fi
  done
  echo "bench: making $out/venv for matplotlib" >&2
  if python3 -m venv "$out/venv" >&2 &&
    "$out/venv/bin/python" -m pip install -q --disable-pip-version-check -r "$here/requirements.txt" >&2; then
    echo "$out/venv/bin/python"
  else
    echo "bench: no matplotlib (Debian: python3-matplotlib)" >&2
    echo python3
  fi
}

python=$(find_python)
load=$(cut -d' ' -f1 /proc/loadavg 2>/dev/null || echo 0)
echo "bench: load average $load; figures mean something on a quiet machine only" >&2
# Counts the cases on a terminal while they run.
progress() {
  if [ -t 2 ]; then
    awk '/_median /{ printf "\rbench: %d cases done", ++n > "/dev/stderr" } END { print "" > "/dev/stderr" }'
  else
    cat >/dev/null
  fi
}

status=0
"$out/mha_bench" --benchmark_out="$out/mha_bench.json" --benchmark_out_format=json "$@" 2>&1 |
  tee "$out/mha_bench.log" | progress || status=${PIPESTATUS[0]}
if [ "$status" -ne 0 ]; then
  grep -a -E 'ERROR|^mha_bench:' "$out/mha_bench.log" >&2 || true
  echo "bench: mha_bench failed (exit status $status; see $out/mha_bench.log)" >&2
fi
[ "$status" -ne 2 ] || exit 2
export PYTHONDONTWRITEBYTECODE=1
"$python" "$here/report.py" "$out/mha_bench.json" --markdown "$out/report.md" --roofline "$out/roofline" || status=1
exit "$status"
