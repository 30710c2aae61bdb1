# SPDX-License-Identifier: Apache-2.0
"""One rank of the example of mha/distributed/README.md. A module of its own, because processes are made that import it."""

from __future__ import annotations

import os
import re
import runpy
import tempfile
from pathlib import Path
from typing import Any

import cases

import mha
from mha import distributed

README = (Path(distributed.__file__).parent / "README.md").read_text()


def run_example(rank: int, port: int, connection: Any) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(code[1])
        script.flush()
        names = runpy.run_path(script.name)
    whole = mha.Cache(8, 128, 1001, key="bf16", value="bf16")
    for tokens in (slice(None), slice(1)):
        whole.append(names["key"][:, tokens], names["value"][:, tokens])
    wanted = mha.attention(names["query"][:, :1], cache=whole, causal=True)
    connection.send(cases.bits(names["output"]) == cases.bits(wanted))
    connection.recv()
