# SPDX-License-Identifier: Apache-2.0
"""Nets of one layer in ncnn, through its C interface, with or without mha's layers. Blobs are arrays [h, w] or [c, h, w]."""

import ctypes
import os
from collections.abc import Mapping, Sequence
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_void_p
from pathlib import Path

import numpy as np

_build = Path(os.environ["MHA_ENGINE_BUILD"])
_adapter = ctypes.CDLL(str(_build / "libmha_ncnn.so"))  # brings ncnn's library with it
_ncnn = ctypes.CDLL(str(next(_build.rglob("libncnn.so"))))


def _declare(library: ctypes.CDLL, name: str, result: object, *arguments: object) -> None:
    function = getattr(library, name)
    function.restype, function.argtypes = result, arguments


for _name in ("mat", "net", "option"):
    if _name != "mat":
        _declare(_ncnn, f"ncnn_{_name}_create", c_void_p)
    _declare(_ncnn, f"ncnn_{_name}_destroy", None, c_void_p)
_declare(_ncnn, "ncnn_extractor_create", c_void_p, c_void_p)
_declare(_ncnn, "ncnn_extractor_destroy", None, c_void_p)
_declare(_ncnn, "ncnn_extractor_input", c_int, c_void_p, c_char_p, c_void_p)
_declare(_ncnn, "ncnn_extractor_extract", c_int, c_void_p, c_char_p, POINTER(c_void_p))
_declare(_ncnn, "ncnn_net_set_option", None, c_void_p, c_void_p)
_declare(_ncnn, "ncnn_net_load_param_memory", c_int, c_void_p, c_char_p)
_declare(_ncnn, "ncnn_net_load_model_memory", c_size_t, c_void_p, c_void_p)
_declare(_ncnn, "ncnn_mat_create_2d", c_void_p, c_int, c_int, c_void_p)
_declare(_ncnn, "ncnn_mat_create_3d", c_void_p, c_int, c_int, c_int, c_void_p)
_declare(_ncnn, "ncnn_mat_create_3d_batch", c_void_p, c_int, c_int, c_int, c_int, c_void_p)
_declare(_ncnn, "ncnn_mat_create", c_void_p)
_declare(_ncnn, "ncnn_mat_get_data", c_void_p, c_void_p)
_declare(_ncnn, "ncnn_mat_get_cstep", c_size_t, c_void_p)
for _name in ("dims", "w", "h", "c"):
    _declare(_ncnn, f"ncnn_mat_get_{_name}", c_int, c_void_p)
_declare(_adapter, "mha_ncnn_register_layers", c_int, c_void_p)


class Blob:
    """A blob of ncnn's."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __del__(self) -> None:
        _ncnn.ncnn_mat_destroy(self.handle)

    @classmethod
    def of(cls, array: np.ndarray | None) -> "Blob":
        """A copy; None: an empty one, which stands for a cache without tokens."""
        if array is None:
            return cls(_ncnn.ncnn_mat_create())
        *channels, height, width = array.shape
        if channels:
            blob = cls(_ncnn.ncnn_mat_create_3d(width, height, *channels, None))
        else:
            blob = cls(_ncnn.ncnn_mat_create_2d(width, height, None))
        blob.view()[...] = array
        return blob

    @classmethod
    def of_batch(cls, items: int, channels: int, height: int, width: int) -> "Blob":
        """A batch whose values are not set."""
        return cls(_ncnn.ncnn_mat_create_3d_batch(width, height, channels, items, None))

    def view(self) -> np.ndarray:
        """The floats where they are."""
        dims, w, h, c = (getattr(_ncnn, f"ncnn_mat_get_{name}")(self.handle) for name in ("dims", "w", "h", "c"))
        step = _ncnn.ncnn_mat_get_cstep(self.handle)
        floats = np.ctypeslib.as_array(ctypes.cast(_ncnn.ncnn_mat_get_data(self.handle), POINTER(c_float)), (c * step,))
        channels = np.lib.stride_tricks.as_strided(floats, (c, h, w), (4 * step, 4 * w, 4))
        return channels if dims == 3 else channels[0]


class Net:
    """`layer` with `parameters` (ncnn's numbers), `inputs` and `outputs` blobs. weights: arrays as the layer loads them;
    those of 2 dimensions have a tag of their storage before them. options: of ncnn's Option, as use_bf16_storage=1."""

    def __init__(
        self,
        layer: str,
        parameters: Mapping[int, int | float],
        inputs: int,
        outputs: int = 1,
        *,
        mha: bool,
        weights: Sequence[np.ndarray] = (),
        **options: int,
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        self.handle = _ncnn.ncnn_net_create()
        option = _ncnn.ncnn_option_create()
        for name, value in options.items():
            getattr(_ncnn, f"ncnn_option_set_{name}")(c_void_p(option), c_int(value))
        _ncnn.ncnn_net_set_option(self.handle, option)
        _ncnn.ncnn_option_destroy(option)
        if mha and _adapter.mha_ncnn_register_layers(self.handle) != 0:
            raise RuntimeError("mha's layers cannot be registered")
        names = [f"in{n}" for n in range(inputs)], [f"out{n}" for n in range(outputs)]
        lines = ["7767517", f"{inputs + 1} {inputs + outputs}", *(f"Input {name} 0 1 {name}" for name in names[0])]
        given = " ".join(f"{number}={value}" for number, value in parameters.items())
        lines.append(f"{layer} layer {inputs} {outputs} {' '.join(names[0])} {' '.join(names[1])} {given}\n")
        self.bytes = b"".join(bytes(4) * (x.ndim == 2) + np.ascontiguousarray(x, np.float32).tobytes() for x in weights)
        # ncnn's own layers read the weights in place.
        self.model = np.frombuffer(self.bytes or bytes(4), np.uint8).copy()
        if _ncnn.ncnn_net_load_param_memory(self.handle, "\n".join(lines).encode()) != 0:
            raise ValueError("ncnn refuses the parameters")
        if _ncnn.ncnn_net_load_model_memory(self.handle, self.model.ctypes.data) != len(self.bytes):
            raise ValueError("ncnn refuses the weights")

    def __del__(self) -> None:
        _ncnn.ncnn_net_destroy(self.handle)

    def run(self, *blobs: Blob) -> list[Blob]:
        extractor = _ncnn.ncnn_extractor_create(self.handle)
        try:
            for n, blob in enumerate(blobs):
                _ncnn.ncnn_extractor_input(extractor, f"in{n}".encode(), blob.handle)
            results = []
            for n in range(self.outputs):
                handle = c_void_p()
                if _ncnn.ncnn_extractor_extract(extractor, f"out{n}".encode(), byref(handle)) != 0:
                    raise ValueError("the layer refuses its inputs")
                results.append(Blob(handle.value))
            return results
        finally:
            _ncnn.ncnn_extractor_destroy(extractor)

    def __call__(self, *arrays: np.ndarray | None) -> list[np.ndarray]:
        return [blob.view().copy() for blob in self.run(*map(Blob.of, arrays))]
