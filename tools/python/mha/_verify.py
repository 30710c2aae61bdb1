# SPDX-License-Identifier: Apache-2.0
"""The self-test of the `mha` command, which the wheel carries."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from ._library import library_folder


class Verified(NamedTuple):
    """ok: every target gave the right numbers. codes: short codes of the bits by arithmetic ("F32", "BF16", "INT8"); machines
    with the same codes gave the same bits. text: the whole report."""

    ok: bool
    codes: dict[str, str]
    text: str


def command() -> Path:
    """The `mha` command: beside the library, or what MHA_COMMAND names."""
    given = os.environ.get("MHA_COMMAND")
    return Path(given) if given else library_folder() / "mha"


def verify(quick: bool = True, target: str | None = None) -> Verified:
    """Checks every supported target and arithmetic against the double-precision reference: `mha verify`. Takes seconds."""
    arguments = [str(command()), "verify"]
    arguments += ["--quick"] if quick else []
    arguments += ["--target", target] if target is not None else []
    run = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if run.returncode not in (0, 1):
        raise RuntimeError(run.stderr.strip() or f"{arguments[0]} ended with {run.returncode}")
    codes = dict(re.findall(r"\b(F32|BF16|INT8)\b[^\n]*?\b([2-9A-HJ-NP-Z]{4}-[2-9A-HJ-NP-Z]{4})\b", run.stdout))
    return Verified(run.returncode == 0, codes, run.stdout)


def main() -> int:
    """The `mha` command of the wheel."""
    return subprocess.run([str(command()), *sys.argv[1:]], check=False).returncode


def include_folder() -> str:
    """The folder of <mha/mha.h>, for programs that link the wheel's libmha."""
    return str(Path(__file__).parent / "include")
