# SPDX-License-Identifier: Apache-2.0
# Shared by the steps of `make check`: where things are, and how a build with other settings is made. Sourced by bash.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
out=${MHA_CHECK_DIR:-$root/build/check}  # every step builds below this folder
jobs=${JOBS:-$(nproc)}
# ccache, where there is one, shares objects between the builds and with the projects that the consumers build.
export CCACHE_BASEDIR=$out CCACHE_DIR=$out/ccache CCACHE_NOHASHDIR=1
mkdir -p "$out"

fail() {
  printf 'check: %s\n' "$*" >&2
  exit 1
}

# make_build <name> <cmake argument>...: configures $out/<name>, of the sources in $tree where that is set, else of the
# checkout; warnings are errors in every checked build. The library has an optimisation level of its own; with -O1 for the
# rest, tools and tests compile faster.
make_build() {
  local name=$1
  local -a launcher=()
  shift
  command -v ccache >/dev/null 2>&1 && launcher=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  cmake -S "${tree:-$root}" -B "$out/$name" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE=-O1 \
    -DMHA_WERROR=ON -DMHA_BUILD_BENCH=OFF -DMHA_BUILD_MPI=OFF \
    "${launcher[@]}" "$@" --log-level=WARNING
}

# make_sanitized_build <name> <compiler flags> <cmake argument>...: the same for sanitizers, of C and C++. Their kernels take
# minutes to compile at the library's -O3: Debug leaves that out, tests and tools are not optimised at all, and targets that
# this CPU does not run are left out. Warnings are no errors: instrumented frames are larger than those that the
# frame-size warning is about. A later argument overrides an earlier one.
make_sanitized_build() {
  local name=$1 flags=$2
  shift 2
  make_build "$name" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O1 -DCMAKE_CXX_COMPILER=clang++ -DMHA_WERROR=OFF \
    -DCMAKE_C_COMPILER=clang -DCMAKE_C_FLAGS_DEBUG=-O1 -DCMAKE_C_FLAGS="$flags" -DCMAKE_CXX_FLAGS="$flags" \
    -DMHA_TEST_OPTIMISATION=-O0 -DMHA_TOOL_OPTIMISATION=-O0 -DMHA_TARGETS="$(runnable_targets | paste -sd';')" \
    -DCMAKE_CXX_COMPILER_LAUNCHER="$root/tools/check/launch_sanitized.sh" "$@"
}

# build_targets <name> [<target>...]
build_targets() {
  local name=$1
  shift
  cmake --build "$out/$name" -j "$jobs" ${1:+--target "$@"}
}

# run_ctest <name> <ctest argument>...
run_ctest() {
  local name=$1
  shift
  ctest --test-dir "$out/$name" --output-on-failure --no-tests=error -j "$jobs" --output-log "$out/$name/ctest.txt" "$@"
  grep 'tests passed' "$out/$name/ctest.txt"
}

# test_files <parts>: the test files of the part that this commit tries, one a line, but test_cli and test_cli_run, which
# start the command as a process of its own.
test_files() {
  (cd "$root/tests" && basename -s .cpp */test_*.cpp) | grep -vxE 'test_cli|test_cli_run' | part_of "$1" "$(part_of_commit "$1")"
}

# run_files <parts> <tags> <command>...: the test_files of <parts>, without the tests that <tags> leave out. <command> is the
# test program, or what runs it. Files go in groups of at least 3, as many at once as there are CPUs. The last line says how
# many cases passed.
run_files() {
  local parts=$1 tags=$2 groups=$((12 * jobs)) group n spec
  local -a files
  shift 2
  mapfile -t files < <(test_files "$parts")
  [ $groups -le $((${#files[@]} / 3)) ] || groups=$(((${#files[@]} + 2) / 3))
  for ((group = 0; group < groups; ++group)); do
    spec=
    for ((n = group; n < ${#files[@]}; n += groups)); do spec+="${spec:+,}[#${files[n]}]$tags"; done
    [ -z "$spec" ] || echo "$spec"
  done | xargs -r -P "$jobs" -d '\n' -n 1 "$@" --filenames-as-tags | tee "$out/files.txt"
  awk '/^All tests passed/ { cases += $7 } END { print cases + 0, "test cases passed"; exit !cases }' "$out/files.txt"
}

# The plain build that the steps which only look at files share.
release_build() {
  make_build release
  build_targets release "$@"
}

# Our C and C++ sources, one a line, relative to the root.
sources() {
  (cd "$root" && find core simd tests bench tools -type f \( -name '*.h' -o -name '*.hpp' -o -name '*.c' -o -name '*.cpp' \) | sort)
}

host_family() {
  case $(uname -m) in
    x86_64 | amd64) echo x86_64 ;;
    *) echo aarch64 ;;
  esac
}

# The targets that this CPU runs, best first, one a line.
runnable_targets() {
  has() { for flag in "$@"; do grep -qw "$flag" /proc/cpuinfo || return 1; done; }
  if [ "$(host_family)" = aarch64 ]; then
    ! has asimddp || echo neon_dotprod
    echo neon
    return
  fi
  if has avx512f avx512cd avx512bw avx512dq avx512vl; then
    ! has amx_tile amx_bf16 amx_int8 avx512_bf16 avx512_vnni || echo amx
    ! has avx512_bf16 avx512_vnni || echo avx512_bf16
    ! has avx512_vnni || echo avx512_vnni
    echo avx512
  fi
  if has avx2 fma f16c; then
    ! has avx_vnni || echo avx2_vnni
    echo avx2
  fi
  echo sse2
}

# base_of <target>: the target of this host's family whose kernels it needs for those that it has not; none: nothing.
base_of() { sed -n 's|^// base: ||p' "$root/simd/targets/$(host_family)/$1.cpp"; }

# The best target that this CPU runs and that needs no other.
best_alone() {
  local name
  for name in $(runnable_targets); do
    [ -n "$(base_of "$name")" ] || { echo "$name" && return; }
  done
}

# part_of <parts> <part>: the lines of that part; line n of the input belongs to part n % parts.
part_of() { awk -v parts="$1" -v part="$2" 'NR % parts == part'; }

# part_of_commit <parts> [<for commits>]: the part that this commit tries, counted from 0. The next commit tries the next
# one, or does so after as many commits.
part_of_commit() { echo $(($(git -C "$root" rev-list --count HEAD 2>/dev/null || echo 0) / ${2:-1} % $1)); }

# The targets of a family, by file name.
target_names() { (cd "$root/simd/targets/$1" && printf '%s\n' *.cpp | sed 's/\.cpp$//'); }
