# SPDX-License-Identifier: Apache-2.0
"""ggml's CPU backend and the adapter, through ctypes: tensors over numpy arrays, graphs, both attention nodes.

The wheel of xllamacpp has ggml inside and exports its functions; the adapter takes them from there."""

import ctypes
import importlib.util
import os
from ctypes import c_bool, c_char_p, c_float, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Self

import numpy as np

TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20, "bf16": 30, "q1_0": 41, "q2_0": 42}
SERVED = ("f32", "f16", "bf16", "q8_0", "q4_0")
BLOCK = 32  # elements, of each type whose name has a q


class InitParams(ctypes.Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


# Function: result, then parameters. Pointers are addresses.
SIGNATURES = {
    "ggml_init": (c_void_p, InitParams),
    "ggml_free": (None, c_void_p),
    "ggml_version": (c_char_p,),
    "ggml_op_name": (c_char_p, c_int),
    "ggml_type_name": (c_char_p, c_int),
    "ggml_tensor_overhead": (c_size_t,),
    "ggml_nbytes": (c_size_t, c_void_p),
    "ggml_get_data": (c_void_p, c_void_p),
    "ggml_row_size": (c_size_t, c_int, c_int64),
    "ggml_new_tensor_4d": (c_void_p, c_void_p, c_int, *[c_int64] * 4),
    "ggml_view_4d": (c_void_p, c_void_p, c_void_p, *[c_int64] * 4, *[c_size_t] * 4),
    "ggml_permute": (c_void_p, c_void_p, c_void_p, *[c_int] * 4),
    "ggml_quantize_chunk": (c_size_t, c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p),
    "ggml_flash_attn_ext": (c_void_p, *[c_void_p] * 5, *[c_float] * 3),
    "ggml_flash_attn_ext_add_sinks": (None, c_void_p, c_void_p),
    "ggml_new_graph": (c_void_p, c_void_p),
    "ggml_build_forward_expand": (None, c_void_p, c_void_p),
    "ggml_backend_cpu_init": (c_void_p,),
    "ggml_backend_cpu_set_n_threads": (None, c_void_p, c_int),
    "ggml_backend_free": (None, c_void_p),
    "ggml_backend_alloc_ctx_tensors": (c_void_p, c_void_p, c_void_p),
    "ggml_backend_buffer_free": (None, c_void_p),
    "ggml_backend_graph_compute": (c_int, c_void_p, c_void_p),
    "mha_ggml_new": (c_void_p,),
    "mha_ggml_free": (None, c_void_p),
    "mha_ggml_attention": (c_void_p, c_void_p, c_void_p, c_void_p),
    "mha_ggml_reason": (c_char_p, c_void_p),
}


def load() -> dict:
    spec = importlib.util.find_spec("xllamacpp")
    wheel = next(Path(spec.submodule_search_locations[0]).glob("xllamacpp*.so"))
    engine = ctypes.CDLL(str(wheel), mode=ctypes.RTLD_GLOBAL)
    adapter = ctypes.CDLL(str(Path(os.environ["MHA_ENGINE_BUILD"]) / "libmha_ggml.so"))
    functions = {}
    for name, (result, *parameters) in SIGNATURES.items():
        function = getattr(adapter if name.startswith("mha_") else engine, name)
        function.restype, function.argtypes = result, parameters
        functions[name] = function
    return functions


FUNCTIONS = load()


def call(name: str, *arguments: object) -> object:
    return FUNCTIONS[f"ggml_{name}"](*arguments)


def layout(tensor: int) -> tuple[list[int], list[int]]:
    """ne and nb of a ggml_tensor, which begins with its type and its buffer."""
    return list((c_int64 * 4).from_address(tensor + 16)), list((c_size_t * 4).from_address(tensor + 48))


class Backend:
    """ggml's CPU backend, and the adapter's handle for it."""

    def __init__(self, threads: int) -> None:
        self.backend = call("backend_cpu_init")
        call("backend_cpu_set_n_threads", self.backend, threads)
        self.mha = FUNCTIONS["mha_ggml_new"]()
        if not self.mha:
            raise RuntimeError("mha_ggml_new gave NULL")

    def close(self) -> None:
        FUNCTIONS["mha_ggml_free"](self.mha)
        call("backend_free", self.backend)


class Graph:
    """Tensors and the graphs over them. Use as a context manager; memory is given by allocate()."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.context = call("init", InitParams(4 << 20, None, True))
        self.buffer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.buffer:
            call("backend_buffer_free", self.buffer)
        call("free", self.context)

    def tensor(self, kind: str, *sizes: int) -> int:
        """Sizes as ggml counts them: the dense dimension first."""
        return call("new_tensor_4d", self.context, TYPES[kind], *(list(sizes) + [1, 1, 1])[:4])

    def flash(self, inputs: tuple, scale: float, max_bias: float, softcap: float) -> int:
        """ggml's own node; inputs: q, k, v, mask, sinks."""
        node = call("flash_attn_ext", self.context, *inputs[:4], scale, max_bias, softcap)
        call("flash_attn_ext_add_sinks", node, inputs[4])
        return node

    def mha(self, flash: int) -> tuple[int, str]:
        """The adapter's node for ggml's, or that one itself and the reason."""
        node = FUNCTIONS["mha_ggml_attention"](self.backend.mha, self.context, flash)
        return node, FUNCTIONS["mha_ggml_reason"](self.backend.mha).decode()

    def allocate(self) -> None:
        self.buffer = call("backend_alloc_ctx_tensors", self.context, self.backend.backend)

    def memory(self, tensor: int) -> np.ndarray:
        """All bytes, as [size]."""
        size = call("nbytes", tensor)
        return np.frombuffer((ctypes.c_char * size).from_address(call("get_data", tensor)), np.uint8)

    def rows(self, tensor: int, kind: str, width: int) -> np.ndarray:
        """The bytes of a tensor or view, as [ne3, ne2, ne1, bytes of a row]."""
        sizes, steps = layout(tensor)
        shape = (*reversed(sizes[1:]), call("row_size", TYPES[kind], width))
        return np.lib.stride_tricks.as_strided(self.memory(tensor), shape, (*reversed(steps[1:]), 1))

    def plan(self, node: int) -> int:
        graph = call("new_graph", self.context)
        call("build_forward_expand", graph, node)
        return graph

    def compute(self, graph: int) -> None:
        if call("backend_graph_compute", self.backend.backend, graph) != 0:
            raise RuntimeError("ggml_backend_graph_compute failed")


def stored(kind: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of floats in `kind`: their bytes, and the numbers that these stand for."""
    rows = np.ascontiguousarray(rows, np.float32)
    if kind == "f32":
        return rows.view(np.uint8), rows.astype(np.float64)
    if kind == "f16":
        halves = rows.astype(np.float16)
        return halves.view(np.uint8), halves.astype(np.float64)
    if kind == "bf16":
        upper = ((rows.view(np.uint32) + 0x8000) >> 16).astype(np.uint16)
        return upper.view(np.uint8), (upper.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    width = rows.shape[-1]
    blocks = np.empty((*rows.shape[:-1], call("row_size", TYPES[kind], width)), np.uint8)
    call("quantize_chunk", TYPES[kind], rows.ctypes.data, blocks.ctypes.data, 0, rows.size // width, width, None)
    return blocks, widened(kind, blocks).reshape(rows.shape)


def widened(kind: str, blocks: np.ndarray) -> np.ndarray:
    """What blocks of q8_0 and q4_0 stand for: an f16 scale, then 32 codes."""
    blocks = blocks.reshape(-1, {"q8_0": 34, "q4_0": 18}[kind])
    scale = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float64)
    codes = blocks[:, 2:]
    if kind == "q4_0":  # the lower halves of the bytes are the first 16
        return scale * (np.concatenate([codes & 15, codes >> 4], axis=1).astype(np.float64) - 8)
    return scale * codes.view(np.int8).astype(np.float64)
