# SPDX-License-Identifier: Apache-2.0
# Sourced by run.sh. Without network and with a dependency missing, the configuration ends in one line that says what is
# missing and how to come by it.
export GIT_ALLOW_PROTOCOL=none
xsimd=$(cached XSIMD_INCLUDE_DIR)
hidden=(-DCMAKE_FIND_ROOT_PATH="$work" -DCMAKE_FIND_ROOT_PATH_MODE_INCLUDE=ONLY) # find_path sees nothing outside

ends() { # <word that the line must have>... -- <cmake argument>...
  local -a words=()
  while [ "$1" != -- ]; do words+=("$1") && shift; done
  shift
  rm -rf "$work/build"
  if configure -B "$work/build" "$@" >"$work/out.txt" 2>&1; then
    echo "configured without ${words[0]}: $*" >&2
    return 1
  fi
  # What is left beside CMake's own frame: where the call is, and that configuring is incomplete.
  grep -vE '^-- |^ *$|^CMake Error at |^Call Stack|^  [^ ]+:[0-9]+ \([a-z0-9_]+\)$' "$work/out.txt" |
    grep -v '^See also' >"$work/message.txt" || true
  cat "$work/message.txt"
  [ "$(wc -l <"$work/message.txt")" -eq 1 ] || { cat "$work/out.txt" && return 1; }
  for word in "${words[@]}"; do
    grep -qF -- "$word" "$work/message.txt" || { echo "the line does not name '$word'" && return 1; }
  done
}

subproject=(-S "$here/subproject" -DMHA_SOURCE="$source")
ends xsimd "apt-get install libxsimd-dev" XSIMD_INCLUDE_DIR -- "${subproject[@]}" "${hidden[@]}"
ends xsimd libxsimd-dev XSIMD_INCLUDE_DIR -- "${subproject[@]}" "${hidden[@]}" -DFETCHCONTENT_FULLY_DISCONNECTED=ON
ends XSIMD_INCLUDE_DIR /nonexistent xsimd/xsimd.hpp -- "${subproject[@]}" -DXSIMD_INCLUDE_DIR=/nonexistent
configure -B "$work/given" "${subproject[@]}" "${hidden[@]}" -DXSIMD_INCLUDE_DIR="$xsimd"

without() { ends "$1" "apt-get install $2" "$3" -- -S "$source" -DCMAKE_DISABLE_FIND_PACKAGE_"$1"=ON "${@:4}"; }
without CLI11 libcli11-dev MHA_BUILD_TOOLS=OFF
without nlohmann_json nlohmann-json3-dev MHA_BUILD_TOOLS=OFF
without benchmark libbenchmark-dev MHA_BUILD_BENCH=OFF
without Catch2 catch2 MHA_BUILD_TESTS=OFF -DMHA_BUILD_BENCH=OFF
