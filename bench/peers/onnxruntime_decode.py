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


def flat_newest(array: np.ndarray) -> np.ndarray:
    """The last token of [1, T, Hkv, D] as [1, 1, Hkv * D]."""
    return np.ascontiguousarray(array[:, -1:]).reshape(1, 1, -1)


def rows_of(query: np.ndarray, kv_heads: int) -> np.ndarray:
    """The one query's heads of a group, which share keys, as rows of one head."""
    return query.reshape(1, kv_heads, -1, query.shape[-1])


def as_floats(shape: tuple[int, ...], outputs: list[np.ndarray]) -> list[np.ndarray]:
    return [widened(outputs[0]).reshape(shape)]


def float16(peer: OnnxRuntimePeer, case: Case) -> list[Callable[[], Way]]:
    """These operators want query, keys and values of one type, so all are of 16 bits, and the result is."""
    query, key, value = arrays = [decode_inputs.rounded(array, case.family)
                                  for array in decode_inputs.floats(case.sizes)]  # fmt: skip
    cache = [heads_first(array) for array in (key, value)]

    def grouped() -> Graph:
        return grouped_query(query.reshape(1, 1, -1), [flat_newest(key), flat_newest(value)], cache, case["H"])

    results = partial(as_floats, query.shape)
    return [
        partial(peer.way, "GroupQueryAttention, float16", grouped, arrays, results),
        partial(peer.way, "Attention, float16, group as rows",
                lambda: attention(rows_of(query, case["Hkv"]), *cache), arrays, results),
    ]  # fmt: skip


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
    query, key, value = arrays = decode_inputs.floats(case.sizes)
    bits = 8 if case.family == "decode_int8" else 4

    def grouped(granularity: str) -> Graph:
        pairs = [rounded_to_codes(array, bits, granularity == "PER_CHANNEL") for array in (key, value)]
        past, scales = (list(each) for each in zip(*pairs))
        return grouped_query(query.reshape(1, 1, -1), [flat_newest(key), flat_newest(value)], past, case["H"], scales,
                             k_quant_type=granularity, v_quant_type=granularity, kv_cache_bit_width=bits)  # fmt: skip

    results = partial(as_floats, query.shape)
    return [partial(peer.way, f"GroupQueryAttention, {granularity}", partial(grouped, granularity), arrays, results)
            for granularity in ("PER_TENSOR", "PER_CHANNEL")]  # fmt: skip
