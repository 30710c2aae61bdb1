# SPDX-License-Identifier: Apache-2.0
"""Arrays of any kind as addresses, shapes and strides: numpy, whatever speaks DLPack (torch, jax), and buffers.

Nothing is copied or converted. What the library cannot take as it is, is a TypeError or ValueError that says what to do.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import POINTER, Structure, c_char, c_char_p, c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p, py_object
from typing import Any, Literal, NamedTuple

import numpy as np

from . import _abi as abi
from ._context import number_of

BOOL, I32, I64 = 100, 101, 102  # types of masks and lengths, which views do not have

_DTYPES = {
    "float32": abi.MHA_F32,
    "float16": abi.MHA_F16,
    "bfloat16": abi.MHA_BF16,
    "int8": abi.MHA_I8,
    "uint8": abi.MHA_U8,
    "bool": BOOL,
    "int32": I32,
    "int64": I64,
}
_NAMES = {number: name for name, number in _DTYPES.items()}
FloatDtype = Literal["f32", "f16", "bf16"]
FLOAT_DTYPES = {"f32": abi.MHA_F32, "f16": abi.MHA_F16, "bf16": abi.MHA_BF16}
_OF_NUMPY: dict[Any, int] = {}  # numpy's dtypes seen so far
_OF_TORCH: dict[Any, int] = {}  # and torch's
_DLPACK_NAMES = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}


# What an array without elements points to where its own address is 0, which the library would take as "not given".
_nothing = ctypes.create_string_buffer(64)
_NOTHING = ctypes.addressof(_nothing)


class Tensor(NamedTuple):
    """An array. Strides count elements. `owner` keeps the memory. The address is never 0."""

    data: int
    dtype: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    owner: Any


class _ArrayInterface(Structure):
    """What numpy's __array_struct__ points to: the address of the elements at a third of the cost of array.ctypes."""

    _fields_ = [
        ("two", c_int32),
        ("ndim", c_int32),
        ("kind", c_char),
        ("itemsize", c_int32),
        ("flags", c_int32),
        ("shape", c_void_p),
        ("strides", c_void_p),
        ("data", c_void_p),
    ]


_ALIGNED, _WRITEABLE = 0x100, 0x400


class _DLTensor(Structure):
    _fields_ = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


class _DLManagedTensorVersioned(Structure):
    _fields_ = [
        ("major", c_uint32),
        ("minor", c_uint32),
        ("manager", c_void_p),
        ("deleter", c_void_p),
        ("flags", c_uint64),
        ("tensor", _DLTensor),
    ]


_READ_ONLY = 1
_capsule_name = ctypes.pythonapi.PyCapsule_GetName
_capsule_name.restype, _capsule_name.argtypes = c_char_p, [py_object]
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype, _capsule_pointer.argtypes = c_void_p, [py_object, c_char_p]


def dtype_name(number: int) -> str:
    return _NAMES.get(number, str(number))


def _refused(name: str, dtype: str) -> TypeError:
    hint = "float32, float16 and bfloat16 (ml_dtypes for numpy)"
    return TypeError(f"{name} is {dtype}; mha takes {hint} here: convert it first, for example {name}.astype(numpy.float32)")


def _numpy_dtype(dtype: Any, name: str) -> int:
    number = _DTYPES.get(dtype.name)
    if number is None or not dtype.isnative:
        raise _refused(name, str(dtype))
    _OF_NUMPY[dtype] = number
    return number


def _of_numpy(array: np.ndarray[Any, Any], name: str, written: bool) -> Tensor:
    dtype = array.dtype
    number = _OF_NUMPY.get(dtype)
    if number is None:
        number = _numpy_dtype(dtype, name)
    capsule = array.__array_struct__
    interface = _ArrayInterface.from_address(_capsule_pointer(capsule, None))
    flags = interface.flags
    if written and not flags & _WRITEABLE:
        raise ValueError(f"{name} is read-only")
    if not flags & _ALIGNED:
        raise ValueError(f"{name} is not aligned to its elements: copy it first, for example {name}.copy()")
    size = dtype.itemsize
    # Aligned elements are whole elements apart, except along dimensions of one.
    strides = array.strides if size == 1 else tuple([stride // size for stride in array.strides])
    return Tensor(interface.data or _NOTHING, number, array.shape, strides, array)


def _dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _of_dlpack(array: Any, name: str, written: bool) -> Tensor:
    try:
        capsule = array.__dlpack__(max_version=(1, 0))
    except TypeError:  # made before DLPack 1.0
        capsule = array.__dlpack__()
    label = _capsule_name(capsule)
    address = _capsule_pointer(capsule, label)
    if label == b"dltensor_versioned":
        managed = _DLManagedTensorVersioned.from_address(address)
        if managed.major != 1:
            raise TypeError(f"{name} speaks DLPack {managed.major}.{managed.minor}; mha knows version 1")
        if written and managed.flags & _READ_ONLY:
            raise ValueError(f"{name} is read-only")
        tensor = managed.tensor
    else:
        tensor = _DLTensor.from_address(address)
    if tensor.device_type not in (1, 3):  # CPU, and memory of the CPU that is pinned for a device
        raise ValueError(f"{name} is not in the CPU's memory (DLPack device type {tensor.device_type})")
    kind = f"{_DLPACK_NAMES.get(tensor.code, f'DLPack type {tensor.code}, bits ')}{tensor.bits}"
    number = _DTYPES.get("bool" if tensor.code == 6 else kind)
    if number is None or tensor.lanes != 1:
        raise _refused(name, kind)
    ndim = tensor.ndim
    shape = tuple(tensor.shape[:ndim]) if ndim else ()
    strides = tuple(tensor.strides[:ndim]) if ndim and tensor.strides else _dense_strides(shape)
    return Tensor((tensor.data or 0) + tensor.byte_offset or _NOTHING, number, shape, strides, capsule)


def _of_torch(array: Any, name: str) -> Tensor:
    """As _of_dlpack, which also takes tensors of torch, at a third of its cost."""
    if not array.is_cpu:
        raise ValueError(f"{name} is on {array.device}, not in the CPU's memory")
    if array.requires_grad and sys.modules["torch"].is_grad_enabled():
        raise ValueError(f"{name} requires a gradient, and mha has none: use torch.no_grad(), or {name}.detach()")
    if array.layout is not sys.modules["torch"].strided or array.is_conj() or array.is_neg():
        raise ValueError(f"{name} is not a plain strided tensor ({array.layout})")
    number = _OF_TORCH.get(array.dtype)
    if number is None:
        kind = str(array.dtype).removeprefix("torch.")
        number = _DTYPES.get(kind)
        if number is None:
            raise _refused(name, kind)
        _OF_TORCH[array.dtype] = number
    return Tensor(array.data_ptr() or _NOTHING, number, tuple(array.shape), array.stride(), array)


def is_torch(array: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def tensor(array: Any, name: str, written: bool = False) -> Tensor:
    """An array as the library sees it. `written`: the library will write to it."""
    if isinstance(array, np.ndarray):
        return _of_numpy(array, name, written)
    if is_torch(array):
        return _of_torch(array, name)
    if hasattr(array, "__dlpack__"):
        if written and type(array).__module__.split(".")[0] in ("jax", "jaxlib"):
            raise TypeError(f"{name} is an array of jax, which does not change: leave {name} out, and take the result")
        return _of_dlpack(array, name, written)
    try:
        view = memoryview(array)
    except TypeError:
        kind = type(array).__name__
        raise TypeError(f"{name} is a {kind}; mha takes arrays with DLPack or the buffer protocol (numpy, torch, jax)") from None
    return _of_numpy(np.asarray(view), name, written)


def empty_like(array: Any, shape: tuple[int, ...], dtype: int) -> Any:
    """A new array of the kind that `array` is (numpy's for buffers and jax: see `finished`)."""
    if not isinstance(array, np.ndarray) and is_torch(array):
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=getattr(torch, _NAMES[dtype]))
    if dtype != abi.MHA_BF16:
        return np.empty(shape, _NAMES[dtype])
    if isinstance(array, np.ndarray) and array.dtype.name == "bfloat16":
        return np.empty(shape, array.dtype)
    import ml_dtypes

    return np.empty(shape, ml_dtypes.bfloat16)


def output_array(like: Any, shape: tuple[int, ...], out: Any, dtype: str | None, default: int) -> tuple[Any, Tensor]:
    """The array that a call writes, and how the library sees it: `out`, or a new one of the kind that `like` is, of the floats
    `dtype` or, if that is None, of the type `default`."""
    if out is None:
        out = empty_like(like, shape, default if dtype is None else number_of(FLOAT_DTYPES, dtype, "dtype"))
    elif dtype is not None:
        raise ValueError("dtype is given with out, whose own it would be")
    given = tensor(out, "out", True)
    if given.shape != shape:
        raise ValueError(f"out has the shape {given.shape}, but must have {shape}")
    return out, given


def finished(array: Any, like: Any) -> Any:
    """A result, or None, in the kind of array that `like` is: jax's are made from the result's memory."""
    if array is None or isinstance(like, np.ndarray) or type(like).__module__.split(".")[0] not in ("jax", "jaxlib"):
        return array
    return sys.modules["jax"].numpy.asarray(array)


def stride_of(size: int, stride: int) -> int:
    """A stride of a view. 0 repeats an element, which views write as MHA_BROADCAST; one of a single element is not used."""
    if size <= 1:
        return 0
    return stride if stride else abi.MHA_BROADCAST


def fill_view(view: Any, given: Tensor, name: str, axes: tuple[int, int, int], codes: bool = False) -> None:
    """Fills an mha_view or mha_mut_view from a tensor whose axes (b, t, h) are given; -1: it has no such axis. `codes`: it
    may have codes."""
    data, dtype, shape, strides, _ = given
    if dtype > abi.MHA_BF16 and (not codes or dtype >= BOOL):
        raise _refused(name, dtype_name(dtype))
    if 0 in shape:  # numpy's strides are 0 then; the library reads nothing
        view.data, view.dtype = data, dtype
        return
    if shape[-1] > 1 and strides[-1] != 1:
        raise ValueError(f"{name} has a stride of {strides[-1]} along its last dimension, which must be dense: copy it first")
    view.data = data
    view.dtype = dtype
    b, t, h = axes
    if b >= 0 and shape[b] > 1:
        view.stride_b = strides[b] or abi.MHA_BROADCAST
    if t >= 0 and shape[t] > 1:
        view.stride_t = strides[t] or abi.MHA_BROADCAST
    if h >= 0 and shape[h] > 1:
        view.stride_h = strides[h] or abi.MHA_BROADCAST
    if min(strides) < 0 and any(size > 1 and stride < 0 for size, stride in zip(shape, strides)):
        raise ValueError(f"{name} has a negative stride: copy it first")


def numbers(values: Any, name: str, dtype: int, shape: tuple[int, ...]) -> Tensor:
    """A small dense array of lengths, slopes or the like: an array of just this type and shape, or a list of numbers."""
    if isinstance(values, (list, tuple)):
        if dtype in (I32, I64) and values and np.array(values).dtype.kind == "f":
            raise TypeError(f"{name} has floats, but must have integers")  # numpy would cut them off
        given = _of_numpy(np.array(values, _NAMES[dtype]), name, False)
    else:
        given = tensor(values, name)
    if given.dtype != dtype:
        raise TypeError(f"{name} is {dtype_name(given.dtype)}, but must be {_NAMES[dtype]}")
    if given.shape != shape:
        raise ValueError(f"{name} has the shape {given.shape}, but must have {shape}")
    if not is_dense(given):
        raise ValueError(f"{name} must be dense: copy it first")
    return given


def is_dense(given: Tensor) -> bool:
    if 0 in given.shape:
        return True
    step = 1
    for size, stride in zip(reversed(given.shape), reversed(given.strides)):
        if size > 1 and stride != step:
            return False
        step *= size
    return True
