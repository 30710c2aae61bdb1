#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The version is that of core/mha.h in every file that states one, and in the tag, if one is given.
#   tools/check/version.sh [v0.2.0] [source tree]
set -euo pipefail
root=${2:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
tag=${1:-}
faults=0

# same <where> <version that stands there>
same() {
  [ "$2" = "$version" ] && return
  printf 'version: %s says "%s", core/mha.h "%s"\n' "$1" "$2" "$version" >&2
  faults=1
}

version=$(sed -n 's/^#define MHA_VERSION_\(MAJOR\|MINOR\|PATCH\) \([0-9]*\)$/\2/p' "$root/core/mha.h" | paste -sd.)
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || { echo "version: core/mha.h states no version: '$version'" >&2 && exit 1; }
same "core/mha.h, beside mha_version," "$(sed -n 's|^/\* "\([0-9.]*\)": the version of the linked library.*|\1|p' "$root/core/mha.h")"
same "CHANGELOG.md, first section," "$(sed -n 's/^## \([0-9.]*\).*/\1/p' "$root/CHANGELOG.md" | head -n 1)"
same tools/packaging/debian/changelog "$(sed -n '1s/^mha (\(.*\)-[^-]*) .*/\1/p' "$root/tools/packaging/debian/changelog")"
same tools/packaging/vcpkg/mha/vcpkg.json "$(sed -n 's/^  "version": "\(.*\)",$/\1/p' "$root/tools/packaging/vcpkg/mha/vcpkg.json")"
[ -z "$tag" ] || same "the tag $tag" "$(sed -n 's/^v\([0-9.]*\)\(-rc\.[0-9]*\)\?$/\1/p' <<<"$tag")"
# These read it from mha.h.
for file in CMakeLists.txt tools/python/pyproject.toml tools/packaging/conan/conanfile.py tools/packaging/sbom.cmake; do
  grep -q MHA_VERSION_ "$root/$file" || { echo "version: $file no longer reads core/mha.h" >&2 && faults=1; }
done
[ "$faults" -eq 0 ] && echo "version $version everywhere"
exit "$faults"
