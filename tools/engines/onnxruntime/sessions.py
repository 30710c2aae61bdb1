# SPDX-License-Identifier: Apache-2.0
"""Sessions of ONNX Runtime, with and without mha's operators, for the tests and bench.py."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

BUILD = Path(os.environ["MHA_ENGINE_BUILD"])
ONNX_OPERATORS = BUILD / "libmha_onnxruntime.so"
MICROSOFT_OPERATORS = BUILD / "libmha_onnxruntime_microsoft.so"
MICROSOFT = "com.microsoft"
FLOAT = TensorProto.FLOAT


def session(model: bytes | str, libraries: tuple[Path, ...] = (), threads: int = 1, **entries: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 2
    options.add_session_config_entry("mha.num_threads", str(threads))
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    for library in libraries:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def one_node(kind: str, domain: str, inputs: dict[str, np.ndarray | None], outputs: list[str], constants: tuple[str, ...] = (),
             opset: int = 24, **attributes: object) -> bytes:  # fmt: skip
    """A model of one node. An input that is None, or an output "", is not given. The shapes of results are left open."""
    given = {name: array for name, array in inputs.items() if array is not None}
    names = [name if array is not None else "" for name, array in inputs.items()]
    while names and not names[-1]:
        names.pop()
    node = helper.make_node(kind, names, outputs, domain=domain, name="the_node", **attributes)
    types = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in given.items()}
    cache = types.get("past_key", types[names[0]])
    graph = helper.make_graph(
        [node],
        "one_node",
        [helper.make_tensor_value_info(name, types[name], array.shape) for name, array in given.items() if name not in constants],
        [helper.make_tensor_value_info(name, cache if name.startswith("present") else types[names[0]], None)
         for name in outputs if name],
        [numpy_helper.from_array(given[name], name) for name in constants if name in given],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
