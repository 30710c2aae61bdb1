# SPDX-License-Identifier: Apache-2.0
"""Decoding over caches of few bits: the inputs as floats and rounded to 16 bits, and the exact result.

How keys and values become codes is each side's own business. So both results are compared with attention over the
floats before rounding, in double, and not with each other."""

from functools import lru_cache

import numpy as np

from arrays import attention_inputs, by_head, empty

# The families, and the largest error, as a fraction of the largest value, that rounding to so many bits explains.
# float16: some sum the weighted values in it, too, which costs more than rounding them and grows with their number.
BOUNDS = {"decode_bf16": 1e-2, "decode_f16": 5e-2, "decode_int8": 3e-2, "decode_int4": 3e-1}
SHAPE = ("Tk", "H", "Hkv", "D")


def heads_first(array: np.ndarray) -> np.ndarray:
    """[B, T, H, D] seen as [B, H, T, D], and back."""
    return array.transpose(0, 2, 1, 3)


@lru_cache(maxsize=1)
def made(*sizes: int) -> list[np.ndarray]:
    arrays = attention_inputs({"Tq": 1, **dict(zip(SHAPE, sizes))})
    return [arrays[0], *(by_head(array) for array in arrays[1:])]


def floats(sizes: dict[str, int]) -> list[np.ndarray]:
    """Query [1, 1, H, D], key and value [1, Tk, Hkv, D], these lying in memory by head."""
    return list(made(*(sizes[name] for name in SHAPE)))


def rounded(array: np.ndarray, family: str) -> np.ndarray:
    """To nearest even: float16, or bfloat16 as uint16. The order in memory stays."""
    source = heads_first(array)
    target = empty(source.shape, np.float16 if family == "decode_f16" else np.uint16)
    if family == "decode_f16":
        target[...] = source
    else:
        bits = np.ascontiguousarray(source).view(np.uint32)
        target[...] = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
    return heads_first(target)


@lru_cache(maxsize=1)
def exact(*sizes: int) -> np.ndarray:
    """softmax(Q K^T / sqrt(D)) V in double, [1, 1, H, D]."""
    query, key, value = made(*sizes)
    heads, width = query.shape[2:]
    group = heads // key.shape[2]
    result = np.empty(query.shape)
    for kv_head in range(key.shape[2]):
        own = slice(kv_head * group, (kv_head + 1) * group)
        scores = query[0, 0, own].astype(np.float64) @ key[0, :, kv_head].astype(np.float64).T / np.sqrt(width)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        result[0, 0, own] = weights @ value[0, :, kv_head].astype(np.float64)
    return result


def error(sizes: dict[str, int], result: np.ndarray) -> float:
    """The largest difference to the exact result / the largest value of that; a NaN counts as infinite."""
    wanted = exact(*(sizes[name] for name in SHAPE))
    gap = float(np.abs(result.reshape(wanted.shape) - wanted).max() / np.abs(wanted).max())
    return gap if np.isfinite(gap) else float("inf")
