#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# All files state the version of core/mha.h, and tools/check/version.sh notices each that states another.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
check=$root/tools/check/version.sh
"$check" "" "$root"

files=(core/mha.h CHANGELOG.md CMakeLists.txt tools/python/pyproject.toml tools/packaging/debian/changelog
  tools/packaging/vcpkg/mha/vcpkg.json tools/packaging/conan/conanfile.py tools/packaging/sbom.cmake)
version=$("$check" "" "$root" | sed 's/version \([0-9.]*\) .*/\1/')
notices() { # <file> <expression of sed that changes it> <words of the message>
  rm -rf "$work/tree"
  for file in "${files[@]}"; do
    mkdir -p "$work/tree/$(dirname "$file")"
    cp "$root/$file" "$work/tree/$file"
  done
  sed -i "$2" "$work/tree/$1"
  if "$check" "" "$work/tree" 2>"$work/message"; then echo "$1: another version was not noticed" && exit 1; fi
  grep -q "$3" "$work/message" || { cat "$work/message" && echo "the message does not say '$3'" && exit 1; }
}

notices CHANGELOG.md "s/^## $version/## 9.9.9/" 'CHANGELOG.md, first section, says "9.9.9"'
notices tools/packaging/debian/changelog "s/$version/9.9.9/" 'debian/changelog says "9.9.9"'
notices tools/packaging/vcpkg/mha/vcpkg.json "s/$version/9.9.9/" 'vcpkg.json says "9.9.9"'
notices core/mha.h 's/^\(#define MHA_VERSION_PATCH\) .*/\1 99/' 'beside mha_version, says'
notices core/mha.h 's/^#define MHA_VERSION_PATCH .*//' 'states no version'
notices tools/python/pyproject.toml 's/MHA_VERSION_/VERSION_/g' 'pyproject.toml no longer reads'
if "$check" v9.9.9 "$root" 2>/dev/null; then echo "a tag of another version was not noticed" && exit 1; fi
"$check" "v$version" "$root"
