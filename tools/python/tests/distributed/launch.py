# SPDX-License-Identifier: Apache-2.0
"""Runs a function on every rank of a group, each rank a process of its own, and ends them all in bounded time."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Self

_START = 60.0  # seconds for processes to begin and find each other on a busy machine


class Outcome(NamedTuple):
    """What became of a rank: value, or error ("RankError") and its text; or neither, where it died or was ended.
    seconds: that the function took."""

    value: Any
    error: str
    text: str
    seconds: float


def _rank(
    function: Callable[..., Any], rank: int, size: int, store: str, timeout: float, connection: Any, arguments: tuple[Any, ...]
) -> None:
    import torch
    import torch.distributed as dist

    import mha
    from mha import distributed

    torch.set_num_threads(1)
    mha.set_default_context(mha.Context(1))
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=_START))
    ranks = distributed.Ranks(timeout=timeout)
    dist.barrier()
    connection.send("ready")
    begin = time.monotonic()
    try:
        value = function(ranks, *arguments)
        outcome = Outcome(value, "", "", time.monotonic() - begin)
    except Exception as error:  # noqa: BLE001  # any: the parent reports it
        outcome = Outcome(None, type(error).__name__, str(error), time.monotonic() - begin)
    connection.send(outcome)
    connection.recv()  # stay until all have an outcome: the end of a process is an error for its peers


class Running:
    """Ranks that run a function. Use it in a with statement, which ends what is left of them."""

    def __init__(self, size: int, function: Callable[..., Any], *arguments: Any, timeout: float = 30.0) -> None:
        # A server that has imported torch once, and has no threads, makes the processes.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch.distributed", "mha.distributed", "cases"])
        self._folder = tempfile.TemporaryDirectory()
        store = str(Path(self._folder.name) / "store")
        self.processes, self._connections = [], []
        for rank in range(size):
            mine, theirs = context.Pipe()
            process = context.Process(target=_rank, args=(function, rank, size, store, timeout, theirs, arguments), daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self._connections.append(mine)
        for rank in range(size):
            assert self._next(rank, _START) == "ready"

    def _next(self, rank: int, seconds: float) -> Any:
        if not self._connections[rank].poll(seconds):
            return None
        try:
            return self._connections[rank].recv()
        except (EOFError, ConnectionResetError):
            return None

    def outcome(self, rank: int, seconds: float = 60.0) -> Outcome:
        """Of one rank; an empty one if it has none by then."""
        return self._next(rank, seconds) or Outcome(None, "", "", seconds)

    def outcomes(self, seconds: float = 60.0) -> list[Outcome]:
        """Of all ranks; a rank that has none by then gets an empty one."""
        end = time.monotonic() + seconds
        return [self.outcome(rank, max(0.0, end - time.monotonic())) for rank in range(len(self.processes))]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            try:
                connection.send("end")
            except OSError:
                continue
        for process in self.processes:
            process.join(0.2)
            if process.is_alive():
                process.kill()
                process.join()
        self._folder.cleanup()


def run(size: int, function: Callable[..., Any], *arguments: Any, timeout: float = 30.0) -> list[Any]:
    """The values of a function that succeeds on all ranks."""
    with Running(size, function, *arguments, timeout=timeout) as running:
        outcomes = running.outcomes()
    for rank, outcome in enumerate(outcomes):
        assert not outcome.error, f"rank {rank}: {outcome.error}: {outcome.text}"
    return [outcome.value for outcome in outcomes]
