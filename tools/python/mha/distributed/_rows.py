# SPDX-License-Identifier: Apache-2.0
"""Partial results of some rows (of an item, a query head and a query), taken out of those of all rows.

Rows do not depend on each other, so each rank merges a share of them. The partial results of a chunk are, in one array of
floats: Dv sums of each row, then two numbers of each row (mha_attention_partial).
"""

from __future__ import annotations

from typing import Any

import numpy as np

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
