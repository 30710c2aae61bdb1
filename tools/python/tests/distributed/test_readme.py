# SPDX-License-Identifier: Apache-2.0
"""The example of mha/distributed/README.md runs, and its table of bytes and steps is what attention_traffic calculates."""

from __future__ import annotations

import importlib.util
import multiprocessing
import re
import socket
from pathlib import Path

from example import run_example

from mha import distributed

README = (Path(distributed.__file__).parent / "README.md").read_text()


def test_example() -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    pipes = [context.Pipe() for _ in range(2)]
    processes = [context.Process(target=run_example, args=(rank, port, pipes[rank][1]), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    try:
        assert all(pipe.poll(50) and pipe.recv() for pipe, _ in pipes)
    finally:
        for pipe, _ in pipes:
            pipe.send("end")
        for process in processes:
            process.join(5)
            process.kill()


def test_table() -> None:
    path = Path(__file__).parents[2] / "bench" / "split_context.py"
    spec = importlib.util.spec_from_file_location("split_context", path)
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    rows = re.findall(r"^\| (\d+) \| .* \| (measured|calculated) \|$", README, re.MULTILINE)
    assert [int(size) for size, _ in rows] == [1, 2, 4, *bench.CALCULATED]
    for text, how in rows:
        assert how == ("measured" if int(text) <= 4 else "calculated")
        chunks = bench.chunks_of(262144, int(text))
        traffic = [distributed.attention_traffic(chunks, rank, rows=bench.HEADS, value_head_dim=bench.DIM) for rank in range(int(text))]
        assert bench.row_of(int(text), 262144, traffic, how) in README
