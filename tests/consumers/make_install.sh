# SPDX-License-Identifier: Apache-2.0
# Sourced by run.sh. `make install` asks for no package of the tests or benchmarks, and its configuration succeeds where
# there is none; `make test` asks for them and says so.
export GIT_ALLOW_PROTOCOL=none
cd "$source"
packages() { tools/setup.sh --print "$1" | sort; }
diff <(packages build) <(printf '%s\n' cmake g++ libcli11-dev libxsimd-dev ninja-build nlohmann-json3-dev | sort)
for package in catch2 libbenchmark-dev python3 pkg-config meson; do
  packages test | grep -qx "$package" || { echo "setup.sh test does not ask for $package" && exit 1; }
done

# The commands of a goal in a new build folder, line by line.
commands() { env -u MAKEFLAGS make -n BUILD="$work/build" CMAKE_ARGS="$absent" "$1"; }
absent="-DCMAKE_DISABLE_FIND_PACKAGE_Catch2=ON -DCMAKE_DISABLE_FIND_PACKAGE_benchmark=ON"
groups() { commands "$1" | sed -n 's|^tools/setup.sh ||p' | paste -sd' '; }
[ "$(groups install)" = build ]
[ "$(groups all)" = build ]
[ "$(groups test)" = "build test" ]
configure_line() { commands "$1" | grep '^cmake -S'; }
test_line=$(configure_line test)
eval "$(configure_line install)"
# In a folder made by `make install`, `make test` looks for what the tests need, and does not pass without.
if eval "$test_line" >"$work/test.txt" 2>&1; then echo "make test configured without Catch2" && exit 1; fi
grep -E "(benchmark|Catch2) is not installed" "$work/test.txt"
# A folder keeps its tests when `make install` runs in it later.
rm -rf "$work/build"
absent=
eval "$(configure_line test)"
eval "$(configure_line install)"
grep -x 'MHA_BUILD_TESTS:BOOL=ON' "$work/build/CMakeCache.txt"
