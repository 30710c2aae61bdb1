#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Which folder includes which, and where extern "C" is: layers.py has the tables.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
python3 "$root/tools/check/layers.py" "$root"
