# SPDX-License-Identifier: Apache-2.0
"""OpenVINO: its scaled_dot_product_attention, and matrix products with constant weights; for latency, in float32 or in
bfloat16.

By default its CPU plugin computes in bfloat16 where the CPU can; inference_precision says which it is. The executed
graph is looked at: a node of another precision (in bfloat16: no attention or product in it) makes the case fail."""

from collections.abc import Callable
from functools import partial

import numpy as np
import openvino
import openvino.properties as properties
from openvino import opset13 as op
from openvino.properties import hint

import codes
import openvino_decode
from arrays import attention_inputs, bfloat16, by_head, coded_linear_inputs, empty, forward_input, layer_weights
from arrays import linear_inputs, notebook_inputs, widened
from cases import Case
from peer import Peer, Way


# The layers of the executed graph that do the work.
WORK = ("ScaledDotProductAttention", "FullyConnected", "MatMul")


def is_bf16(array: np.ndarray) -> bool:
    return array.dtype == np.uint16  # as in arrays.widened


def type_of(array: np.ndarray) -> openvino.Type:
    return openvino.Type.bf16 if is_bf16(array) else openvino.Type.f32


def tensor_of(array: np.ndarray) -> openvino.Tensor:
    """Over the array's own memory."""
    if is_bf16(array):
        return openvino.Tensor(array, openvino.Shape(array.shape), openvino.Type.bf16)
    return openvino.Tensor(array, shared_memory=True)


def constant(array: np.ndarray) -> openvino.Node:
    return openvino.op.Constant(tensor_of(np.ascontiguousarray(array)), False)  # a copy of its own


class OpenVinoPeer(Peer):
    name = "openvino"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.version = openvino.__version__.split("-")[0]
        self.core = openvino.Core()
        self.config = {
            properties.inference_num_threads(): threads,
            properties.num_streams(): 1,
            hint.performance_mode(): hint.PerformanceMode.LATENCY,
            hint.inference_precision(): openvino.Type.f32,
            hint.execution_mode(): hint.ExecutionMode.ACCURACY,
        }

    def compile(
        self, outputs: list[openvino.Output], parameters: list[openvino.Node], in_bf16: bool
    ) -> openvino.CompiledModel:
        config = self.config
        if in_bf16:
            config = {**config, hint.inference_precision(): openvino.Type.bf16}
            del config[hint.execution_mode()]  # ACCURACY would compute in float32
        compiled = self.core.compile_model(openvino.Model(outputs, parameters, "peer"), "CPU", config)
        for node in compiled.get_runtime_model().get_ops():
            info = node.get_rt_info()
            precision = info["runtimePrecision"].astype(str) if "runtimePrecision" in info else "f32"
            wrong = precision != "bf16" and info["layerType"].astype(str) in WORK if in_bf16 else (
                precision in ("bf16", "f16"))  # fmt: skip
            if wrong:
                raise RuntimeError(f"node {node.get_friendly_name()} would run in {precision}")
        return compiled

    def way(self, how: str, build: Callable[[list[openvino.Node]], list[openvino.Node]], given: list[np.ndarray],
            inputs: list[np.ndarray], results: Callable[[list[np.ndarray]], list[np.ndarray]]) -> Way:  # fmt: skip
        """`given` is what the model reads, `inputs` the same in the library's shapes; `results` as for ONNX Runtime. All
        tensors of the model have the type of the first."""
        parameters = [op.parameter(array.shape, type_of(array)) for array in given]
        compiled = self.compile([node.output(0) for node in build(parameters)], parameters, is_bf16(given[0]))
        request = compiled.create_infer_request()
        memory = [empty(tuple(output.shape), given[0].dtype.type) for output in compiled.outputs]
        tensors = [tensor_of(array) for array in [*given, *memory]]
        for n, tensor in enumerate(tensors[: len(given)]):
            request.set_input_tensor(n, tensor)
        for n, tensor in enumerate(tensors[len(given) :]):
            request.set_output_tensor(n, tensor)
        # What InferRequest.infer calls when all tensors are set, without its Python wrapper.
        run = partial(super(openvino.InferRequest, request).infer, {}, True, True)

        def checked() -> list[np.ndarray]:
            for array in memory:
                array.fill(0xFFFF if is_bf16(array) else np.nan)
            run()
            return results([widened(array) for array in memory])

        return Way(how, run, checked, inputs, keep=[compiled, request, tensors, given])

    @staticmethod
    def linear(source: openvino.Node, weight: np.ndarray, bias: np.ndarray) -> openvino.Node:
        return op.add(op.matmul(source, constant(weight), False, True), constant(bias))

    def linear_f32(self, case: Case) -> list[Callable[[], Way]]:
        source, weight, bias = linear_inputs(case.sizes)
        return [lambda: self.way("MatMul, Add", lambda nodes: [self.linear(nodes[0], weight, bias)], [source],
                                 [source, weight, bias], lambda outputs: outputs)]  # fmt: skip

    def linear_bf16(self, case: Case) -> list[Callable[[], Way]]:
        source, weight, bias = (bfloat16(array) for array in linear_inputs(case.sizes))
        return [lambda: self.way("MatMul, Add", lambda nodes: [self.linear(nodes[0], weight, bias)], [source],
                                 [source, weight, widened(bias)], lambda outputs: outputs)]  # fmt: skip

    def linear_int8(self, case: Case) -> list[Callable[[], Way]]:
        arrays = coded_linear_inputs(case.sizes)
        if case.sizes.get("group"):
            return self.coded(arrays, *codes.in_groups(arrays[1], 8), openvino.Type.i8)
        return self.coded(arrays, *codes.per_output(arrays[1]), openvino.Type.i8)

    def linear_int4(self, case: Case) -> list[Callable[[], Way]]:
        arrays = coded_linear_inputs(case.sizes)
        return self.coded(arrays, *codes.in_groups(arrays[1], 4), openvino.Type.i4)

    def coded(self, arrays: tuple[np.ndarray, ...], made: np.ndarray, scales: np.ndarray,
              kind: openvino.Type) -> list[Callable[[], Way]]:  # fmt: skip
        """Weights as codes, which the plugin widens in its product; inputs as floats, or (dynamic quantisation, where
        the plugin has it for the CPU) rounded to 8 bits in groups of 32."""
        source, weight, bias = arrays

        def build(nodes: list[openvino.Node]) -> list[openvino.Node]:
            four = kind == openvino.Type.i4
            # int4 is two's complement here.
            stored = (made[..., ::2] & 15 | (made[..., 1::2] & 15) << 4).astype(np.uint8) if four else made
            tensor = openvino.Tensor(np.ascontiguousarray(stored), openvino.Shape(made.shape), kind)
            wide = op.convert(openvino.op.Constant(tensor, False), "f32")
            wide = op.multiply(wide, constant(scales[..., None]))
            if made.ndim == 3:
                wide = op.reshape(wide, op.constant(np.array(weight.shape)), False)
            return [op.add(op.matmul(nodes[0], wide, False, True), constant(bias))]

        def way(group: int) -> Way:
            given = dict(self.config)
            self.config = {**given, hint.dynamic_quantization_group_size(): group}
            if group:
                del self.config[hint.execution_mode()]  # ACCURACY would not round
            try:
                how = f"MatMul, Add, {kind.get_type_name()} weights" + (", inputs of 8 bits" if group else "")
                return self.way(how, build, [source], list(arrays), lambda outputs: outputs)
            finally:
                self.config = given

        return [partial(way, group) for group in (0, codes.GROUP)]

    def attention_f32(self, case: Case) -> list[Callable[[], Way]]:
        return self.attention(case, [by_head(array) for array in attention_inputs(case.sizes)])

    def attention_bf16(self, case: Case) -> list[Callable[[], Way]]:
        return self.attention(case, [bfloat16(by_head(array)) for array in attention_inputs(case.sizes)])

    def attention(self, case: Case, arrays: list[np.ndarray]) -> list[Callable[[], Way]]:
        by_heads = [array.transpose(0, 2, 1, 3) for array in arrays]
        heads, kv_heads, dim = case["H"], case["Hkv"], case["D"]
        causal = bool(case["causal"])

        def attend(nodes: list[openvino.Node]) -> list[openvino.Node]:
            return [op.scaled_dot_product_attention(*nodes, causal=causal)]

        def repeated(nodes: list[openvino.Node]) -> list[openvino.Node]:
            """Keys and values repeated for the heads of a group, as exported models have it."""
            shape = op.constant(np.array([1, kv_heads, heads // kv_heads, case["Tk"], dim]))
            merged = op.constant(np.array([1, heads, case["Tk"], dim]))
            axis = op.constant(np.array([2]))
            wide = [op.broadcast(op.unsqueeze(node, axis), shape) for node in nodes[1:]]
            return attend([nodes[0], *(op.reshape(node, merged, False) for node in wide)])

        def transposed(outputs: list[np.ndarray]) -> list[np.ndarray]:
            return [outputs[0].transpose(0, 2, 1, 3)]

        def plain(nodes: list[openvino.Node]) -> list[openvino.Node]:
            return [op.matmul(self.probabilities(nodes[0], nodes[1], dim), nodes[2], False, False)]

        def as_rows(outputs: list[np.ndarray]) -> list[np.ndarray]:
            return [outputs[0].reshape(arrays[0].shape)]

        makers = []
        if heads == kv_heads:
            makers.append(partial(self.way, "scaled_dot_product_attention", attend, by_heads, arrays, transposed))
        else:
            makers.append(partial(self.way, "SDPA, keys repeated", repeated, by_heads, arrays, transposed))
        if case["Tq"] == 1:  # the queries of a group share their keys: they may as well be rows of one head
            given = [by_heads[0].reshape(1, kv_heads, -1, dim), *by_heads[1:]]
            makers.append(partial(self.way, "SDPA, group as rows", attend, given, arrays, as_rows))
            makers.append(partial(self.way, "MatMul, Softmax, MatMul, group as rows", plain, given, arrays, as_rows))
        return makers

    decode_bf16 = decode_f16 = decode_int8 = openvino_decode.ways

    @staticmethod
    def probabilities(query: openvino.Node, key: openvino.Node, dim: int) -> openvino.Node:
        scaled = op.multiply(query, op.constant(np.float32(dim**-0.5)))
        return op.softmax(op.matmul(scaled, key, False, True), -1)

    def attention_weights_f32(self, case: Case) -> list[Callable[[], Way]]:
        arrays = [by_head(array) for array in attention_inputs(case.sizes)]

        def build(nodes: list[openvino.Node]) -> list[openvino.Node]:
            weights = self.probabilities(nodes[0], nodes[1], case["D"])
            return [op.matmul(weights, nodes[2], False, False), weights]

        def ordered(outputs: list[np.ndarray]) -> list[np.ndarray]:
            return [outputs[0].transpose(0, 2, 1, 3), outputs[1]]

        given = [array.transpose(0, 2, 1, 3) for array in arrays]
        return [partial(self.way, "MatMul, Softmax, MatMul", build, given, arrays, ordered)]

    def split_heads(self, node: openvino.Node, heads: int, dim: int) -> openvino.Node:
        split = op.reshape(node, op.constant(np.array([0, -1, heads, dim])), True)
        return op.transpose(split, op.constant(np.array([0, 2, 1, 3])))

    def merge_heads(self, node: openvino.Node, width: int) -> openvino.Node:
        return op.reshape(
            op.transpose(node, op.constant(np.array([0, 2, 1, 3]))), op.constant(np.array([0, -1, width])), True
        )

    def projected(self, nodes: list[openvino.Node], weights: dict[str, np.ndarray], heads: int) -> list[openvino.Node]:
        """Query, key and value by head, each from its own node."""
        width = weights["out_proj_bias"].size
        rows = [slice(n * width, (n + 1) * width) for n in range(3)]
        return [self.split_heads(self.linear(node, weights["in_proj_weight"][part], weights["in_proj_bias"][part]),
                                 heads, width // heads) for node, part in zip(nodes, rows)]  # fmt: skip

    def forward_f32(self, case: Case) -> list[Callable[[], Way]]:
        return self.forward(case, forward_input(case.sizes), layer_weights(case["E"]))

    def forward_bf16(self, case: Case) -> list[Callable[[], Way]]:
        weights = {name: bfloat16(array) for name, array in layer_weights(case["E"]).items()}
        return self.forward(case, bfloat16(forward_input(case.sizes)), weights)

    def forward(self, case: Case, source: np.ndarray, weights: dict[str, np.ndarray]) -> list[Callable[[], Way]]:
        width, heads = case["E"], case["H"]

        def out(attended: openvino.Node) -> list[openvino.Node]:
            return [
                self.linear(self.merge_heads(attended, width), weights["out_proj_weight"], weights["out_proj_bias"])
            ]

        def separate(nodes: list[openvino.Node]) -> list[openvino.Node]:
            return out(op.scaled_dot_product_attention(*self.projected(nodes * 3, weights, heads)))

        def together(nodes: list[openvino.Node]) -> list[openvino.Node]:
            qkv = self.linear(nodes[0], weights["in_proj_weight"], weights["in_proj_bias"])
            parts = op.split(qkv, op.constant(np.int64(2)), 3)
            heads_of = [self.split_heads(parts.output(n), heads, width // heads) for n in range(3)]
            return out(op.scaled_dot_product_attention(*heads_of))

        return [
            partial(self.way, "3 MatMul, SDPA, MatMul", separate, [source], [source], lambda outputs: outputs),
            partial(self.way, "MatMul, Split, SDPA, MatMul", together, [source], [source], lambda outputs: outputs),
        ]

    def notebook_f32(self, case: Case) -> list[Callable[[], Way]]:
        arrays, weights = [array[None] for array in notebook_inputs(case.sizes)], layer_weights(case["E"])

        def build(nodes: list[openvino.Node]) -> list[openvino.Node]:
            query, key, value = self.projected(nodes, weights, case["H"])
            probabilities = self.probabilities(query, key, case["E"] // case["H"])
            attended = self.merge_heads(op.matmul(probabilities, value, False, False), case["E"])
            return [self.linear(attended, weights["out_proj_weight"], weights["out_proj_bias"]), probabilities]

        return [partial(self.way, "MatMul, Softmax, MatMul, projected", build, arrays, arrays, lambda outputs: outputs)]
