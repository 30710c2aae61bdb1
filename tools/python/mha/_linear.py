# SPDX-License-Identifier: Apache-2.0
"""Linear: the packed GEMM on its own; and how weights are given to it and to layers."""

from __future__ import annotations

from ctypes import addressof, byref, c_size_t, c_void_p
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from . import _abi as abi
from ._context import Context, context_of, number_of
from ._library import call, library, text_of
from ._options import ARITHMETIC, Arithmetic
from ._storage import Codes, Dtype, Storage, StorageError, code_tensor, fill_source, group_count, storage_error_of, storage_of
from ._tensors import I32, FloatDtype, Tensor, dtype_name, fill_view, finished, is_dense, numbers, output_array, tensor

if TYPE_CHECKING:
    from typing_extensions import Self

WeightLayout = Literal["rows", "gptq", "gptq_v2", "awq"]
WEIGHT_LAYOUTS = {
    "rows": abi.MHA_WEIGHT_ROWS,
    "gptq": abi.MHA_WEIGHT_GPTQ,
    "gptq_v2": abi.MHA_WEIGHT_GPTQ_V2,
    "awq": abi.MHA_WEIGHT_AWQ,
}
_NAMES = {number: name for name, number in ARITHMETIC.items()}
_ROWS = (-1, 0, -1)  # axes of [out, in]


class PackedWeight:
    """GPTQ's or AWQ's weights as they are stored: int32 qweight, int32 qzeros or None, and scales [groups, out]."""

    def __init__(self, qweight: Any, scales: Any, qzeros: Any = None, group: int = 0) -> None:
        self.qweight, self.scales, self.qzeros, self.group = qweight, scales, qzeros, group


def fill_weight(view: abi.mha_view, given: Any, name: str, layout: int, shape: tuple[int, int], keep: list[Any]) -> None:
    """Fills the view of a weight [out, in] in the layout stated; checks its shape."""
    out_features, in_features = shape
    if layout == abi.MHA_WEIGHT_ROWS:
        if isinstance(given, PackedWeight):
            raise ValueError(f"{name} is an mha.PackedWeight, which needs layout 'gptq', 'gptq_v2' or 'awq'")
        found = _with_zeros_of_nibbles(given, name, shape, view, keep)
        if found.shape != shape:
            raise ValueError(f"{name} has the shape {found.shape}, but must have {shape}")
        return
    if not isinstance(given, PackedWeight):
        raise TypeError(f"{name} is a {type(given).__name__}; this layout takes an mha.PackedWeight(qweight, scales, qzeros, group)")
    words = (in_features, out_features // 8) if layout == abi.MHA_WEIGHT_AWQ else (in_features // 8, out_features)
    groups = group_count(in_features, given.group)
    quant = abi.mha_quant()
    qweight = numbers(given.qweight, f"{name}.qweight", I32, words)
    scales = tensor(given.scales, f"{name}.scales")
    scales = numbers(given.scales, f"{name}.scales", scales.dtype, (groups, out_features))
    if scales.dtype not in (abi.MHA_F32, abi.MHA_F16, abi.MHA_BF16):
        raise TypeError(f"{name}.scales is {dtype_name(scales.dtype)}, but must be float32, float16 or bfloat16")
    view.data, view.dtype, view.quant = qweight.data, abi.MHA_U4, addressof(quant)
    quant.scales, quant.scale_dtype, quant.group = scales.data, scales.dtype, given.group
    keep += [qweight, scales, quant]
    if given.qzeros is not None:
        zeros = numbers(given.qzeros, f"{name}.qzeros", I32, (groups, out_features // 8))
        quant.zeros, quant.zero_dtype = zeros.data, abi.MHA_U4
        keep.append(zeros)


def _with_zeros_of_nibbles(given: Any, name: str, shape: tuple[int, int], view: abi.mha_view, keep: list[Any]) -> Tensor:
    """Rows; the zeros of "u4" codes may be nibbles too (MatMulNBits): uint8 [out, ceil(groups / 2)]."""
    nibbles = isinstance(given, Codes) and given.dtype == "u4" and given.zeros is not None
    if not nibbles or tensor(given.zeros, f"{name}.zeros").dtype != abi.MHA_U8:
        return fill_source(view, given, name, _ROWS, keep)
    groups = group_count(shape[1], given.group)
    zeros = tensor(given.zeros, f"{name}.zeros")
    if zeros.shape == (shape[0], groups) and groups > 1:
        return fill_source(view, given, name, _ROWS, keep)
    found = fill_source(view, replace(given, zeros=None), name, _ROWS, keep)
    zeros = numbers(given.zeros, f"{name}.zeros", abi.MHA_U8, (shape[0], (groups + 1) // 2))
    quant = next(struct for struct in keep if isinstance(struct, abi.mha_quant) and addressof(struct) == view.quant)
    quant.zeros, quant.zero_dtype = zeros.data, abi.MHA_U4
    keep.append(zeros)
    return found


def fill_packed(config: Any, packed: Storage | Dtype | None, keep: list[Any]) -> None:
    if packed is not None:
        storage = abi.mha_storage()
        storage_of(packed).fill(storage)
        config.packed = addressof(storage)
        keep.append(storage)


def aligned_bytes(count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 [count] at an address that is a multiple of 64."""
    block = np.empty(count + 64, np.uint8)
    start = -block.ctypes.data % 64
    return block[start : start + count]


def saved(bytes_of: Any, save: Any, *what: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What the library saves: bytes_of and save are its functions, `what` their first arguments."""
    needed = c_size_t()
    call(bytes_of, *what, byref(needed))
    blob = aligned_bytes(needed.value)
    call(save, *what, blob.ctypes.data, needed.value)
    return blob


class Packed:
    """Packed weights in a handle of the library: what Linear and Layer share."""

    _kind: ClassVar[str]
    _handle: int | None = None
    _blob: Tensor | None = None

    def _take(self, handle: int | None) -> None:
        """Keeps the handle, and what its configuration says."""
        raise NotImplementedError

    def __del__(self) -> None:
        if self._handle:
            getattr(library, f"mha_{self._kind}_destroy")(self._handle)

    def save(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The packed weights as bytes, the same on every target: write them to a file, and `map` them."""
        name = f"mha_{self._kind}_save"
        return saved(getattr(library, f"{name}_bytes"), getattr(library, name), self._handle)

    @classmethod
    def map(cls, blob: Any, *, context: Context | None = None) -> Self:
        """Uses saved bytes without a copy: `blob` is kept and must not change. Raises BlobError."""
        given = tensor(blob, "blob")
        if given.dtype not in (abi.MHA_U8, abi.MHA_I8) or len(given.shape) != 1 or not is_dense(given):
            raise ValueError(f"blob is {dtype_name(given.dtype)} {given.shape}, but must be dense bytes")
        handle = c_void_p()
        call(getattr(library, f"mha_{cls._kind}_map"), context_of(context), given.data, given.shape[0], byref(handle))
        made = cls.__new__(cls)
        made._blob = given
        made._take(handle.value)
        return made


class Linear(Packed):
    """output[..., n] = bias[n] + sum_k input[..., k] * weight[n, k], with packed weights. Immutable; threads may share it.

    weight: [out, in] float32, float16 or bfloat16, torch's nn.Linear.weight; `Codes`; or with layout "gptq", "gptq_v2"
        or "awq" a `PackedWeight`. Not kept.
    bias: float32 [out].
    arithmetic: "f32"; "bf16"; "int8": inputs are rounded to 8 bits, products are exact.
    packed: how the packed weights are stored (`Storage`, or "bf16", "i8", ...); None: as they are given ("bf16" with
        arithmetic "bf16"; floats as "i8" with "int8").
    in_features, out_features: of a PackedWeight.

    Raises ArgumentError, UnsupportedError, OutOfMemoryError.
    """

    _kind = "linear"
    packed_error: StorageError
    """The error that packing made."""

    def __init__(
        self,
        weight: Any,
        bias: Any = None,
        *,
        arithmetic: Arithmetic = "f32",
        layout: WeightLayout = "rows",
        packed: Storage | Dtype | None = None,
        context: Context | None = None,
    ) -> None:
        keep: list[Any] = []
        config = abi.mha_linear_config()
        config.layout = number_of(WEIGHT_LAYOUTS, layout, "layout")
        config.arithmetic = number_of(ARITHMETIC, arithmetic, "arithmetic")
        shape = _shape_of(weight, config.layout)
        config.out_features, config.in_features = shape
        fill_weight(config.weight, weight, "weight", config.layout, shape, keep)
        if bias is not None:
            given = numbers(bias, "bias", abi.MHA_F32, (shape[0],))
            config.bias = given.data
            keep.append(given)
        fill_packed(config, packed, keep)
        error = abi.mha_storage_error()
        config.packed_error = addressof(error)
        handle = c_void_p()
        call(library.mha_linear_create, context_of(context), byref(config), byref(handle))
        self._take(handle.value)
        self.packed_error = storage_error_of(error)

    def _take(self, handle: int | None) -> None:
        self._handle = handle
        config = abi.mha_linear_config()
        library.mha_linear_get_config(handle, byref(config))
        self.in_features, self.out_features = config.in_features, config.out_features
        self.arithmetic = _NAMES[config.arithmetic]

    def __repr__(self) -> str:
        return f"mha.Linear(in_features={self.in_features}, out_features={self.out_features}, arithmetic={self.arithmetic!r})"

    def _args(self, source: Any, out: Any, dtype: str | None) -> tuple[abi.mha_linear_args, Any, Any]:
        given = tensor(source, "input")
        if not given.shape or given.shape[-1] != self.in_features:
            raise ValueError(f"input has the shape {given.shape}, but must be [..., {self.in_features}]")
        shape = (*given.shape[:-1], self.out_features)
        out, result = output_array(source, shape, out, dtype, given.dtype)
        args = abi.mha_linear_args()
        rows = _rows(given, "input")
        args.rows = rows.shape[0]
        fill_view(args.input, rows, "input", _ROWS)
        fill_view(args.output, _rows(result, "out"), "out", _ROWS)
        return args, out, (given.owner, result.owner)

    def forward(self, input: Any, *, out: Any = None, dtype: FloatDtype | None = None, context: Context | None = None) -> Any:
        """input: [..., in_features] float32, float16 or bfloat16. Returns [..., out_features], of the input's type or `dtype`."""
        args, output, _keep = self._args(input, out, dtype)
        call(library.mha_linear_forward, context_of(context), self._handle, byref(args))
        return finished(output, input) if out is None else out

    __call__ = forward

    def explain(self, input: Any, *, context: Context | None = None) -> str:
        """How `forward` would run, and why: lines of "key: value"."""
        args, _, _keep = self._args(input, None, None)
        return text_of(library.mha_linear_explain, context_of(context), self._handle, byref(args))


def _shape_of(weight: Any, layout: int) -> tuple[int, int]:
    """(out, in) of a weight."""
    if isinstance(weight, PackedWeight):
        shape = tensor(weight.qweight, "weight.qweight").shape
        if len(shape) != 2:
            raise ValueError(f"weight.qweight has the shape {shape}, but must have two dimensions")
        return (shape[1] * 8, shape[0]) if layout == abi.MHA_WEIGHT_AWQ else (shape[1], shape[0] * 8)
    if isinstance(weight, Codes):
        shape = code_tensor(weight, "weight").shape
    else:
        shape = tensor(weight, "weight").shape
    if len(shape) != 2:
        raise ValueError(f"weight has the shape {shape}, but must be [out, in]")
    return (shape[0], shape[1])


def _rows(given: Tensor, name: str) -> Tensor:
    """[..., width] as [rows, width], where the leading dimensions are one run of equal strides."""
    rows, step = 1, 0
    for size, stride in zip(reversed(given.shape[:-1]), reversed(given.strides[:-1])):
        if size > 1:
            if rows > 1 and stride != rows * step:
                raise ValueError(f"{name} with strides {given.strides} is no matrix of evenly spaced rows: copy it first")
            if rows == 1:
                step = stride
        rows *= size
    return given._replace(shape=(rows, given.shape[-1]), strides=(step, given.strides[-1]))
