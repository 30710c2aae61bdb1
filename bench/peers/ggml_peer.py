# SPDX-License-Identifier: Apache-2.0
"""ggml, llama.cpp's tensor library, through ctypes: ggml_flash_attn_ext and ggml_mul_mat in float32, and the former
over keys and values of 16 bits and in ggml's blocks of 32 codes, the latter with weights in such blocks.

PyPI has llama-cpp-python and ggml-python as sources only; the wheel of xllamacpp, another wrapper of llama.cpp, has
ggml inside and exports its functions. It is built for AVX2: the version says so."""

import ctypes
import importlib.util
from collections.abc import Callable
from ctypes import c_bool, c_char_p, c_float, c_int, c_int64, c_size_t, c_void_p
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np

import decode_inputs
from arrays import attention_inputs, coded_linear_inputs, linear_inputs
from cases import Case
from peer import Peer, Way

TYPES = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(np.uint16): 30}  # as in arrays.widened
BLOCKS = {"decode_int8": (8, "Q8_0"), "decode_int4": (2, "Q4_0")}  # a scale of 16 bits and 32 codes each
PRECISION_F32 = 10
FEATURES = ("avx512", "avx2", "avx")


class InitParams(ctypes.Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


class GgmlPeer(Peer):
    name = "ggml"
    settle_seconds = 0  # its OpenMP runtime is the system's libgomp, which libmha uses too

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        spec = importlib.util.find_spec("xllamacpp")
        if spec is None:
            raise ImportError("no wheel of xllamacpp")
        self.lib = ctypes.CDLL(str(next(Path(spec.submodule_search_locations[0]).glob("xllamacpp*.so"))))
        feature = next((name for name in FEATURES if self.function(f"ggml_cpu_has_{name}", c_int)()), "no AVX")
        version = self.function("ggml_version", c_char_p)().decode()
        self.version = f"{version} in xllamacpp {metadata.version('xllamacpp')}, {feature}"
        self.backend = self.function("ggml_backend_cpu_init", c_void_p)()
        self.function("ggml_backend_cpu_set_n_threads", None, c_void_p, c_int)(self.backend, threads)

    def function(self, name: str, result: object, *parameters: object) -> Callable:
        found = getattr(self.lib, name)
        found.restype, found.argtypes = result, list(parameters)
        return found

    def context(self) -> int:
        """For the headers of tensors; their data are in a buffer of the backend's, made by compute()."""
        return self.function("ggml_init", c_void_p, InitParams)(InitParams(1 << 20, None, True))

    def tensor(self, context: int, like: np.ndarray, kind: int | None = None) -> int:
        """A tensor for an array of at most four dimensions; ggml counts them from the last."""
        shape = [*reversed(like.shape), 1, 1, 1][:4]
        make = self.function("ggml_new_tensor_4d", c_void_p, c_void_p, c_int, *[c_int64] * 4)
        return make(context, TYPES[like.dtype] if kind is None else kind, *shape)

    def view(self, tensor: int, shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
        """The tensor's memory as an array."""
        address = self.function("ggml_get_data", c_void_p, c_void_p)(tensor)
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer((ctypes.c_char * count).from_address(address), dtype).reshape(shape)

    def compute(self, context: int, output: int) -> Callable[[], int]:
        """Gives every tensor its memory and returns the call that computes the graph of `output`."""
        graph = self.function("ggml_new_graph", c_void_p, c_void_p)(context)
        self.function("ggml_build_forward_expand", None, c_void_p, c_void_p)(graph, output)
        self.function("ggml_backend_alloc_ctx_tensors", c_void_p, c_void_p, c_void_p)(context, self.backend)
        run = self.function("ggml_backend_graph_compute", c_int, c_void_p, c_void_p)
        return partial(run, self.backend, graph)

    def linear_f32(self, case: Case) -> list[Callable[[], Way]]:
        def way() -> Way:
            source, weight, bias = linear_inputs(case.sizes)
            context = self.context()
            tensors = [self.tensor(context, array) for array in (source, weight)]
            output = self.function("ggml_mul_mat", c_void_p, *[c_void_p] * 3)(context, tensors[1], tensors[0])
            run = self.compute(context, output)
            inputs = [self.view(tensor, array.shape) for tensor, array in zip(tensors, (source, weight))]
            for view, array in zip(inputs, (source, weight)):
                view[...] = array
            result = self.view(output, (case["M"], case["N"]))
            return Way("mul_mat", run, partial(self.results, run, result), [*inputs, bias], bias=False)

        return [way]

    def linear_coded(self, case: Case) -> list[Callable[[], Way]]:
        """Both round inputs to Q8_0 within the product."""
        source, weight, bias = coded_linear_inputs(case.sizes)
        kind, name = (2, "Q4_0") if case.family == "linear_int4" else (8, "Q8_0")

        def way(repacked: bool) -> Way:
            weights, context = self.context(), self.context()
            stored = self.tensor(weights, weight, kind)
            size = self.function("ggml_nbytes", c_size_t, c_void_p)(stored)
            rows = np.empty(size, np.uint8)
            write = self.function("ggml_quantize_chunk", c_size_t, c_int, c_void_p, c_void_p, *[c_int64] * 3, c_void_p)
            write(kind, weight.ctypes.data, rows.ctypes.data, 0, *weight.shape, None)
            plain = self.function("ggml_backend_cpu_buffer_type", c_void_p)
            # Of C++ linkage. Weights lie in it as its fastest kernels want them, where it has such for the CPU.
            fastest = self.function("_Z35ggml_backend_cpu_repack_buffer_typev", c_void_p)
            allocate = self.function("ggml_backend_alloc_ctx_tensors_from_buft", c_void_p, c_void_p, c_void_p)
            if not allocate(weights, fastest() if repacked else plain()):
                raise RuntimeError("no buffer for the weights")
            put = self.function("ggml_backend_tensor_set", None, c_void_p, c_void_p, c_size_t, c_size_t)
            put(stored, rows.ctypes.data, 0, size)
            given = self.tensor(context, source)
            output = self.function("ggml_mul_mat", c_void_p, *[c_void_p] * 3)(context, stored, given)
            run = self.compute(context, output)
            view = self.view(given, source.shape)
            view[...] = source
            result = self.view(output, (case["M"], case["N"]))
            how = f"mul_mat, {name}" + (", repacked" if repacked else "")
            return Way(how, run, partial(self.results, run, result), [view, weight, bias], bias=False)

        # Q8_0 has a repacked form on Arm only; asking for it elsewhere ends the process.
        return [partial(way, False)] + ([partial(way, True)] if name == "Q4_0" else [])

    linear_int4 = linear_coded

    def linear_int8(self, case: Case) -> list[Callable[[], Way]]:
        return self.linear_coded(case) if case.sizes.get("group") else []

    def attention_f32(self, case: Case) -> list[Callable[[], Way]]:
        def way() -> Way:
            # Query, key and value lie in memory as [B, H, T, D]; the result as [B, T, H, D].
            arrays = [array.transpose(0, 2, 1, 3) for array in attention_inputs(case.sizes)]
            context = self.context()
            tensors = [self.tensor(context, array) for array in arrays]
            mask = np.zeros((case["Tq"], case["Tk"]), np.float16)
            mask[np.triu_indices(case["Tq"], 1 + case["Tk"] - case["Tq"], case["Tk"])] = -np.inf
            masking = self.tensor(context, mask) if case["causal"] else None
            output, run = self.flash(context, tensors, masking, case["D"])
            views = [self.view(tensor, array.shape) for tensor, array in zip(tensors, arrays)]
            for view, array in zip(views, arrays):
                view[...] = array
            if masking:
                self.view(masking, mask.shape, np.float16)[...] = mask
            result = self.view(output, (1, case["Tq"], case["H"], case["D"]))
            how = "flash_attn_ext, causal as a mask" if masking else "flash_attn_ext"
            return Way(how, run, partial(self.results, run, result), [view.transpose(0, 2, 1, 3) for view in views])

        return [way]

    def flash(self, context: int, tensors: list[int], masking: int | None, dim: int) -> tuple[int, Callable[[], int]]:
        """The result's tensor, and the call."""
        attend = self.function("ggml_flash_attn_ext", c_void_p, *[c_void_p] * 5, *[c_float] * 3)
        output = attend(context, *tensors, masking, dim**-0.5, 0, 0)
        self.function("ggml_flash_attn_ext_set_prec", None, c_void_p, c_int)(output, PRECISION_F32)
        return output, self.compute(context, output)

    def quantize(self, array: np.ndarray, tensor: int, kind: int) -> None:
        rows, width = array.size // array.shape[-1], array.shape[-1]
        write = self.function("ggml_quantize_chunk", c_size_t, c_int, c_void_p, c_void_p, *[c_int64] * 3, c_void_p)
        write(kind, array.ctypes.data, self.function("ggml_get_data", c_void_p, c_void_p)(tensor), 0, rows, width, None)

    def decode(self, case: Case) -> list[Callable[[], Way]]:
        heads, kv_heads, dim = (case[name] for name in ("H", "Hkv", "D"))
        kind, name = BLOCKS.get(case.family, (None, case.family.removeprefix("decode_").upper()))

        def way(rows: int) -> Way:
            """`rows`: as how many queries of H / rows heads the one query is given."""
            given = decode_inputs.floats(case.sizes)
            query = given[0].reshape(1, heads // rows, rows, dim)
            cache = [decode_inputs.heads_first(array if kind else decode_inputs.rounded(array, case.family))
                     for array in given[1:]]  # fmt: skip
            context = self.context()
            tensors = [self.tensor(context, query), *(self.tensor(context, array, kind) for array in cache)]
            output, run = self.flash(context, tensors, None, dim)
            self.view(tensors[0], query.shape)[...] = query
            for n, (array, tensor) in enumerate(zip(cache, tensors[1:])):
                if kind:
                    self.quantize(array, tensor, kind)
                else:
                    cache[n] = self.view(tensor, array.shape, array.dtype.type)
                    cache[n][...] = array
            result = self.view(output, (1, rows, heads // rows, dim))

            def results() -> list[np.ndarray]:
                return [decode_inputs.heads_first(self.results(run, result)[0]).reshape(1, 1, heads, dim)]

            how = f"flash_attn_ext, {name}" + (", group as rows" if rows > 1 else "")
            return Way(how, run, results, [given[0], *map(decode_inputs.heads_first, cache)])

        return [partial(way, rows) for rows in dict.fromkeys((1, heads // kv_heads))]

    decode_bf16 = decode_f16 = decode_int8 = decode_int4 = decode

    @staticmethod
    def results(run: Callable[[], int], result: np.ndarray) -> list[np.ndarray]:
        result.fill(np.nan)
        if run() != 0:
            raise RuntimeError("ggml_backend_graph_compute failed")
        return [result]
