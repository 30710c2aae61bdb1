#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The code blocks of all pages (README.md, tools/EXAMPLES.md, ...) compile against the installed package, the complete
# programs among them run, and so do the printed compiler commands.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
release_build mha mha_cli
cmake --install "$out/release" --prefix "$out/prefix" >/dev/null
python3 "$root/tools/check/readme_snippets.py" "$root" "$out/prefix" "$out/snippets"
