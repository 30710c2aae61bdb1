#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Default thread counts under a cgroup's CPU quota, in a cgroup made for it (root, and a hierarchy one may write to).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
release_build mha_cli
cli=$out/release/tools/mha

# Prints the folder of this shell's cgroup that has the cpu controller, v1 or v2.
cpu_cgroup() {
  local path
  path=$(sed -n 's/^[0-9]*:\([a-z_,]*,\)*cpu\(,[a-z_,]*\)*:\(.*\)$/\3/p' /proc/self/cgroup)
  if [ -n "$path" ]; then
    echo "/sys/fs/cgroup/cpu${path%/}"
  else
    path=$(sed -n 's/^0:://p' /proc/self/cgroup)
    echo "/sys/fs/cgroup${path%/}"
  fi
}

group=$(cpu_cgroup)/mha_check_$$
if ! mkdir "$group" 2>/dev/null; then
  echo "no cgroup can be made here: quotas were not tried (their parsing is tested by test_cpu_count)"
  exit 0
fi
trap 'rmdir "$group/inner" "$group" 2>/dev/null || true' EXIT
if [ ! -e "$group/cpu.max" ] && [ ! -e "$group/cpu.cfs_quota_us" ]; then
  echo "no quota can be set in $group: quotas were not tried (their parsing is tested by test_cpu_count)"
  exit 0
fi

# set_quota <folder> <microseconds of 100000>
set_quota() {
  if [ -e "$1/cpu.max" ]; then echo "$2 100000" >"$1/cpu.max"; else echo "$2" >"$1/cpu.cfs_quota_us"; fi
}
threads_of_json() { sed -n 's/.*"threads": *\([0-9]*\).*/\1/p'; }
# Threads of a process in the cgroup.
threads_in() { bash -c 'echo $$ >"$1/cgroup.procs" && exec "$2" info --json' _ "$1" "$cli" | threads_of_json; }
expect() {
  [ "$2" = "$3" ] || fail "$1: $2 threads, expected $3"
}

free=$("$cli" info --json | threads_of_json)
expect "no quota" "$(threads_in "$group")" "$free"
set_quota "$group" 50000
expect "half a CPU" "$(threads_in "$group")" 1
if [ "$free" -ge 2 ]; then
  set_quota "$group" 150000
  expect "one and a half CPUs" "$(threads_in "$group")" 2
fi
set_quota "$group" 100000
mkdir "$group/inner"
if [ -e "$group/inner/cgroup.procs" ]; then expect "one CPU, set above" "$(threads_in "$group/inner")" 1; fi
echo "threads: $free without a quota; 1 at half a CPU, 1 where the group above has one CPU ($group)"
