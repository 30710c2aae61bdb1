# SPDX-License-Identifier: Apache-2.0
"""Inputs: reproducible, at multiples of 64 bytes, in the layout that a peer likes best.

Heads are always seen as [B, T, H, D], the library's order; how they lie in memory is told by numpy's strides, which
libmha takes as they are. So both sides read the very same bytes."""

import math

import numpy as np

UNIT_VARIANCE = math.sqrt(3)  # bound of a uniform distribution with variance 1, as in mha_bench


def empty(shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """An array at a multiple of 64 bytes."""
    count = math.prod(shape)
    block = np.empty(count * np.dtype(dtype).itemsize + 64, np.uint8)
    start = -block.ctypes.data % 64
    return block[start : start + count * np.dtype(dtype).itemsize].view(dtype).reshape(shape)


def aligned(array: np.ndarray) -> np.ndarray:
    """A dense copy of it at a multiple of 64 bytes."""
    copy = empty(array.shape, array.dtype.type)
    copy[...] = array
    return copy


def uniform(shape: tuple[int, ...], bound: float, seed: int) -> np.ndarray:
    """Uniform in [-bound, bound); `seed` decides the values."""
    values = empty(shape)
    np.random.default_rng(seed).random(out=values, dtype=np.float32)
    values *= 2 * bound
    values -= bound
    return values


def by_head(array: np.ndarray) -> np.ndarray:
    """[B, T, H, D] as before, but lying in memory as [B, H, T, D], torch's order."""
    return aligned(array.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)


def empty_like(array: np.ndarray, dtype: type | None = None) -> np.ndarray:
    """An uninitialised array of its shape, its type (or another) and its order in memory."""
    dtype = dtype or array.dtype.type
    if array.flags.c_contiguous:
        return empty(array.shape, dtype)
    batch, length, heads, width = array.shape
    return empty((batch, heads, length, width), dtype).transpose(0, 2, 1, 3)


def bfloat16(array: np.ndarray) -> np.ndarray:
    """Floats rounded to nearest even, as uint16 (see widened); the order in memory stays."""
    bits = array.view(np.uint32)
    rounded = empty_like(array, np.uint16)
    rounded[...] = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
    return rounded


def widened(array: np.ndarray) -> np.ndarray:
    """As floats. numpy has no bfloat16: its numbers are uint16, the upper halves of floats."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32, copy=False)


def attention_inputs(sizes: dict[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Query, key and value, dense [B, T, H, D] with B = 1."""
    query = uniform((1, sizes["Tq"], sizes["H"], sizes["D"]), UNIT_VARIANCE, 1)
    key, value = (uniform((1, sizes["Tk"], sizes["Hkv"], sizes["D"]), UNIT_VARIANCE, seed) for seed in (2, 3))
    return query, key, value


def linear_inputs(sizes: dict[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input [M, K], weight [N, K], bias [N]."""
    bound = UNIT_VARIANCE / math.sqrt(sizes["K"])
    return (uniform((sizes["M"], sizes["K"]), UNIT_VARIANCE, 1), uniform((sizes["N"], sizes["K"]), bound, 2),
            uniform((sizes["N"],), 1, 3))  # fmt: skip


def gaussian(shape: tuple[int, ...], deviation: float, seed: int) -> np.ndarray:
    values = empty(shape)
    np.random.default_rng(seed).standard_normal(out=values, dtype=np.float32)
    values *= deviation
    return values


OUTLIERS = 128  # one input channel in so many is 30 times as large as the others, as in language models


def coded_linear_inputs(sizes: dict[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of linears whose weights become codes: input [M, K], weight [N, K], bias [N], gaussian."""
    source = gaussian((sizes["M"], sizes["K"]), 1, 1)
    if sizes.get("outliers"):
        source[:, OUTLIERS // 2 :: OUTLIERS] *= 30
    return source, gaussian((sizes["N"], sizes["K"]), sizes["K"] ** -0.5, 2), gaussian((sizes["N"],), 1, 3)


def layer_weights(embed_dim: int) -> dict[str, np.ndarray]:
    """nn.MultiheadAttention's parameters under its names."""
    bound = UNIT_VARIANCE / math.sqrt(embed_dim)
    return {
        "in_proj_weight": uniform((3 * embed_dim, embed_dim), bound, 4),
        "in_proj_bias": uniform((3 * embed_dim,), 0.1, 5),
        "out_proj_weight": uniform((embed_dim, embed_dim), bound, 6),
        "out_proj_bias": uniform((embed_dim,), 0.1, 7),
    }


def forward_input(sizes: dict[str, int]) -> np.ndarray:
    """[B, T, E]."""
    return uniform((sizes["B"], sizes["T"], sizes["E"]), UNIT_VARIANCE, 1)


def notebook_inputs(sizes: dict[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The notebook's query [1, E], key [10, E], value [10, E]."""
    return tuple(uniform((rows, sizes["E"]), UNIT_VARIANCE, seed)
                 for rows, seed in ((sizes["Tq"], 1), (sizes["Tk"], 2), (sizes["Tk"], 3)))  # fmt: skip
