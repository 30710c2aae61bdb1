# SPDX-License-Identifier: Apache-2.0
"""libmha through ctypes: just what the comparison calls.

A prepared call (Linear, Attention, Layer) has everything made in advance, as an engine would: packed weights,
workspace, argument struct. Its `run` is then one foreign call with ready pointers; what ctypes adds (some 0.3 µs)
counts against mha.
"""

import ctypes
from collections.abc import Callable
from ctypes import byref, c_char_p, c_int64, c_size_t, c_void_p
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from arrays import empty, empty_like
from header import read_structs

WEIGHTS_PER_HEAD = 1
CAUSAL_BOTTOM_RIGHT = 1


STRUCTS = read_structs(Path(__file__).resolve().parents[2] / "core" / "mha.h")
Error, ContextOptions = STRUCTS["mha_error"], STRUCTS["mha_context_options"]
View, MutView = STRUCTS["mha_view"], STRUCTS["mha_mut_view"]
AttentionArgs, LinearArgs, ForwardArgs = (STRUCTS[f"mha_{name}_args"] for name in ("attention", "linear", "forward"))
LayerConfig, LayerWeights = STRUCTS["mha_layer_config"], STRUCTS["mha_layer_weights"]


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


def view_of_heads(array: np.ndarray, kind: type = View) -> Any:
    """Of [B, T, H, D] with any strides that the library takes."""
    return kind(array.ctypes.data, *(stride // array.itemsize for stride in array.strides))


class Attention:
    """mha_attention over [B, T, H, D] arrays; results() are output and, where asked for, weights [B, H, Tq, Tk]."""

    def __init__(
        self, library: Library, query: np.ndarray, key: np.ndarray, value: np.ndarray, causal: bool, weights: bool
    ):
        batch, query_len, heads, head_dim = query.shape
        self.output = empty_like(query)
        self.args = AttentionArgs(
            batch=batch, num_heads=heads, num_kv_heads=key.shape[2], query_len=query_len, key_len=key.shape[1],
            head_dim=head_dim, query=view_of_heads(query), key=view_of_heads(key), value=view_of_heads(value),
            output=view_of_heads(self.output, MutView),
        )  # fmt: skip
        self.args.masks.causal = CAUSAL_BOTTOM_RIGHT if causal else 0
        self.arrays = [query, key, value, self.output]
        if weights:
            self.weights = empty((batch, heads, query_len, key.shape[1]))
            self.arrays.append(self.weights)
            self.args.weights_mode = WEIGHTS_PER_HEAD
            self.args.weights.data = self.weights.ctypes.data
        bytes_needed = c_size_t()
        library.call("mha_attention_workspace", library.context, byref(self.args), byref(bytes_needed))
        self.workspace = empty((bytes_needed.value,), np.uint8)
        self.args.workspace = self.workspace.ctypes.data
        self.args.workspace_bytes = bytes_needed.value
        library.call("mha_attention", library.context, byref(self.args))  # with its message, should it fail
        self.run = library.prepared("mha_attention", library.context, byref(self.args))

    def results(self) -> list[np.ndarray]:
        self.run()
        return self.arrays[3:]


class Linear:
    """mha_linear_forward with packed weights."""

    def __init__(self, library: Library, source: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> None:
        self.library = library
        self.handle = c_void_p()
        features = (c_int64(weight.shape[1]), c_int64(weight.shape[0]))
        pointers = (c_void_p(weight.ctypes.data), c_void_p(bias.ctypes.data if bias is not None else None))
        library.call("mha_linear_create", library.context, *features, *pointers, byref(self.handle))
        self.output = empty((source.shape[0], weight.shape[0]))
        self.args = LinearArgs(rows=source.shape[0], input=source.ctypes.data, output=self.output.ctypes.data)
        self.source = source
        library.call("mha_linear_forward", library.context, self.handle, byref(self.args))
        self.run = library.prepared("mha_linear_forward", library.context, self.handle, byref(self.args))

    def results(self) -> list[np.ndarray]:
        self.run()
        return [self.output]

    def __del__(self) -> None:
        self.library.lib.mha_linear_destroy(self.handle)


class Layer:
    """mha_layer_forward over [B, T, E] arrays; key and value None: self-attention."""

    def __init__(self, library: Library, parameters: dict[str, np.ndarray], heads: int, query: np.ndarray,
                 key: np.ndarray | None, value: np.ndarray | None, weights: bool) -> None:  # fmt: skip
        self.library = library
        self.handle = c_void_p()
        batch, query_len, embed_dim = query.shape
        names = {"in_proj_weight": "in_proj_weight", "in_proj_bias": "in_proj_bias", "out_proj_weight": "output_weight",
                 "out_proj_bias": "output_bias"}  # fmt: skip
        packed = LayerWeights(**{names[name]: array.ctypes.data for name, array in parameters.items()})
        config = LayerConfig(embed_dim=embed_dim, num_heads=heads)
        library.call("mha_layer_create", library.context, byref(config), byref(packed), byref(self.handle))
        key_len = query_len if key is None else key.shape[1]
        self.arrays = [array for array in (query, key, value) if array is not None]
        self.outputs = [empty(query.shape)]
        self.args = ForwardArgs(batch=batch, query_len=query_len, key_len=key_len)
        self.args.query.data = query.ctypes.data
        if key is not None:
            self.args.key.data, self.args.value.data = key.ctypes.data, value.ctypes.data
        self.args.output.data = self.outputs[0].ctypes.data
        if weights:
            self.outputs.append(empty((batch, heads, query_len, key_len)))
            self.args.weights_mode = WEIGHTS_PER_HEAD
            self.args.weights.data = self.outputs[1].ctypes.data
        arguments = (library.context, self.handle, byref(self.args))
        bytes_needed = c_size_t()
        library.call("mha_layer_forward_workspace", *arguments, byref(bytes_needed))
        self.workspace = empty((bytes_needed.value,), np.uint8)
        self.args.workspace, self.args.workspace_bytes = self.workspace.ctypes.data, bytes_needed.value
        library.call("mha_layer_forward", *arguments)
        self.run = library.prepared("mha_layer_forward", *arguments)

    def results(self) -> list[np.ndarray]:
        self.run()
        return self.outputs

    def __del__(self) -> None:
        self.library.lib.mha_layer_destroy(self.handle)
