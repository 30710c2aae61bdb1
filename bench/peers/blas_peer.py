# SPDX-License-Identifier: Apache-2.0
"""BLAS libraries through ctypes: OpenBLAS and MKL, whose sgemm is the linear layer without its bias."""

import ctypes
import os
import sys
from collections.abc import Callable
from ctypes import c_float, c_int, c_size_t, c_void_p
from functools import partial
from pathlib import Path

from arrays import empty, linear_inputs
from cases import Case
from peer import Peer, Way

ROW_MAJOR, NO_TRANS, TRANS, PACKED, B_MATRIX = 101, 111, 112, 151, 162


class BlasPeer(Peer):
    """sgemm of a library with CBLAS's interface; `symbol` finds a function in it."""

    def symbol(self, name: str) -> Callable:
        raise NotImplementedError

    def linear_f32(self, case: Case) -> list[Callable[[], Way]]:
        source, weight, bias = linear_inputs(case.sizes)
        rows, features, width = (case[key] for key in ("M", "N", "K"))
        output = empty((rows, features))

        def way(how: str, run: Callable[[], object], *keep: object) -> Way:
            def results() -> list:
                output.fill(float("nan"))
                run()
                return [output]

            return Way(how, run, results, [source, weight, bias], bias=False, keep=list(keep))

        def pointers(*arrays: object) -> list[c_void_p]:
            return [c_void_p(array.ctypes.data) for array in arrays]

        def sgemm(transposed: int, stored: object) -> Way:
            x, w, y = pointers(source, stored, output)
            sizes = [c_int(rows), c_int(features), c_int(width)]
            run = partial(self.symbol("cblas_sgemm"), ROW_MAJOR, NO_TRANS, transposed, *sizes, c_float(1), x,
                          c_int(width), w, c_int(stored.shape[1]), c_float(0), y, c_int(features))  # fmt: skip
            return way("sgemm" if transposed == NO_TRANS else "sgemm, weight transposed", run, stored)

        def sgemv() -> Way:
            w, x, y = pointers(weight, source, output)
            run = partial(self.symbol("cblas_sgemv"), ROW_MAJOR, NO_TRANS, c_int(features), c_int(width), c_float(1), w,
                          c_int(width), x, c_int(1), c_float(0), y, c_int(1))  # fmt: skip
            return way("sgemv", run)

        def packed() -> Way:
            sizes = [c_int(rows), c_int(features), c_int(width)]
            size_of = self.symbol("cblas_sgemm_pack_get_size")
            size_of.restype = c_size_t
            stored = empty((size_of(B_MATRIX, *sizes) // 4,))
            x, w, p, y = pointers(source, weight, stored, output)
            self.symbol("cblas_sgemm_pack")(ROW_MAJOR, B_MATRIX, TRANS, *sizes, c_float(1), w, c_int(width), p)
            run = partial(self.symbol("cblas_sgemm_compute"), ROW_MAJOR, NO_TRANS, PACKED, *sizes, x, c_int(width), p,
                          c_int(width), c_float(0), y, c_int(features))  # fmt: skip
            return way("sgemm_compute, packed", run, stored)

        # MKL alone has the packed calls; where a library has none, that way fails and is left out.
        makers = [partial(sgemm, TRANS, weight), lambda: sgemm(NO_TRANS, weight.T.copy()), packed]
        return makers + [sgemv] if rows == 1 else makers


class OpenBlasPeer(BlasPeer):
    name = "openblas"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import scipy_openblas32

        folder = Path(scipy_openblas32.get_lib_dir())
        self.lib = ctypes.CDLL(str(next(folder.glob("libscipy_openblas*.so"))))
        self.symbol("openblas_set_num_threads")(threads)
        config = self.symbol("openblas_get_config")
        config.restype = ctypes.c_char_p
        core = self.symbol("openblas_get_corename")
        core.restype = ctypes.c_char_p
        self.version = f"{config().split()[1].decode()} {core().decode()}"

    def symbol(self, name: str) -> Callable:
        return getattr(self.lib, f"scipy_{name}")


class MklPeer(BlasPeer):
    name = "mkl"
    settle_seconds = 0  # told to use libgomp, which libmha uses too

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        os.environ.update(MKL_THREADING_LAYER="GNU", MKL_INTERFACE_LAYER="LP64")
        ctypes.CDLL("libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
        self.lib = ctypes.CDLL(str(next(Path(sys.prefix, "lib").glob("libmkl_rt.so*"))))
        self.symbol("MKL_Set_Num_Threads")(c_int(threads))
        text = ctypes.create_string_buffer(200)
        self.symbol("MKL_Get_Version_String")(text, c_int(len(text)))
        self.version = text.value.decode().partition("Version ")[2].split("-")[0]

    def symbol(self, name: str) -> Callable:
        return getattr(self.lib, name)
