# SPDX-License-Identifier: Apache-2.0
"""A rank that dies, stops or differs is an error on the others, in bounded time, and nothing hangs."""

from __future__ import annotations

import os
import signal
from typing import Any

import faults
import pytest
import torch.distributed as dist
from launch import Running, run

import mha
from mha import distributed

LATE = 40.0  # seconds that a busy machine may add to a timeout: what hangs takes longer than any of these


@pytest.mark.parametrize(("number", "timeout"), [(signal.SIGKILL, 60.0), (signal.SIGSTOP, 2.0)])
def test_a_rank_that_dies_or_stops_while_others_wait(number: int, timeout: float) -> None:
    with Running(4, faults.signalled, number, timeout=timeout) as running:
        outcomes = running.outcomes(timeout + LATE) if number == signal.SIGKILL else [running.outcome(rank) for rank in (0, 1, 3)]
        if number == signal.SIGSTOP:
            os.kill(running.processes[faults.VICTIM].pid or 0, signal.SIGCONT)
            resumed = running.outcome(faults.VICTIM)  # the others have given up
            assert resumed.value[0][0] == "RankError" and resumed.value[1] < timeout + LATE
    others = [outcome for rank, outcome in enumerate(outcomes) if rank != faults.VICTIM or number == signal.SIGSTOP]
    assert len(others) == 3
    for outcome in others:
        assert not outcome.error, outcome.text
        (name, text, peer, step, stated), seconds, later, seconds_later = outcome.value
        assert name == "RankError" and step == "header" and stated == timeout
        assert "step 'header'" in text and f"timeout {timeout:g} s" in text and f"rank {peer}" in text
        assert seconds < timeout + LATE
        if number == signal.SIGKILL:
            assert seconds < timeout  # a closed connection is seen before that
        for found in later:
            assert found[0] == "RankError" and "refused, because an earlier call failed" in found[1]
        assert seconds_later < LATE  # they are refused, and wait for nobody
    assert any(outcome.value[0][2] == faults.VICTIM for outcome in others)


@pytest.mark.parametrize("case", [faults.dies_before_the_outputs, faults.dies_before_the_cache, faults.fails_between_the_steps])
def test_a_rank_that_fails_at_other_places(case: Any) -> None:
    timeout = 2.0
    with Running(4, case, timeout=timeout) as running:
        outcomes = running.outcomes(timeout + LATE)
    for rank, outcome in enumerate(outcomes):
        if rank == faults.VICTIM and case is not faults.fails_between_the_steps:
            continue
        assert not outcome.error and outcome.value[0] == "RankError", outcome
        assert outcome.seconds < timeout + LATE
        if rank == faults.VICTIM:
            assert "refused, because" in outcome.value[1] and "no memory" in outcome.value[1]
        elif case is not faults.dies_before_the_cache:
            assert outcome.value[3] == "outputs"


# What rank 1 does otherwise: the error of the other ranks and a part of its text, and those of rank 1.
DIFFER: dict[str, tuple[str, str, str, str]] = {
    "shape": ("MismatchError", "attention of query float32[1, 3, 6, 32]", "MismatchError", "[1, 1, 6, 32]"),
    "large shape": ("MismatchError", "[1, 500, 6, 32]", "MismatchError", "[1, 1, 6, 32]"),
    "values": ("MismatchError", "the ranks differ", "MismatchError", "the ranks differ"),
    "options": ("MismatchError", "softcap=3.0", "MismatchError", "softcap=4.0"),
    "arrays of options": ("MismatchError", "sink_logits=float32[6]#", "MismatchError", "sink_logits=float32[6]#"),
    "call": ("MismatchError", "append_shard", "MismatchError", "attention"),
    "type of one": ("MismatchError", "rank 1 refused its arguments: TypeError: query is float64", "TypeError", "float64"),
    "option of one": ("MismatchError", "rank 1 refused its arguments: ArgumentError", "ArgumentError", "window_left"),
    "block mask": ("UnsupportedError", "block_mask is not implemented", "UnsupportedError", "block_mask"),
    "packed": ("UnsupportedError", "query_offsets is not implemented", "UnsupportedError", "query_offsets"),
    "mask": ("ValueError", "[1, heads, 1, 900]", "ValueError", "mask has the shape (899,)"),
    "queries of a bit mask": ("ValueError", "[1, heads, 1, 113 bytes]", "ValueError", "bit_mask has the shape (2, 113)"),
    "items of a mask": ("ValueError", "[1, heads, 1, 900]", "ValueError", "mask2 has the shape (3, 1, 1, 900)"),
    "items of a bit mask": ("ValueError", "[1, heads, 1, 113 bytes]", "ValueError", "bit_mask has the shape (3, 1, 1, 113)"),
    "output": ("ValueError", "dtype is 'i4'", "ValueError", "dtype is 'i4'"),
    "codes as a query": ("TypeError", "query is int8", "TypeError", "query is int8"),
    "table of rope": ("MismatchError", "the ranks differ", "MismatchError", "the ranks differ"),
    "batch": ("ValueError", "the context has 1 items", "ValueError", "query has the shape"),
    "full": ("CacheFullError", "no room", "CacheFullError", "no room"),
    "width": ("ValueError", "2 heads of 32", "ValueError", "2 heads of 32"),
    "shards after a part of a chunk": ("ValueError", "there are 900 tokens", "ValueError", "there are 900 tokens"),
    "config": ("MismatchError", "(1, 8, 256, 512,", "MismatchError", "(1, 8, 256, 256,"),
    "target": ("MismatchError", "with the bits of sse2", "MismatchError", "with the bits of all FMA targets"),
    "capacity": ("ValueError", "capacity is 300", "ValueError", "capacity is 300"),
}


def test_arguments_that_differ_or_are_refused_are_errors_on_all_ranks() -> None:
    with Running(4, faults.differ, timeout=120.0) as running:
        outcomes = running.outcomes(150)
    for rank, outcome in enumerate(outcomes):
        assert not outcome.error, f"{outcome.error}: {outcome.text}"
        assert outcome.value.keys() == DIFFER.keys()
        for what, (found, said, usable) in outcome.value.items():
            if what == "target" and mha.targets()[-1] != "sse2":
                continue  # all of this CPU's targets have the same bits
            wanted = DIFFER[what][2:] if rank == 1 else DIFFER[what][:2]
            assert found == wanted[0] and wanted[1] in said, f"{what}: {found}: {said}"
            assert usable, what
        assert outcome.seconds < 120  # no call waited until its timeout


@pytest.mark.parametrize("size", [1, 2])
def test_a_table_of_rope_that_is_too_short_for_one_rank_is_refused_by_all(size: int) -> None:
    for text, lengths, failed in run(size, faults.short_table):
        table = 256 * size
        assert text == f"rope has a table of {table - 1} positions, but the context gets {table} tokens" or size == 1
        assert text and lengths == [0] * size and not failed


def test_lengths_that_differ() -> None:
    with Running(4, faults.tokens_differ, timeout=60.0) as running:
        outcomes = running.outcomes(100)
    for outcome in outcomes:
        first, failed = outcome.value
        assert first[0] == "MismatchError" and "601 tokens" in first[1] and "600 tokens" in first[1]
        assert not failed


def test_what_ranks_need() -> None:
    with pytest.raises(ValueError, match="timeout is 0"):
        distributed.Ranks(timeout=0)
    assert not dist.is_initialized()
    with pytest.raises(ValueError, match="not initialised"):
        distributed.Ranks()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_traffic_is_as_calculated(size: int) -> None:
    for frames in run(size, faults.count):
        for small, found in enumerate(frames):
            for same, made, wanted in found:
                assert same and made == wanted
                assert made.steps == (0 if size == 1 else 2 + small)
