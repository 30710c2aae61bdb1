# SPDX-License-Identifier: Apache-2.0
"""Which rank holds which tokens. Every rank keeps the same table, so that lengths need not travel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .. import CacheFullError
from ._traffic import CHUNK


def chunks_of(tokens: int) -> int:
    return -(-tokens // CHUNK)


@dataclass(frozen=True)
class Segment:
    """Tokens [start, start + length) of the context, on one rank. Starts are multiples of 256, and so is the length of each
    segment that another one follows. room: the tokens that it can grow to, a multiple of 256."""

    rank: int
    start: int
    length: int
    room: int

    @property
    def end(self) -> int:
        return self.start + self.length

    def visible(self, end: int) -> int:
        """How many of its chunks have a token before `end`."""
        return chunks_of(max(0, min(self.end, end) - self.start))


class Placement:
    """A table of segments that does not change; growing and cutting make new ones.

    capacity: tokens a rank. share: tokens that one rank takes before the next one's turn. Both are multiples of 256.
    """

    def __init__(self, ranks: int, capacity: int, share: int, segments: tuple[Segment, ...] = ()) -> None:
        self.ranks, self.capacity, self.share, self.segments = ranks, capacity, share, segments
        self.length = segments[-1].end if segments else 0

    def _with(self, segments: Sequence[Segment]) -> Placement:
        return Placement(self.ranks, self.capacity, self.share, tuple(segments))

    def free(self, rank: int) -> int:
        return self.capacity - sum(segment.room for segment in self.segments if segment.rank == rank)

    def chunks(self, end: int) -> list[int]:
        """How many chunks of each rank have a token before `end`."""
        found = [0] * self.ranks
        for segment in self.segments:
            found[segment.rank] += segment.visible(end)
        return found

    def chunk_numbers(self, end: int) -> list[list[int]]:
        """The same chunks by their number in the context, ascending, of each rank."""
        found: list[list[int]] = [[] for _ in range(self.ranks)]
        for segment in self.segments:
            first = segment.start // CHUNK
            found[segment.rank].extend(range(first, first + segment.visible(end)))
        return found

    def grown(self, tokens: int) -> Placement:
        """With more tokens: the last segment grows until it is full, then the next rank begins a new one. CacheFullError."""
        made = self
        while tokens > 0:
            segments = list(made.segments)
            if not segments or segments[-1].length == segments[-1].room:
                rank = made._next_rank(tokens)
                room = made.free(rank) if made.ranks == 1 else min(made.share, made.free(rank))
                segments.append(Segment(rank, made.length, 0, room))
            last = segments[-1]
            taken = min(tokens, last.room - last.length)
            segments[-1] = replace(last, length=last.length + taken)
            tokens -= taken
            made = made._with(segments)
        return made

    def _next_rank(self, tokens: int) -> int:
        first = (self.segments[-1].rank + 1) % self.ranks if self.segments else 0
        for step in range(self.ranks):
            rank = (first + step) % self.ranks
            if self.free(rank) > 0:
                return rank
        raise CacheFullError(
            f"the ranks have no room for {tokens} more tokens: {self.ranks} ranks of {self.capacity} tokens hold {self.length}"
        )

    def with_shards(self, counts: Sequence[int]) -> Placement:
        """With counts[r] more tokens on rank r, those of rank 0 first. ValueError, CacheFullError."""
        given = [rank for rank, count in enumerate(counts) if count > 0]
        if given and self.length % CHUNK:
            raise ValueError(f"append_shard needs whole chunks of {CHUNK} tokens before it, but there are {self.length} tokens")
        for rank in given[:-1]:
            if counts[rank] % CHUNK:
                raise ValueError(f"rank {rank} gives {counts[rank]} tokens, but all except the last must give a multiple of {CHUNK}")
        segments = list(self.segments)
        if given and segments:  # nothing grows behind which another segment follows
            segments[-1] = replace(segments[-1], room=segments[-1].length)
        made = self._with(segments)
        for rank in given:
            whole = chunks_of(counts[rank]) * CHUNK
            if whole > made.free(rank):
                raise CacheFullError(f"rank {rank} gives {counts[rank]} tokens, but has room for {made.free(rank)} of {self.capacity}")
            room = whole if rank != given[-1] else max(whole, min(self.share, made.free(rank)))
            made = made._with([*made.segments, Segment(rank, made.length, counts[rank], room)])
        return made

    def cut(self, length: int) -> Placement:
        """Without the tokens from `length` on."""
        kept = [segment for segment in self.segments if segment.start < length]
        if kept:
            kept[-1] = replace(kept[-1], length=min(kept[-1].length, length - kept[-1].start))
        return self._with(kept)

    def __repr__(self) -> str:
        return " ".join(f"{segment.start}+{segment.length}@{segment.rank}" for segment in self.segments) or "empty"
