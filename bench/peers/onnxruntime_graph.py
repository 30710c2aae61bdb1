# SPDX-License-Identifier: Apache-2.0
"""ONNX models in the making, and the two with attention that several families of cases need."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from arrays import empty

MICROSOFT = "com.microsoft"
ONNX_TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float16): TensorProto.FLOAT16,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(np.uint8): TensorProto.UINT8,
}


class Graph:
    """A model in the making: nodes in order, constants, inputs and results with their memory."""

    def __init__(self) -> None:
        self.nodes, self.constants = [], []
        self.inputs: dict[str, np.ndarray] = {}
        self.outputs: dict[str, np.ndarray] = {}

    def input(self, name: str, array: np.ndarray) -> str:
        assert array.flags.c_contiguous
        self.inputs[name] = array
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def output(self, name: str, shape: tuple[int, ...], memory: np.ndarray | None = None) -> str:
        self.outputs[name] = empty(shape) if memory is None else memory
        return name

    def node(
        self, kind: str, inputs: list[str], outputs: list[str] | str, domain: str = "", **attributes: object
    ) -> str:
        outputs = [outputs] if isinstance(outputs, str) else outputs
        self.nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def model(self) -> bytes:
        def described(arrays: dict[str, np.ndarray]) -> list:
            return [helper.make_tensor_value_info(name, ONNX_TYPES[array.dtype], array.shape)
                    for name, array in arrays.items()]  # fmt: skip

        graph = helper.make_graph(self.nodes, "peer", described(self.inputs), described(self.outputs), self.constants)
        opsets = [helper.make_opsetid("", 23), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def attention(query: np.ndarray, key: np.ndarray, value: np.ndarray, **attributes: int) -> Graph:
    """ONNX's own operator over [B, H, T, D]."""
    graph = Graph()
    names = [graph.input(name, array) for name, array in (("query", query), ("key", key), ("value", value))]
    output = graph.output("output", query.shape, empty(query.shape, query.dtype.type))
    graph.node("Attention", names, output, **attributes)
    return graph


def grouped_query(query: np.ndarray, newest: list[np.ndarray], past: list[np.ndarray], heads: int,
                  scales: list[np.ndarray] | None = None, **attributes: object) -> Graph:  # fmt: skip
    """ONNX Runtime's operator for language models: causal by default, with a cache that it adds the newest keys to.
    `newest` are flat, [1, T, Hkv * D]; `past` has room for them at its end and is [1, Hkv, Tk, D]."""
    graph = Graph()
    kv_heads, keys = past[0].shape[1:3]
    cache = dict(zip(("key", "value"), past))
    names = [graph.input("query", query)]
    names += [graph.input(name, array) for name, array in zip(("key", "value"), newest)]
    names += [graph.input(f"past_{name}", array) for name, array in cache.items()]
    names.append(graph.input("last", np.array([keys - 1], np.int32)))
    names.append(graph.input("total", np.array(keys, np.int32)))
    if scales is not None:  # five inputs in between are not given
        names += [""] * 5 + [graph.constant(name, array) for name, array in zip(("k_scale", "v_scale"), scales)]
    outputs = [graph.output("output", query.shape, empty(query.shape, query.dtype.type))]
    outputs += [graph.output(f"present_{name}", array.shape, array) for name, array in cache.items()]
    graph.node("GroupQueryAttention", names, outputs, MICROSOFT, num_heads=heads, kv_num_heads=kv_heads, **attributes)
    return graph
