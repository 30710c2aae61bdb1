# SPDX-License-Identifier: Apache-2.0
"""Decoding over caches of few bits: the inputs as floats and rounded to 16 bits."""

from functools import lru_cache

import numpy as np

from arrays import attention_inputs, bfloat16, by_head, empty_like

FAMILIES = ("decode_bf16", "decode_f16", "decode_int8", "decode_int4")
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
    if family != "decode_f16":
        return bfloat16(array)
    target = empty_like(array, np.float16)
    target[...] = array
    return target
