#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints the first Python that has numpy, pytest and hypothesis: the one of PATH, or Debian's; fails if none has.
for python in python3 /usr/bin/python3; do
  if "$python" -c 'import numpy, pytest, hypothesis' 2>/dev/null; then
    command -v "$python"
    exit 0
  fi
done
echo "no Python has numpy, pytest and hypothesis (Debian: python3-numpy python3-pytest python3-hypothesis)" >&2
exit 1
