# SPDX-License-Identifier: Apache-2.0
"""oneDNN: its matrix product with weights in the blocked format that it asks for.

The library is the one inside torch's wheel, called through torch's operator for it. oneDNN's own wheel runs CPU work
through SYCL and OpenCL only, which is not how engines use it."""

import re
from collections.abc import Callable
from functools import partial

import torch

from arrays import linear_inputs
from cases import Case
from peer import Peer, Way
from torch_peer import as_numpy, packed_for_onednn


class OneDnnPeer(Peer):
    name = "onednn"
    settle_seconds = 0  # as torch: one libgomp

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        torch.set_num_threads(threads)
        self.mode = torch.inference_mode()
        self.mode.__enter__()
        found = re.search(r"MKL-DNN v([\d.]+)", torch.__config__.show())
        self.version = f"{found.group(1) if found else 'unknown'} in torch {torch.__version__}"

    def linear_f32(self, case: Case) -> list[Callable[[], Way]]:
        arrays = linear_inputs(case.sizes)

        def way() -> Way:
            source, weight, bias = (torch.from_numpy(array) for array in arrays)
            run = partial(packed_for_onednn(weight, bias, case["M"]), source)
            return Way("matmul, packed", run, lambda: as_numpy(run()), list(arrays))

        return [way]
