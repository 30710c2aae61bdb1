#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The library with a recent xsimd in place of the distribution's: the headers that the pythran wheel carries.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
wheel=pythran==0.19.0
headers=$out/xsimd_headers
if [ ! -e "$headers/xsimd/xsimd.hpp" ]; then
  python3 -m venv "$out/pip"
  "$out/pip/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary=:all: -d "$out/wheels" "$wheel"
  rm -rf "$out/pythran" "$headers"
  python3 -m zipfile -e "$out"/wheels/pythran-*.whl "$out/pythran"
  mkdir -p "$headers"
  ln -s "$out/pythran/pythran/xsimd" "$headers/xsimd"
fi
version=$(awk '/define XSIMD_VERSION_(MAJOR|MINOR|PATCH)/ {print $3}' "$headers/xsimd/config/xsimd_config.hpp" | paste -sd.)
make_build xsimd_recent -DXSIMD_INCLUDE_DIR="$headers"
build_targets xsimd_recent mha_tests
export MHA_TEST_SEED_STEP=4  # of the random problems (tests/support/seeds.h)
run_ctest xsimd_recent -L unit
echo "xsimd $version: the suite passes"
