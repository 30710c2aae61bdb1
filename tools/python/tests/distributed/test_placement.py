# SPDX-License-Identifier: Apache-2.0
"""Where tokens are, after any calls; and the rows that ranks merge."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

import mha
from mha.distributed._placement import Placement
from mha.distributed._traffic import row_range

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("grow"), st.integers(0, 1500)),
        st.tuples(st.just("shards"), st.lists(st.sampled_from([0, 0, 256, 512, 1024, 1, 300]), min_size=4, max_size=4)),
        st.tuples(st.just("cut"), st.floats(0, 1)),
    ),
    max_size=12,
)


@given(ranks=st.integers(1, 4), chunks=st.integers(1, 12), share=st.integers(1, 12), steps=STEPS)
def test_tokens_are_placed_once_and_in_whole_chunks(ranks: int, chunks: int, share: int, steps: list[Any]) -> None:
    capacity, length = 256 * chunks, 0
    placement = Placement(ranks, capacity, 256 * min(share, chunks))
    for what, amount in steps:
        try:
            if what == "grow":
                made, length = placement.grown(amount), length + amount
            elif what == "shards":
                made, length = placement.with_shards(amount[:ranks]), length + sum(amount[:ranks])
            else:
                length = int(length * amount)
                made = placement.cut(length)
        except (mha.CacheFullError, ValueError) as error:
            length = placement.length
            if what == "grow":  # refused only where there is no room
                assert isinstance(error, mha.CacheFullError) and length + amount > ranks * capacity
            continue
        placement = made
        check(placement, length, capacity)


def check(placement: Placement, length: int, capacity: int) -> None:
    assert placement.length == length
    end = 0
    for n, segment in enumerate(placement.segments):
        assert segment.start == end and segment.start % 256 == 0 and segment.room % 256 == 0
        assert 0 < segment.length <= segment.room
        assert segment.length % 256 == 0 or n == len(placement.segments) - 1
        end = segment.end
    assert end == length
    assert all(placement.free(rank) >= 0 for rank in range(placement.ranks))
    for visible in {0, length // 3, length}:
        numbers = placement.chunk_numbers(visible)
        assert sorted(itertools.chain.from_iterable(numbers)) == list(range(-(-visible // 256)))
        assert [len(chunks) for chunks in numbers] == placement.chunks(visible)


@given(rows=st.integers(0, 100), ranks=st.integers(1, 40))
def test_every_row_is_merged_by_one_rank(rows: int, ranks: int) -> None:
    ranges = [row_range(rows, ranks, rank) for rank in range(ranks)]
    assert [row for begin, end in ranges for row in range(begin, end)] == list(range(rows))
    sizes = [end - begin for begin, end in ranges]
    assert max(sizes) - min(sizes) <= 1


def test_tokens_take_turns() -> None:
    placement = Placement(2, 1024, 256).grown(700).grown(1000)
    assert [(segment.rank, segment.length) for segment in placement.segments] == [
        (0, 256), (1, 256), (0, 256), (1, 256), (0, 256), (1, 256), (0, 164)
    ]  # fmt: skip
    assert [segment.length for segment in Placement(2, 1024, 1024).grown(1500).segments] == [1024, 476]
    assert [segment.length for segment in Placement(1, 1024, 256).grown(700).segments] == [700]
