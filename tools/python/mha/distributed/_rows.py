# SPDX-License-Identifier: Apache-2.0
"""Partial results of some rows (of an item, a query head and a query), taken out of those of all rows.

Rows do not depend on each other, so each rank merges a share of them. The partial results of a chunk are, in one array of
floats: Dv sums of each row, then two numbers of each row. mha.h does not promise this layout, so `check_layout` tests it.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from .. import Cache, UnsupportedError, attention_partial, merge_partials

Floats = np.ndarray[Any, np.dtype[np.float32]]


def copy_rows(partials: Floats, rows: tuple[int, int], value_head_dim: int, into: Floats) -> None:
    """Copies rows [rows[0], rows[1]) of partials [chunks, all rows * (Dv + 2)] to into [chunks, these rows * (Dv + 2)]."""
    begin, end = rows
    all_rows = partials.shape[1] // (value_head_dim + 2)
    sums = (end - begin) * value_head_dim
    states = all_rows * value_head_dim
    into[:, :sums] = partials[:, begin * value_head_dim : end * value_head_dim]
    into[:, sums:] = partials[:, states + 2 * begin : states + 2 * end]


def joined_items(items: list[Floats], value_head_dim: int) -> Floats:
    """Partial results of all rows of a batch from those of its items, which the library gives one by one."""
    if len(items) == 1:
        return items[0]
    sums = items[0].shape[1] // (value_head_dim + 2) * value_head_dim
    return np.concatenate([item[:, :sums] for item in items] + [item[:, sums:] for item in items], axis=1)


@functools.cache
def check_layout() -> None:
    """Raises UnsupportedError if the library's partial results cannot be divided by `copy_rows`."""
    width = 8
    numbers = np.random.default_rng(0).standard_normal((2, 300, 2, width), np.float32)
    cache = Cache(2, width, 300)
    cache.append(numbers[:1], numbers[1:])
    query = np.ascontiguousarray(numbers[:1, :2].repeat(2, axis=2))
    partials = attention_partial(query, cache=cache)
    rows = partials.shape[1] // (width + 2)
    whole = merge_partials(partials, query, width).output.transpose(0, 2, 1, 3).reshape(rows, width)
    for begin, end in ((0, 3), (3, rows)):
        some = np.empty((len(partials), (end - begin) * (width + 2)), np.float32)
        copy_rows(partials, (begin, end), width, some)
        merged = merge_partials(some, np.empty((1, 1, end - begin, width), np.float32), width).output[0, 0]
        if merged.tobytes() != whole[begin:end].tobytes():
            raise UnsupportedError("this library has partial results of another layout than mha.distributed knows")
