# SPDX-License-Identifier: Apache-2.0
"""libmha through ctypes: just what the comparison calls.

A prepared call (Linear, Attention, Layer) has everything made in advance, as an engine would: packed weights,
workspace, argument struct. Its `run` is then one foreign call with ready pointers; what ctypes adds (some 0.3 µs)
counts against mha.
"""

import ctypes
import sys
from collections.abc import Callable
from ctypes import byref, c_char_p, c_size_t, c_void_p
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from arrays import bfloat16, empty, empty_like, widened

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "python"))
from header import make_structs  # noqa: E402

WEIGHTS_PER_HEAD = 1
F32_ARITHMETIC, BF16_ARITHMETIC, INT8_ARITHMETIC = 0, 1, 2
F32, F16, BF16, I8, I4 = 0, 1, 2, 3, 5
DTYPES = {np.dtype(np.float32): F32, np.dtype(np.float16): F16, np.dtype(np.uint16): BF16}  # as in arrays.widened

STRUCTS = make_structs(ROOT / "core" / "mha.h")
Error, ContextOptions = STRUCTS["mha_error"], STRUCTS["mha_context_options"]
View, MutView = STRUCTS["mha_view"], STRUCTS["mha_mut_view"]
AttentionArgs, LinearArgs, LayerArgs = (STRUCTS[f"mha_{name}_args"] for name in ("attention", "linear", "layer"))
LinearConfig, LayerConfig = STRUCTS["mha_linear_config"], STRUCTS["mha_layer_config"]
LayerWeights = STRUCTS["mha_layer_weights"]
RowsArgs, Storage, Quant = STRUCTS["mha_rows_args"], STRUCTS["mha_storage"], STRUCTS["mha_quant"]
Results, Resources = STRUCTS["mha_results"], STRUCTS["mha_resources"]


class Library:
    """The library and a context of it."""

    def __init__(self, path: str, threads: int) -> None:
        self.lib = ctypes.CDLL(path)
        self.lib.mha_version.restype = c_char_p
        self.lib.mha_context_target.restype = c_char_p
        self.lib.mha_context_target.argtypes = [c_void_p]
        self.context = c_void_p()
        self.call("mha_context_create", byref(ContextOptions(num_threads=threads)), byref(self.context))
        self.version = self.lib.mha_version().decode()
        self.target = self.lib.mha_context_target(self.context).decode()

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function whose last parameter is an error; raises with the library's message."""
        error = Error()
        if getattr(self.lib, name)(*arguments, byref(error)) != 0:
            raise RuntimeError(f"{name}: {error.message.decode()}")

    def prepared(self, name: str, *arguments: Any) -> Callable[[], int]:
        """One call with ready arguments and no error struct."""
        return partial(getattr(self.lib, name), *arguments, None)


def dense(array: np.ndarray, kind: type = View) -> Any:
    """A view in the order that the call states."""
    return kind(data=array.ctypes.data, dtype=DTYPES[array.dtype])


def view_of_heads(array: np.ndarray, kind: type = View) -> Any:
    """Of [B, T, H, D] with any strides that the library takes; elements of a row are dense."""
    stride_b, stride_t, stride_h, stride_d = (stride // array.itemsize for stride in array.strides)
    assert stride_d == 1
    return kind(data=array.ctypes.data, dtype=DTYPES[array.dtype], stride_b=stride_b, stride_t=stride_t,
                stride_h=stride_h)  # fmt: skip


class Codes:
    """Keys or values [1, T, H, D] rounded by mha_rows_prepare, in the order of mha's caches: the rows of a head follow
    each other, codes and scales alike. For that, a head is an item of a batch."""

    def __init__(self, library: Library, array: np.ndarray, dtype: int, group: int, scale_type: type) -> None:
        self.shape = array.shape
        _, length, heads, width = array.shape
        groups = width // group if group else 1
        codes = empty((heads, length, width // 2 if dtype == I4 else width), np.uint8)
        scales = empty((heads, length, groups), scale_type)
        storage = Storage(dtype=dtype, scale_dtype=DTYPES[scales.dtype], group=group)
        given = view_of_heads(array)
        args = RowsArgs(
            batch=heads, length=length, num_heads=1, head_dim=width, scales=scales.ctypes.data,
            input=View(data=given.data, dtype=given.dtype, stride_b=given.stride_h, stride_t=given.stride_t),
            output=MutView(data=codes.ctypes.data, dtype=dtype), storage=ctypes.addressof(storage),
        )  # fmt: skip
        library.call("mha_rows_prepare", library.context, byref(args))
        quant = Quant(scales=scales.ctypes.data, scale_dtype=storage.scale_dtype, group=group, stride_t=groups,
                      stride_h=length * groups, stride_d=1 if group else 0)  # fmt: skip
        self.view = View(data=codes.ctypes.data, dtype=dtype, stride_t=width, stride_h=length * width,
                         quant=ctypes.addressof(quant))  # fmt: skip
        self.keep = [codes, scales, quant]


def stored(library: Library, family: str, array: np.ndarray) -> np.ndarray | Codes:
    """Keys or values as the family of decoding stores them, the same as mha_bench's; 16 bits are given already."""
    if family == "decode_int8":
        return Codes(library, array, I8, 0, np.float32)
    return Codes(library, array, I4, 32, np.float16) if family == "decode_int4" else array


def packing(family: str, group: int) -> Any:
    """How a linear over codes stores its weights; None: in INT8 arithmetic int8 with a float scale for each output."""
    if family == "linear_int4":
        return Storage(dtype=I4, scale_dtype=F16, group=32)
    return Storage(dtype=I8, scale_dtype=F16, group=group) if group else None


class Groups:
    """The groups results and resources of a call, and the memory that they point to."""

    def __init__(self, args: Any, weights: np.ndarray | None) -> None:
        self.args, self.results, self.resources = args, Results(), Resources()
        if weights is not None:
            self.results.weights_mode = WEIGHTS_PER_HEAD
            self.results.weights = dense(weights, MutView)
        args.results = ctypes.addressof(self.results)
        args.resources = ctypes.addressof(self.resources)

    def take_workspace(self, library: Library, name: str, *arguments: Any) -> None:
        """As much as the size query says."""
        bytes_needed = c_size_t()
        library.call(name, *arguments, byref(bytes_needed))
        self.workspace = empty((bytes_needed.value,), np.uint8)
        if bytes_needed.value > 0:
            self.resources.workspace = self.workspace.ctypes.data
            self.resources.workspace_bytes = bytes_needed.value


class Attention:
    """mha_attention over [B, T, H, D] arrays or codes; the output has the query's type. results() are floats: output
    and, where asked for, weights [B, H, Tq, Tk]."""

    def __init__(
        self, library: Library, query: np.ndarray, key: np.ndarray | Codes, value: np.ndarray | Codes, causal: bool,
        weights: bool, arithmetic: int = F32_ARITHMETIC,
    ):  # fmt: skip
        batch, query_len, heads, head_dim = query.shape
        self.output = empty_like(query)
        self.args = AttentionArgs(
            batch=batch, num_heads=heads, num_kv_heads=key.shape[2], query_len=query_len, key_len=key.shape[1],
            head_dim=head_dim, arithmetic=arithmetic, query=view_of_heads(query), output=view_of_heads(self.output, MutView),
        )  # fmt: skip
        self.args.key, self.args.value = (
            given.view if isinstance(given, Codes) else view_of_heads(given) for given in (key, value)
        )
        self.args.causal = 1 if causal else 0
        self.arrays = [query, key, value, self.output]
        self.weights = empty((batch, heads, query_len, key.shape[1])) if weights else None
        if weights:
            self.arrays.append(self.weights)
        self.groups = Groups(self.args, self.weights)
        self.groups.take_workspace(library, "mha_attention_workspace_bytes", library.context, byref(self.args))
        library.call("mha_attention", library.context, byref(self.args))  # with its message, should it fail
        self.run = library.prepared("mha_attention", library.context, byref(self.args))

    def results(self) -> list[np.ndarray]:
        self.run()
        return [widened(array) for array in self.arrays[3:]]


def arithmetic_over(array: np.ndarray) -> int:
    """What is timed over inputs of a type: bfloat16 is multiplied as such."""
    return BF16_ARITHMETIC if DTYPES[array.dtype] == BF16 else F32_ARITHMETIC


class Linear:
    """mha_linear_forward with packed weights, which `packed` rounds; all tensors but the bias are of the source's type."""

    def __init__(self, library: Library, source: np.ndarray, weight: np.ndarray, bias: np.ndarray | None,
                 arithmetic: int | None = None, packed: Any = None) -> None:  # fmt: skip
        self.library = library
        self.handle = c_void_p()
        config = LinearConfig(in_features=weight.shape[1], out_features=weight.shape[0], weight=dense(weight),
                              arithmetic=arithmetic_over(source) if arithmetic is None else arithmetic,
                              packed=None if packed is None else ctypes.addressof(packed))  # fmt: skip
        config.bias = bias.ctypes.data if bias is not None else None
        library.call("mha_linear_create", library.context, byref(config), byref(self.handle))
        self.output = empty((source.shape[0], weight.shape[0]), source.dtype.type)
        self.args = LinearArgs(rows=source.shape[0], input=dense(source), output=dense(self.output, MutView))
        self.source = source
        self.resources = Resources()
        self.args.resources = ctypes.addressof(self.resources)
        bytes_needed = c_size_t()
        library.call("mha_linear_workspace_bytes", library.context, self.handle, byref(self.args), byref(bytes_needed))
        self.workspace = empty((bytes_needed.value,), np.uint8)
        if bytes_needed.value > 0:
            self.resources.workspace = self.workspace.ctypes.data
            self.resources.workspace_bytes = bytes_needed.value
        library.call("mha_linear_forward", library.context, self.handle, byref(self.args))
        self.run = library.prepared("mha_linear_forward", library.context, self.handle, byref(self.args))

    def results(self) -> list[np.ndarray]:
        self.run()
        return [widened(self.output)]

    def __del__(self) -> None:
        self.library.lib.mha_linear_destroy(self.handle)


class Layer:
    """mha_layer_forward over [B, T, E] arrays; key and value None: self-attention. Over bfloat16, weights and results are
    of it too."""

    def __init__(self, library: Library, parameters: dict[str, np.ndarray], heads: int, query: np.ndarray,
                 key: np.ndarray | None, value: np.ndarray | None, weights: bool) -> None:  # fmt: skip
        self.library = library
        self.handle = c_void_p()
        batch, query_len, embed_dim = query.shape
        names = {"in_proj_weight": "in_proj_weight", "in_proj_bias": "in_proj_bias", "out_proj_weight": "output_weight",
                 "out_proj_bias": "output_bias"}  # fmt: skip
        arithmetic = arithmetic_over(query)
        if arithmetic == BF16_ARITHMETIC:
            parameters = {name: bfloat16(array) if name.endswith("weight") else widened(bfloat16(array))
                          for name, array in parameters.items()}  # fmt: skip
        packed = LayerWeights(**{
            names[name]: dense(array) if name.endswith("weight") else array.ctypes.data
            for name, array in parameters.items()
        })  # fmt: skip
        config = LayerConfig(embed_dim=embed_dim, num_heads=heads, arithmetic=arithmetic)
        library.call("mha_layer_create", library.context, byref(config), byref(packed), byref(self.handle))
        key_len = query_len if key is None else key.shape[1]
        self.arrays = [array for array in (query, key, value) if array is not None]
        self.outputs = [empty(query.shape, query.dtype.type)]
        self.args = LayerArgs(batch=batch, query_len=query_len, key_len=key_len, query=dense(query),
                              arithmetic=arithmetic)  # fmt: skip
        if key is not None:
            self.args.key, self.args.value = dense(key), dense(value)
        self.args.output = dense(self.outputs[0], MutView)
        if weights:
            self.outputs.append(empty((batch, heads, query_len, key_len)))
        self.groups = Groups(self.args, self.outputs[1] if weights else None)
        arguments = (library.context, self.handle, byref(self.args))
        self.groups.take_workspace(library, "mha_layer_workspace_bytes", *arguments)
        library.call("mha_layer_forward", *arguments)
        self.run = library.prepared("mha_layer_forward", *arguments)

    def results(self) -> list[np.ndarray]:
        self.run()
        return [widened(array) for array in self.outputs]

    def __del__(self) -> None:
        self.library.lib.mha_layer_destroy(self.handle)
