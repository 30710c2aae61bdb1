#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every C and C++ source is as clang-format would write it, and every source names its licence.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$root"
mapfile -t files < <(sources)
clang-format --dry-run --Werror "${files[@]}"
for file in "${files[@]}"; do
  head -n 3 "$file" | grep -q 'SPDX-License-Identifier: Apache-2.0' || fail "$file does not name its licence"
done
echo "${#files[@]} files formatted"
