# SPDX-License-Identifier: Apache-2.0
"""What the ranks of the failure tests run: ranks that die, stop, differ, or refuse their arguments."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from cases import DIM, HEADS, Pair, bits, query_of, random

import mha
from mha import distributed
from mha.distributed import _attention, _ranks, _traffic

VICTIM = 2


def attend(pair: Pair) -> Any:
    return pair.split.attention(query_of(1, 1), causal=True)


def signalled(ranks: distributed.Ranks, number: int) -> Any:
    """The victim gets a signal while the others wait for it. Afterwards they call again."""
    pair = Pair(ranks)
    pair.append(1000)
    attend(pair)
    if ranks.rank == VICTIM:
        time.sleep(0.5)
        os.kill(os.getpid(), number)
    begin = time.monotonic()
    first = failure_of(lambda: attend(pair))
    seconds = time.monotonic() - begin
    key, value = pair.next(1)
    later = [
        failure_of(call)
        for call in (
            lambda: attend(pair),
            lambda: pair.split.append(key, value),
            lambda: pair.split.append_shard(key, value),
            lambda: pair.split.truncate(0),
            lambda: distributed.SplitCache(1, 8, 256, ranks=ranks),
        )
    ]
    return first, seconds, later, time.monotonic() - begin - seconds


def failure_of(call: Callable[[], Any]) -> tuple[str, str, int, str, float]:
    try:
        call()
    except distributed.RankError as error:
        return type(error).__name__, str(error), error.peer, error.step, error.timeout
    return "", "", -1, "", 0.0


def dies_before_the_outputs(ranks: distributed.Ranks) -> Any:
    pair = Pair(ranks)
    pair.append(1000)
    if ranks.rank == VICTIM:
        _ranks.Call.share = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign, assignment]
    return failure_of(lambda: attend(pair))


def dies_before_the_cache(ranks: distributed.Ranks) -> Any:
    if ranks.rank == VICTIM:
        os.kill(os.getpid(), signal.SIGKILL)
    return failure_of(lambda: Pair(ranks))


def fails_between_the_steps(ranks: distributed.Ranks) -> Any:
    """The victim has no memory for the merge: it raises its own error, and is out of step from then on."""
    pair = Pair(ranks)
    pair.append(1000)
    if ranks.rank == VICTIM:

        def fail(*_: Any, **__: Any) -> Any:
            raise mha.OutOfMemoryError("no memory")

        _attention.merge_partials = fail
        try:
            attend(pair)
        except mha.OutOfMemoryError:
            return failure_of(lambda: attend(pair))
    return failure_of(lambda: attend(pair))


def differ(ranks: distributed.Ranks) -> Any:
    """One rank calls with something else: the name and text of this rank's errors, and whether a later call is right."""
    pair = Pair(ranks)
    pair.append(900)
    found = {}
    for what, call in calls_that_differ(pair, ranks.rank).items():
        try:
            call()
            error, text = "", ""
        except Exception as raised:  # noqa: BLE001  # the test looks at it
            error, text = type(raised).__name__, str(raised)
        pair.compare("later", query_of(1, 1), causal=True)
        found[what] = error, text, not pair.failed and pair.split.length == 900
    return found


def calls_that_differ(pair: Pair, rank: int) -> dict[str, Callable[[], Any]]:
    ranks, odd = pair.split.ranks, rank == 1
    query: Any = query_of(1, 1)
    key, value = pair.next(100)
    return {
        "shape": lambda: pair.split.attention(query_of(1, 3) if odd else query),
        "large shape": lambda: pair.split.attention(query_of(1, 500) if odd else query),
        "values": lambda: pair.split.attention(query * 2 if odd else query),
        "options": lambda: pair.split.attention(query, softcap=3.0 if odd else 4.0),
        "arrays of options": lambda: pair.split.attention(query, sink_logits=random(rank, HEADS)),
        "call": lambda: pair.split.append_shard(key[:, :0], value[:, :0]) if odd else pair.split.attention(query),
        "type of one": lambda: pair.split.attention(query.astype(np.float64) if odd else query),
        "option of one": lambda: pair.split.attention(query, window_left=-1 if odd else 5),
        "block mask": lambda: pair.split.attention(query, block_mask=mha.BlockMask(1, 1, [[0, 0]])),
        "packed": lambda: pair.split.attention(query, query_offsets=[0, 1]),
        "mask": lambda: pair.split.attention(query, mask=np.ones(899, bool)),
        "queries of a bit mask": lambda: pair.split.attention(query, bit_mask=np.zeros((2, 113), np.uint8)),
        "items of a mask": lambda: pair.split.attention(query, mask2=np.zeros((3, 1, 1, 900), np.float32)),
        "items of a bit mask": lambda: pair.split.attention(query, bit_mask=np.zeros((3, 1, 1, 113), np.uint8)),
        "output": lambda: pair.split.attention(query, dtype="i4"),  # type: ignore[arg-type]
        "codes as a query": lambda: pair.split.attention(query.astype(np.int8)),
        "table of rope": lambda: pair.split.append_shard(key[:, :0], value[:, :0], rope=table_of(1024, 500 if odd else None)),
        "batch": lambda: pair.split.attention(query_of(2, 1)),
        "full": lambda: pair.split.append(random(1, 1, 2000, 2, DIM), random(1, 1, 2000, 2, 16)),
        "width": lambda: pair.split.append(key[..., :-1].copy(), value),
        "shards after a part of a chunk": lambda: pair.split.append_shard(key, value),
        "config": lambda: distributed.SplitCache(1, 8, 256, ranks=ranks, share=512 if odd else 256),
        "target": lambda: distributed.SplitCache(1, 8, 256, ranks=ranks, context=mha.Context(1, mha.targets()[-1] if odd else None)),
        "capacity": lambda: distributed.SplitCache(1, 8, 300, ranks=ranks),
    }


def table_of(positions: int, changed: int | None = None) -> mha.Rope:
    cos, sin = mha.rope_table(mha.Rope(), DIM, positions)
    if changed is not None:
        cos[changed] = 0
    return mha.Rope(cos=cos, sin=sin)


def short_table(ranks: distributed.Ranks) -> Any:
    """Tables of rope that have the places of the first rank's tokens, and not those of the last one's."""
    pair = Pair(ranks)
    counts = [256] * ranks.size
    try:
        pair.append_shards(counts, rope=table_of(256 * ranks.size - 1))
        text = ""
    except ValueError as error:
        text = str(error)
    lengths = pair.split.lengths
    pair.append_shards(counts, rope=table_of(256 * ranks.size))
    pair.compare("later", query_of(1, 2), causal=True)
    return text, lengths, pair.failed


def tokens_differ(ranks: distributed.Ranks) -> Any:
    """One rank appends a token more."""
    pair = Pair(ranks)
    pair.append(601 if ranks.rank == 1 else 600)
    first = failure_of(lambda: attend(pair))
    pair.split.truncate(600)
    pair.whole.truncate(0, 600)
    pair.compare("later", query_of(1, 1), causal=True)
    return first, pair.failed


def count(ranks: distributed.Ranks) -> Any:
    """What calls exchanged, and what attention_traffic says of them; then with frames that are too small for the data."""
    found = [exchanged(ranks)]
    _ranks.frame_bytes = _traffic.frame_bytes = lambda _: 100
    return [*found, exchanged(distributed.Ranks(timeout=ranks.timeout))]


def exchanged(ranks: distributed.Ranks) -> Any:
    pair = Pair(ranks, capacity=1024)
    pair.append(900)
    found = []
    for queries, dtype in ((1, "f32"), (1, "f16"), (7, "f32")):
        query = query_of(1, queries)
        before = ranks.traffic
        got = pair.split.attention(query, dtype=dtype)
        made = ranks.traffic - before
        same = bits(got) == bits(mha.attention(query, cache=pair.whole, dtype=dtype))
        chunks = pair.split.chunks
        size = 2 if dtype == "f16" else 4
        wanted = distributed.attention_traffic(chunks, ranks.rank, rows=HEADS * queries, value_head_dim=16, output_bytes=size)
        found.append((same, made, wanted))
    return found
