# SPDX-License-Identifier: Apache-2.0
# Sourced by run.sh. A parent that exports a target which links mha: installed, and from its build tree.
[ "$(uname -m)" = x86_64 ] && one=sse2 || one=neon
configure -S "$here/exported" -B "$work/engine" -DCMAKE_BUILD_TYPE=Release -DMHA_SOURCE="$source" -DMHA_TARGETS=$one
cmake --build "$work/engine" -j 2
cmake --install "$work/engine" --prefix "$work/prefix"

app() { # <name> <cmake argument>...
  configure -S "$here/exported/app" -B "$work/$1" "${@:2}"
  cmake --build "$work/$1"
  "$work/$1/consumer"
}
app from_build_tree -Dengine_DIR="$work/engine" -Dmha_DIR="$work/engine/mha"
mv "$work/engine" "$work/gone" # what is installed must not need it
app from_prefix -DCMAKE_PREFIX_PATH="$work/prefix"
