#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The command under taskset: as many threads by default as CPUs are allowed.
set -euo pipefail
cli=${MHA_CLI:?the mha command}
if ! command -v taskset >/dev/null; then
  echo "taskset (util-linux) is needed" >&2
  exit 1
fi

fail() {
  echo "test_affinity: $*" >&2
  exit 1
}
# Prints the default thread count under taskset.
threads_on() { taskset -c "$1" "$cli" info --json | sed -n 's/.*"threads": *\([0-9]*\).*/\1/p'; }
# Lists the CPUs allowed here, one a line, from a list such as 0-3,8.
allowed() {
  local range
  for range in $(taskset -cp $$ | sed 's/.*: //; s/,/ /g'); do seq "${range%-*}" "${range#*-}"; done
}

cpus=($(allowed))
all=$("$cli" info --json | sed -n 's/.*"threads": *\([0-9]*\).*/\1/p')
[ "$all" -ge 1 ] && [ "$all" -le "${#cpus[@]}" ] || fail "$all threads, but ${#cpus[@]} CPUs are allowed"
for cpu in "${cpus[0]}" "${cpus[-1]}"; do
  got=$(threads_on "$cpu")
  [ "$got" = 1 ] || fail "$got threads on CPU $cpu alone"
done
if [ "$all" -ge 2 ]; then
  got=$(threads_on "${cpus[0]},${cpus[1]}")
  [ "$got" = 2 ] || fail "$got threads on two CPUs"
fi
sizes="--query-len 512 --key-len 512 --num-heads 8 --head-dim 64"
text=$(taskset -c "${cpus[0]}" "$cli" explain attention $sizes)
grep -q '^threads: 1 of 1, in the calling thread$' <<<"$text" || fail "explain on one CPU says: $text"
echo "threads: $all of ${#cpus[@]} allowed CPUs; 1 on one CPU"
