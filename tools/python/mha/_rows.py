# SPDX-License-Identifier: Apache-2.0
"""Rows: norm, rotate, convert; also into the caller's own pages. Tables of angles, T5's biases."""

from __future__ import annotations

from ctypes import addressof, byref
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from . import _abi as abi
from ._attention import Layout, axes_of, shaped
from ._context import Context, context_of
from ._library import call, library
from ._options import Norm, Rope
from ._storage import BITS, Codes, Storage, StorageError, code_bytes, group_count, storage_error_of
from ._tensors import I64, FloatDtype, Tensor, dtype_name, fill_view, finished, is_dense, numbers, output_array, tensor


class PreparedCodes(NamedTuple):
    """codes: what `attention` takes as key or value. error: what rounding cost."""

    codes: Codes
    error: StorageError


class _Rows:
    """The arguments of a call, and what keeps their memory."""

    def __init__(self, input: Any, positions: Any, first_position: int, norm: Norm | None, rope: Rope | None, layout: str) -> None:
        self.keep: list[Any] = []
        self.args = args = abi.mha_rows_args()
        self.axes = axes_of(layout, False)
        self.input = tensor(input, "input")
        fill_view(args.input, self.input, "input", self.axes)
        args.batch, args.length, args.num_heads, args.head_dim = shaped(self.input, self.axes, "input", "[B, T, H, D]")
        if positions is not None:
            given = numbers(positions, "positions", I64, (args.batch, args.length))
            args.positions = given.data
            self.keep.append(given)
        args.first_position = first_position
        if norm is not None:
            args.norm = addressof(norm.make(args.head_dim, "norm", self.keep))
        if rope is not None:
            args.rope = addressof(rope.make(args.head_dim, self.keep))

    def to_slots(self, slots: Any, pages: Tensor) -> None:
        args = self.args
        given = numbers(slots, "slots", I64, (args.batch, args.length))
        args.slots = given.data
        self.keep.append(given)
        args.num_pages, args.page_size, heads, _ = shaped(pages, self.axes, "out", "[pages, page_size, H, D]")
        if heads != args.num_heads:
            raise ValueError(f"out has the shape {pages.shape}, but input has {args.num_heads} heads")

    def run(self, context: Context | None) -> None:
        call(library.mha_rows_prepare, context_of(context), byref(self.args))


def rows_prepare(
    input: Any,
    *,
    out: Any = None,
    dtype: FloatDtype | None = None,
    slots: Any = None,
    positions: Any = None,
    first_position: int = 0,
    norm: Norm | None = None,
    rope: Rope | None = None,
    layout: Layout = "bthd",
    context: Context | None = None,
) -> Any:
    """Norms, then rotates rows of heads, and stores them as floats.

    input: [B, T, H, D]. positions: int64 [B, T], for rope; None: first_position + t.
    out: the array to write, of input's shape; may be input. With slots (int64 [B, T]): the caller's own pages, [num_pages,
        page_size, H, D]; a token with slot s goes to place s % page_size of page s // page_size, and one with s < 0 nowhere.

    Returns out, or a new array of input's kind and type (or `dtype`).
    """
    made = _Rows(input, positions, first_position, norm, rope, layout)
    shape = made.input.shape
    if slots is not None:
        if out is None:
            raise ValueError("out must be given with slots: they are places in it")
        shape = tensor(out, "out").shape
    result, given = output_array(input, shape, out, dtype, made.input.dtype)
    if slots is not None:
        made.to_slots(slots, given)
    if given.shape[-1:] != made.input.shape[-1:]:
        raise ValueError(f"out has the shape {given.shape}, but input has rows of {made.args.head_dim}")
    fill_view(made.args.output, given, "out", made.axes)
    made.run(context)
    return finished(result, input) if out is None else out


def rows_quantise(
    input: Any,
    storage: Storage,
    *,
    out: Codes | None = None,
    slots: Any = None,
    positions: Any = None,
    first_position: int = 0,
    norm: Norm | None = None,
    rope: Rope | None = None,
    layout: Layout = "bthd",
    context: Context | None = None,
) -> PreparedCodes:
    """As `rows_prepare`, rounding to codes as `storage` says ("i8", "u8", "i4", "u4").

    out: codes, scales and zeros to write, dense, for example pages that `empty_codes` made; needed with slots. What is returned
        has these arrays, and dtype, group and hadamard of `storage`.
    """
    made = _Rows(input, positions, first_position, norm, rope, layout)
    args = made.args
    stored = abi.mha_storage()
    storage.fill(stored)
    if stored.dtype not in BITS:
        raise ValueError(f"storage.dtype is {storage.dtype!r}, which has no codes: use rows_prepare")
    if layout != "bthd":
        raise ValueError("layout: scales are written in the order [B, T, H, groups], so 'bthd' alone")
    if out is None:
        if slots is not None:
            raise ValueError("out must be given with slots: they are places in it")
        out = empty_codes(made.input.shape, storage)
    codes, scales = tensor(out.codes, "out.codes", True), tensor(out.scales, "out.scales", True)
    if slots is not None:
        made.to_slots(slots, codes)
    shape = (*(codes.shape if slots is not None else made.input.shape)[:-1], args.head_dim)
    row = (*shape[:-1], code_bytes(args.head_dim, stored.dtype))
    _check(codes, "out.codes", row, abi.MHA_I8 if stored.dtype == abi.MHA_I8 else abi.MHA_U8)
    groups = group_count(args.head_dim, storage.group)
    _check(scales, "out.scales", (*shape[:-1], groups), stored.scale_dtype)
    args.output.data, args.output.dtype = codes.data, stored.dtype
    args.storage = addressof(stored)
    args.scales = scales.data
    if storage.zero_points:
        zeros = tensor(out.zeros, "out.zeros", True)
        _check(zeros, "out.zeros", (*shape[:-1], groups), abi.MHA_I8 if stored.dtype in (abi.MHA_I8, abi.MHA_I4) else abi.MHA_U8)
        args.zeros = zeros.data
    elif out.zeros is not None:
        raise ValueError("out.zeros is given, but storage has no zero points")
    error = abi.mha_storage_error()
    args.storage_error = addressof(error)
    made.run(context)
    written = replace(out, dtype=storage.dtype, group=storage.group, hadamard=storage.hadamard)
    return PreparedCodes(written, storage_error_of(error))


def _check(given: Tensor, name: str, shape: tuple[int, ...], dtype: int) -> None:
    if given.shape != shape or given.dtype != dtype or not is_dense(given):
        raise ValueError(f"{name} is {dtype_name(given.dtype)} {given.shape}, but must be dense {dtype_name(dtype)} {shape}")


def empty_codes(shape: tuple[int, ...], storage: Storage) -> Codes:
    """Arrays of numpy for codes of a tensor of this shape [..., D], with their scales and zeros, all zero."""
    stored = abi.mha_storage()
    storage.fill(stored)
    if stored.dtype not in BITS:
        raise ValueError(f"storage.dtype is {storage.dtype!r}, which has no codes")
    width = shape[-1]
    groups = group_count(width, storage.group)
    codes = np.zeros((*shape[:-1], code_bytes(width, stored.dtype)), np.int8 if storage.dtype == "i8" else np.uint8)
    if storage.scale_dtype == "bf16":
        import ml_dtypes

        scales = np.zeros((*shape[:-1], groups), ml_dtypes.bfloat16)
    else:
        scales = np.zeros((*shape[:-1], groups), np.float32 if storage.scale_dtype == "f32" else np.float16)
    zeros = None
    if storage.zero_points:
        zeros = np.zeros((*shape[:-1], groups), np.int8 if storage.dtype in ("i8", "i4") else np.uint8)
    return Codes(codes, scales, zeros, storage.dtype, storage.group, storage.hadamard)


def rope_table(
    rope: Rope, head_dim: int, count: int, *, first: int = 0, context: Context | None = None
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.float32]]]:
    """cos and sin [count, dims/2] of the positions from `first` on, as calls compute them."""
    keep: list[Any] = []
    made = rope.make(head_dim, keep)
    half = max((rope.dims or head_dim) // 2, 0)
    cos, sin = np.empty((max(count, 0), half), np.float32), np.empty((max(count, 0), half), np.float32)
    call(library.mha_rope_table, context_of(context), byref(made), head_dim, first, count, cos.ctypes.data, sin.ctypes.data)
    return cos, sin


def t5_bias(table: Any, max_distance: int, *, bidirectional: bool) -> np.ndarray[Any, np.dtype[np.float32]]:
    """T5's bucketed biases by distance: table float32 [num_buckets, H]; result [H, 2 * max_distance + 1], for relative_bias."""
    given = tensor(table, "table")
    if len(given.shape) != 2:
        raise ValueError(f"table has the shape {given.shape}, but must be [num_buckets, H]")
    given = numbers(table, "table", abi.MHA_F32, given.shape)
    result = np.empty((given.shape[1], 2 * max(max_distance, 0) + 1), np.float32)
    call(library.mha_t5_bias, given.data, given.shape[1], given.shape[0], max_distance, int(bidirectional), result.ctypes.data)
    return result
