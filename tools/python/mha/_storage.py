# SPDX-License-Identifier: Apache-2.0
"""Codes with scales, and how the library is told to store values."""

from __future__ import annotations

from ctypes import addressof
from dataclasses import dataclass
from typing import Any, Literal

from . import _abi as abi
from ._context import number_of
from ._tensors import BOOL, FloatDtype, Tensor, dtype_name, fill_view, tensor

Dtype = Literal["f32", "f16", "bf16", "i8", "u8", "i4", "u4", "q8_0", "q4_0"]

DTYPES = {
    "f32": abi.MHA_F32,
    "f16": abi.MHA_F16,
    "bf16": abi.MHA_BF16,
    "i8": abi.MHA_I8,
    "u8": abi.MHA_U8,
    "i4": abi.MHA_I4,
    "u4": abi.MHA_U4,
    "q8_0": abi.MHA_Q8_0,
    "q4_0": abi.MHA_Q4_0,
}
BITS = {abi.MHA_I8: 8, abi.MHA_U8: 8, abi.MHA_I4: 4, abi.MHA_U4: 4}
BLOCK_BYTES = {abi.MHA_Q8_0: 34, abi.MHA_Q4_0: 18}  # of 32 elements


@dataclass(frozen=True)
class Codes:
    """Integers that stand for floats: value = scale * (code - zero).

    codes: int8 or uint8 array, shaped as the tensor that they stand for; with dtype "i4" or "u4" uint8, two codes in a
        byte, the lower nibble first, so that the last dimension is half as long; with "q8_0" or "q4_0" uint8, ggml's
        blocks of 34 or 18 bytes for 32 elements, scales inside.
    scales: float32, float16 or bfloat16. An array that broadcasts to the shape of codes, except that the last dimension is 1
        (a scale for each row) or the number of groups of a row.
    zeros: as scales; float32, float16, int8 or uint8. None: 0 ("u8": 128, "u4": 8).
    dtype: None: "i8" or "u8", as the array is.
    group: elements of a row that share a scale; 0: the whole row.
    hadamard: the rows were rotated by a Walsh-Hadamard matrix before they were rounded.
    """

    codes: Any
    scales: Any = None
    zeros: Any = None
    dtype: Dtype | None = None
    group: int = 0
    hadamard: bool = False


@dataclass(frozen=True)
class Storage:
    """How the library stores values: in caches, packed weights, and rows (mha_storage).

    scale_dtype, group, zero_points: of codes ("i8", "u8", "i4", "u4"); group 0: one scale for a row.
    hadamard: rows are rotated by a Walsh-Hadamard matrix before they are rounded.
    """

    dtype: Dtype = "f32"
    scale_dtype: FloatDtype = "f32"
    group: int = 0
    zero_points: bool = False
    hadamard: bool = False

    def fill(self, into: abi.mha_storage) -> None:
        into.dtype = number_of(DTYPES, self.dtype, "storage.dtype")
        into.scale_dtype = number_of(DTYPES, self.scale_dtype, "storage.scale_dtype")
        into.group = self.group
        into.zero_points = int(self.zero_points)
        into.hadamard = int(self.hadamard)


@dataclass(frozen=True)
class StorageError:
    """The error that storing made: the difference between the stored and the given values."""

    max: float
    rms: float
    rms_given: float
    elements: int


def group_count(width: int, group: int) -> int:
    """Scales of a row: one for each group, the last of which may be shorter; one if the whole row is a group."""
    return -(-width // group) if 0 < group < width else 1


def code_bytes(width: int, dtype: int) -> int:
    """Bytes of a row of codes; with 4 bits an odd width leaves half of the last one unused."""
    return (width * BITS[dtype] + 7) // 8


def storage_of(given: Storage | Dtype | None) -> Storage:
    return given if isinstance(given, Storage) else Storage(given or "f32")


def storage_error_of(error: abi.mha_storage_error) -> StorageError:
    return StorageError(error.max, error.rms, error.rms_given, error.elements)


def code_tensor(given: Codes, name: str) -> Tensor:
    """The codes of `given`, with shape and strides in elements instead of bytes."""
    codes = tensor(given.codes, f"{name}.codes")
    if codes.dtype not in (abi.MHA_I8, abi.MHA_U8):
        raise TypeError(f"{name}.codes is {dtype_name(codes.dtype)}, but must be int8 or uint8")
    dtype = codes.dtype if given.dtype is None else number_of(DTYPES, given.dtype, f"{name}.dtype")
    if dtype in BLOCK_BYTES:
        numerator, denominator = 32, BLOCK_BYTES[dtype]
    elif dtype in BITS:
        numerator, denominator = 8 // BITS[dtype], 1
        if dtype == abi.MHA_I8 and codes.dtype != dtype:
            raise TypeError(f"{name}.codes is uint8, but its dtype is 'i8'")
    else:
        raise ValueError(f"{name}.dtype is {given.dtype!r}, which has no codes")
    if not codes.shape or codes.shape[-1] % denominator:
        raise ValueError(f"{name}.codes has the shape {codes.shape}; rows of {given.dtype} are whole blocks of {denominator} bytes")
    if any(size > 1 and stride % denominator for size, stride in zip(codes.shape[:-1], codes.strides)):
        raise ValueError(f"{name}.codes has strides of {codes.strides} bytes, not of whole blocks: copy it first")
    strides = tuple([stride * numerator // denominator for stride in codes.strides[:-1]])
    shape = (*codes.shape[:-1], codes.shape[-1] * numerator // denominator)
    return Tensor(codes.data, dtype, shape, (*strides, codes.strides[-1]), codes.owner)


def broadcast(given: Any, name: str, shape: tuple[int, ...]) -> Tensor:
    """Scales or zeros of the shape, in which 1 repeats; strides of repeated dimensions are 0."""
    found = tensor(given, name)
    if len(found.shape) > len(shape):
        raise ValueError(f"{name} has the shape {found.shape}, which does not broadcast to {shape}")
    missing = len(shape) - len(found.shape)
    sizes, strides = (1,) * missing + found.shape, (0,) * missing + found.strides
    for size, wanted in zip(sizes, shape):
        if size not in (1, wanted):
            raise ValueError(f"{name} has the shape {found.shape}, which does not broadcast to {shape}")
    strides = tuple([stride if size > 1 else 0 for size, stride in zip(sizes, strides)])
    if min(strides, default=0) < 0:
        raise ValueError(f"{name} has a negative stride: copy it first")
    return found._replace(shape=shape, strides=strides)


def fill_quant(quant: abi.mha_quant, given: Codes, codes: Tensor, name: str, axes: tuple[int, int, int], keep: list[Any]) -> None:
    """Scales and zeros of codes whose axes (b, t, h) are given."""
    if given.scales is None:
        raise ValueError(f"{name}.scales must be given")
    groups = group_count(codes.shape[-1], given.group)
    shape = (*codes.shape[:-1], groups)
    scales = broadcast(given.scales, f"{name}.scales", shape)
    if scales.dtype not in (abi.MHA_F32, abi.MHA_F16, abi.MHA_BF16):
        raise TypeError(f"{name}.scales is {dtype_name(scales.dtype)}, but must be float32, float16 or bfloat16")
    quant.scales = scales.data
    quant.scale_dtype = scales.dtype
    quant.group = given.group
    quant.hadamard = int(given.hadamard)
    for field, axis in zip(("stride_b", "stride_t", "stride_h"), axes):
        if axis >= 0:
            setattr(quant, field, scales.strides[axis])
    quant.stride_d = scales.strides[-1] if groups > 1 else 0
    keep.append(scales)
    if given.zeros is not None:
        zeros = broadcast(given.zeros, f"{name}.zeros", shape)
        if zeros.dtype not in (abi.MHA_F32, abi.MHA_F16, abi.MHA_I8, abi.MHA_U8):
            raise TypeError(f"{name}.zeros is {dtype_name(zeros.dtype)}, but must be float32, float16, int8 or uint8")
        if zeros.strides != scales.strides:
            raise ValueError(f"{name}.zeros must have the layout of {name}.scales: strides {zeros.strides}, {scales.strides}")
        quant.zeros = zeros.data
        quant.zero_dtype = zeros.dtype
        keep.append(zeros)


def fill_source(view: abi.mha_view, given: Any, name: str, axes: tuple[int, int, int], keep: list[Any]) -> Tensor:
    """Fills the view of an array or of Codes; returns it as a tensor whose shape is that of the values."""
    if not isinstance(given, Codes):
        found = tensor(given, name)
        if found.dtype >= abi.MHA_I8 and found.dtype < BOOL:
            raise TypeError(f"{name} is {dtype_name(found.dtype)}: codes need scales, as mha.Codes({name}, scales)")
        fill_view(view, found, name, axes)
        keep.append(found.owner)
        return found
    found = code_tensor(given, name)
    fill_view(view, found, name, axes, codes=True)
    keep.append(found.owner)
    if found.dtype not in BLOCK_BYTES:
        quant = abi.mha_quant()
        fill_quant(quant, given, found, name, axes, keep)
        view.quant = addressof(quant)
        keep.append(quant)
    elif given.scales is not None or given.zeros is not None:
        raise ValueError(f"{name}.scales is given, but blocks of {given.dtype} have theirs inside")
    return found
