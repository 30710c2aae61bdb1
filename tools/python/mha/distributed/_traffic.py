# SPDX-License-Identifier: Apache-2.0
"""How much a rank sends and receives: counted, and calculated for any number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

CHUNK = 256  # keys of one partial result
HEADER_BYTES = 64
_LEAST_FRAME, _ALL_FRAMES = 16 << 10, 16 << 20


@dataclass
class Traffic:
    """What one rank exchanged. calls: calls that all ranks make. steps: exchanges that wait for the one before.

    Messages and bytes count both ways of this rank alone, without what TCP and gloo add.
    """

    calls: int = 0
    steps: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0

    def __sub__(self, earlier: Traffic) -> Traffic:
        return Traffic(*(getattr(self, field.name) - getattr(earlier, field.name) for field in fields(self)))


def frame_bytes(ranks: int) -> int:
    """Bytes of a frame: what fits beside the header into the first message of a call.

    A rank has one buffer of this size for each peer, so with many ranks frames are small.
    """
    return max(_LEAST_FRAME, _ALL_FRAMES // ranks)


def row_range(rows: int, ranks: int, rank: int) -> tuple[int, int]:
    """The rows that a rank merges: from, to."""
    return rows * rank // ranks, rows * (rank + 1) // ranks


def attention_traffic(chunks: Sequence[int], rank: int, *, rows: int, value_head_dim: int, output_bytes: int = 4) -> Traffic:
    """What one attention call of `SplitCache` makes this rank exchange.

    chunks: of each rank: chunks of 256 keys that it holds (causal: those with a key that the last query sees).
    rows: B * H * Tq. output_bytes: of an element of the output.
    """
    ranks = len(chunks)
    frame = frame_bytes(ranks)
    made = Traffic(calls=1)
    if ranks == 1:
        return made
    shares = [end - begin for begin, end in (row_range(rows, ranks, r) for r in range(ranks))]
    row = 4 * (value_head_dim + 2)
    peers = [r for r in range(ranks) if r != rank]
    sent = [chunks[rank] * shares[peer] * row for peer in peers]
    received = [chunks[peer] * shares[rank] * row for peer in peers]
    outputs = [shares[peer] * value_head_dim * output_bytes for peer in peers]
    own_output = shares[rank] * value_head_dim * output_bytes
    made.messages_sent = len(peers) * (1 + (own_output > 0)) + sum(size > frame for size in sent)
    made.messages_received = len(peers) + sum(size > 0 for size in outputs) + sum(size > frame for size in received)
    made.bytes_sent = len(peers) * (HEADER_BYTES + own_output) + sum(sent)
    made.bytes_received = len(peers) * HEADER_BYTES + sum(outputs) + sum(received)
    made.steps = 1 + (max(sent + received) > frame) + (own_output > 0 or max(outputs) > 0)
    return made
