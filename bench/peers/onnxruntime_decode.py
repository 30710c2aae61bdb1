# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime, decoding over a cache of float16 or of codes. GroupQueryAttention has symmetric codes with scales known
in advance, one for the whole cache or one for each channel of a head; here they come from the cache itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

import decode_inputs
from arrays import empty, widened
from cases import Case
from decode_inputs import heads_first
from onnxruntime_graph import Graph, attention, grouped_query
from peer import Way

if TYPE_CHECKING:
    from onnxruntime_peer import OnnxRuntimePeer


def grouped(case: Case, arrays: list[np.ndarray], past: list[np.ndarray], rows: int,
            scales: list[np.ndarray] | None = None, **attributes: object) -> Graph:  # fmt: skip
    """GroupQueryAttention, which appends as many tokens as there are queries. `rows` > 1: the heads of a group, which
    share keys, as that many queries that see everything; the newest tokens are then appended once more."""
    query, *cache = arrays
    by_row = heads_first(query.reshape(1, case["H"] // rows, rows, case["D"]))
    flat = np.ascontiguousarray(by_row).reshape(1, rows, -1)
    newest = [np.ascontiguousarray(array[:, -rows:]).reshape(1, rows, -1) for array in cache]
    return grouped_query(flat, newest, past, case["H"] // rows, scales, causal=int(rows == 1), **attributes)


def from_rows(case: Case, rows: int, outputs: list[np.ndarray]) -> list[np.ndarray]:
    output = widened(outputs[0]).reshape(1, rows, case["H"] // rows, case["D"])
    return [heads_first(output).reshape(1, 1, case["H"], case["D"])]


def ways(peer: OnnxRuntimePeer, case: Case, how: str, make: Callable[[int], Graph],
         arrays: list[np.ndarray]) -> list[Callable[[], Way]]:  # fmt: skip
    """For one row and, where heads have groups, for a row each."""
    return [partial(peer.way, how + (", group as rows" if rows > 1 else ""), partial(make, rows), arrays,
                    partial(from_rows, case, rows)) for rows in dict.fromkeys((1, case["H"] // case["Hkv"]))
            ]  # fmt: skip


def float16(peer: OnnxRuntimePeer, case: Case) -> list[Callable[[], Way]]:
    """These operators want query, keys and values of one type, so all are of 16 bits, and the result is."""
    query, key, value = arrays = [decode_inputs.rounded(array, case.family)
                                  for array in decode_inputs.floats(case.sizes)]  # fmt: skip
    cache = [heads_first(array) for array in (key, value)]

    def standard() -> Graph:
        return attention(query.reshape(1, case["Hkv"], -1, case["D"]), *cache)

    def as_floats(outputs: list[np.ndarray]) -> list[np.ndarray]:
        return [widened(outputs[0]).reshape(query.shape)]

    return [
        *ways(peer, case, "GroupQueryAttention, float16", partial(grouped, case, arrays, cache), arrays),
        partial(peer.way, "Attention, float16, group as rows", standard, arrays, as_floats),
    ]


def rounded_to_codes(array: np.ndarray, bits: int, by_channel: bool) -> tuple[np.ndarray, np.ndarray]:
    """Codes [1, Hkv, T, D] and their scales; 4 bits: c + 8 of two channels in a byte, the lower one's first."""
    most = 2 ** (bits - 1) - 1
    source = heads_first(array)
    limits = np.abs(source).max(axis=2, keepdims=True) if by_channel else np.abs(source).max().reshape(1)
    scales = (limits / most).astype(np.float32)
    codes = np.clip(np.rint(source / scales), -most - 1, most).astype(np.int8)
    if bits == 4:
        shifted = (codes + 8).astype(np.uint8)
        codes = shifted[..., 0::2] | shifted[..., 1::2] << 4
    stored = empty(codes.shape, codes.dtype.type)
    stored[...] = codes
    return stored, scales


def codes(peer: OnnxRuntimePeer, case: Case) -> list[Callable[[], Way]]:
    arrays = decode_inputs.floats(case.sizes)
    bits = 8 if case.family == "decode_int8" else 4

    def make(granularity: str, rows: int) -> Graph:
        pairs = [rounded_to_codes(array, bits, granularity == "PER_CHANNEL") for array in arrays[1:]]
        past, scales = (list(each) for each in zip(*pairs))
        return grouped(case, arrays, past, rows, scales, k_quant_type=granularity, v_quant_type=granularity,
                       kv_cache_bit_width=bits)  # fmt: skip

    return [way for granularity in ("PER_TENSOR", "PER_CHANNEL")
            for way in ways(peer, case, f"GroupQueryAttention, {granularity}", partial(make, granularity), arrays)
            ]  # fmt: skip
