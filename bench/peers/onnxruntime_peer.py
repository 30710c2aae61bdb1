# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime: its own attention operators (com.microsoft) and matrix products with constant weights, which it packs.

Inputs and results are bound to memory once (IOBinding), so a call neither copies nor allocates them."""

from collections.abc import Callable
from functools import partial

import numpy as np
import onnxruntime

import codes
import onnxruntime_decode
from arrays import attention_inputs, by_head, coded_linear_inputs, empty, forward_input, layer_weights, linear_inputs
from arrays import notebook_inputs
from cases import Case
from onnxruntime_graph import MICROSOFT, Graph, attention, grouped_query
from peer import Peer, Way


class OnnxRuntimePeer(Peer):
    name = "onnxruntime"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.version = onnxruntime.__version__

    def session(self, graph: Graph) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        # Its threads spin while it works, for speed, and stop when the call is over, for our sake.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return onnxruntime.InferenceSession(graph.model(), options, providers=["CPUExecutionProvider"])

    def way(self, how: str, make: Callable[[], Graph], inputs: list[np.ndarray],
            results: Callable[[list[np.ndarray]], list[np.ndarray]] = lambda outputs: outputs) -> Way:  # fmt: skip
        """`results` brings the graph's outputs into the library's shapes."""
        graph = make()
        session = self.session(graph)
        binding = session.io_binding()
        for name, array in graph.inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in graph.outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        # What InferenceSession.run_with_iobinding calls, without its Python wrapper.
        run = partial(session._sess.run_with_iobinding, binding._iobinding, None)

        def checked() -> list[np.ndarray]:
            for array in graph.outputs.values():
                if not any(np.may_share_memory(array, given) for given in graph.inputs.values()):
                    array.fill(np.nan)
            run()
            return results(list(graph.outputs.values()))

        return Way(how, run, checked, inputs, keep=[session, binding, graph])

    def linear_f32(self, case: Case) -> list[Callable[[], Way]]:
        source, weight, bias = linear_inputs(case.sizes)

        def gemm(transposed: int) -> Graph:
            graph = Graph()
            constant = graph.constant("weight", weight if transposed else weight.T)
            graph.node("Gemm", [graph.input("x", source), constant, graph.constant("bias", bias)],
                       graph.output("y", (case["M"], case["N"])), transB=transposed)  # fmt: skip
            return graph

        def matmul() -> Graph:
            graph = Graph()
            product = graph.node("MatMul", [graph.input("x", source[None]), graph.constant("weight", weight.T)], "xw")
            graph.node("Add", [product, graph.constant("bias", bias)], graph.output("y", (1, case["M"], case["N"])))
            return graph

        inputs = [source, weight, bias]
        return [
            partial(self.way, "Gemm", partial(gemm, 0), inputs),
            partial(self.way, "Gemm, transB", partial(gemm, 1), inputs),
            partial(self.way, "MatMul, Add", matmul, inputs),
        ]

    def linear_int8(self, case: Case) -> list[Callable[[], Way]]:
        """Inputs are rounded in the call: to uint8 with one scale for all rows, or within MatMulNBits."""
        source, weight, bias = coded_linear_inputs(case.sizes)
        inputs, shape = [source, weight, bias], (case["M"], case["N"])
        if case.sizes.get("group"):
            return [partial(self.way, "MatMulNBits, 8 bits, accuracy_level 4", partial(self.n_bits, inputs, 8), inputs)]

        def dynamic(largest: int, zero: int) -> Graph:
            graph = Graph()
            made, scales = codes.per_output(weight, largest)
            stored = (made.astype(np.int16) + zero).astype(np.uint8 if zero else np.int8)
            zeros = np.full(len(scales), zero, stored.dtype)
            names = [graph.input("x", source), graph.constant("weight", stored.T), graph.constant("scales", scales),
                     graph.constant("zeros", zeros), graph.constant("bias", bias)]  # fmt: skip
            graph.node("DynamicQuantizeMatMul", names, graph.output("y", shape), MICROSOFT)
            return graph

        return [
            partial(self.way, "DynamicQuantizeMatMul, uint8 weights", partial(dynamic, 127, 128), inputs),
            # Its products of int8 weights are added in 16 bits without VNNI, and saturate; 7 bits do not (reduce_range).
            partial(self.way, "DynamicQuantizeMatMul, int8 weights of 7 bits", partial(dynamic, 63, 0), inputs),
        ]

    def linear_int4(self, case: Case) -> list[Callable[[], Way]]:
        inputs = list(coded_linear_inputs(case.sizes))
        names = {4: "MatMulNBits, accuracy_level 4", 1: "MatMulNBits, accuracy_level 1"}
        return [partial(self.way, how, partial(self.n_bits, inputs, 4, level), inputs) for level, how in names.items()]

    @staticmethod
    def n_bits(inputs: list[np.ndarray], bits: int, level: int = 4) -> Graph:
        """Blocks of 32 inputs; level 4 rounds inputs to int8, level 1 computes in floats."""
        source, weight, bias = inputs
        made, scales = codes.in_groups(weight, bits)
        stored = codes.nibbles(made) if bits == 4 else (made.astype(np.int16) + 128).astype(np.uint8)
        graph = Graph()
        names = [graph.input("x", source), graph.constant("weight", stored), graph.constant("scales", scales), "", "",
                 graph.constant("bias", bias)]  # fmt: skip
        output = graph.output("y", (source.shape[0], weight.shape[0]))
        graph.node("MatMulNBits", names, output, MICROSOFT, K=weight.shape[1], N=weight.shape[0], bits=bits,
                   block_size=codes.GROUP, accuracy_level=level)  # fmt: skip
        return graph

    def attention_f32(self, case: Case) -> list[Callable[[], Way]]:
        query, key, value = attention_inputs(case.sizes)
        heads, kv_heads, queries, keys, dim = (case[name] for name in ("H", "Hkv", "Tq", "Tk", "D"))
        shape = (1, queries, heads, dim)
        key_by_head, value_by_head = by_head(key), by_head(value)

        def flat(array: np.ndarray) -> np.ndarray:
            return array.reshape(1, array.shape[1], -1)

        def multi_head(split: bool) -> Graph:
            graph = Graph()
            given = (key_by_head, value_by_head) if split else (key, value)
            names = [graph.input("query", flat(query))]
            # Split: keys and values by head, as a cache of them would be.
            names += [graph.input(name, array.transpose(0, 2, 1, 3) if split else flat(array))
                      for name, array in zip(("key", "value"), given)]  # fmt: skip
            graph.node("MultiHeadAttention", names, graph.output("output", (1, queries, heads * dim)), MICROSOFT,
                       num_heads=heads, unidirectional=case["causal"])  # fmt: skip
            return graph

        def grouped_rows() -> Graph:
            """One query: those of a group, which share keys, as rows of one head."""
            rows = query.reshape(1, kv_heads, heads // kv_heads, dim)
            return attention(rows, *(array.transpose(0, 2, 1, 3) for array in (key_by_head, value_by_head)))

        def standard() -> Graph:
            arrays = [array.transpose(0, 2, 1, 3) for array in (by_head(query), key_by_head, value_by_head)]
            return attention(*arrays, is_causal=case["causal"])

        def grouped() -> Graph:
            fresh = queries if case["causal"] else 1
            newest = [np.ascontiguousarray(flat(array[:, keys - fresh :])) for array in (key, value)]
            past = [array.transpose(0, 2, 1, 3) for array in (key_by_head, value_by_head)]
            return grouped_query(flat(query), newest, past, heads)

        def by_rows(outputs: list[np.ndarray]) -> list[np.ndarray]:
            return [outputs[0].reshape(shape)]

        def transposed(outputs: list[np.ndarray]) -> list[np.ndarray]:
            return [outputs[0].transpose(0, 2, 1, 3)]

        dense, split = [query, key, value], [query, key_by_head, value_by_head]
        makers = []
        if heads == kv_heads:
            makers.append(partial(self.way, "MultiHeadAttention", partial(multi_head, False), dense, by_rows))
            makers.append(
                partial(self.way, "MultiHeadAttention, keys by head", partial(multi_head, True), split, by_rows)
            )
        elif queries == 1:
            makers.append(partial(self.way, "Attention, group as rows", grouped_rows, split, by_rows))
        if queries == 1 or case["causal"]:
            makers.append(partial(self.way, "GroupQueryAttention", grouped, split, by_rows))
        makers.append(lambda: self.way("Attention", standard, [by_head(query), key_by_head, value_by_head], transposed))
        return makers

    decode_f16 = onnxruntime_decode.float16
    decode_int8 = decode_int4 = onnxruntime_decode.codes

    def attention_weights_f32(self, case: Case) -> list[Callable[[], Way]]:
        arrays = [by_head(array) for array in attention_inputs(case.sizes)]
        query, key, value = (array.transpose(0, 2, 1, 3) for array in arrays)

        def plain(scaled_query: bool) -> Graph:
            graph = Graph()
            q, k, v = graph.input("query", query), graph.input("key", key), graph.input("value", value)
            scale = graph.constant("scale", np.float32(case["D"] ** -0.5))
            q = graph.node("Mul", [q, scale], "scaled") if scaled_query else q
            scores = graph.node("MatMul", [q, graph.node("Transpose", [k], "kt", perm=[0, 1, 3, 2])], "scores")
            scores = scores if scaled_query else graph.node("Mul", [scores, scale], "scaled")
            weights = graph.output("weights", (1, case["H"], case["Tq"], case["Tk"]))
            graph.node("Softmax", [scores], weights, axis=-1)
            graph.node("MatMul", [weights, v], graph.output("output", query.shape))
            return graph

        def ordered(outputs: list[np.ndarray]) -> list[np.ndarray]:
            return [outputs[1].transpose(0, 2, 1, 3), outputs[0]]

        return [
            partial(self.way, "MatMul, Softmax, MatMul", partial(plain, flag), arrays, ordered)
            for flag in (True, False)
        ]

    def project(
        self, graph: Graph, source: str, weights: dict[str, np.ndarray], name: str, rows: slice, target: str
    ) -> str:
        """source · weightᵀ + bias for some rows of a layer's parameter."""
        weight, bias = weights[f"{name}_weight"][rows], weights[f"{name}_bias"][rows]
        constants = [graph.constant(f"{target}_weight", weight.T), graph.constant(f"{target}_bias", bias)]
        return graph.node(
            "Add", [graph.node("MatMul", [source, constants[0]], f"{target}_product"), constants[1]], target
        )

    def forward_f32(self, case: Case) -> list[Callable[[], Way]]:
        source, weights = forward_input(case.sizes), layer_weights(case["E"])
        everything = slice(None)

        def output(graph: Graph, attended: str) -> Graph:
            self.project(graph, attended, weights, "out_proj", everything, graph.output("y", source.shape))
            return graph

        def separate() -> Graph:
            graph = Graph()
            x, width = graph.input("x", source), case["E"]
            projected = [self.project(graph, x, weights, "in_proj", slice(n * width, (n + 1) * width), name)
                         for n, name in enumerate(("query", "key", "value"))]  # fmt: skip
            graph.node("MultiHeadAttention", projected, "attended", MICROSOFT, num_heads=case["H"])
            return output(graph, "attended")

        def together() -> Graph:
            graph = Graph()
            projected = self.project(graph, graph.input("x", source), weights, "in_proj", everything, "qkv")
            parts = ["query", "key", "value"]
            graph.node("Split", [projected], parts, axis=-1, num_outputs=3)
            graph.node("MultiHeadAttention", parts, "attended", MICROSOFT, num_heads=case["H"])
            return output(graph, "attended")

        def fused() -> Graph:
            graph = Graph()
            names = [graph.input("x", source), graph.constant("in_weight", weights["in_proj_weight"].T),
                     graph.constant("in_bias", weights["in_proj_bias"])]  # fmt: skip
            graph.node("Attention", names, "attended", MICROSOFT, num_heads=case["H"])
            return output(graph, "attended")

        return [
            partial(self.way, "3 MatMul, MultiHeadAttention, MatMul", separate, [source]),
            partial(self.way, "MatMul, Split, MultiHeadAttention, MatMul", together, [source]),
            partial(self.way, "com.microsoft Attention, MatMul", fused, [source]),
        ]

    def notebook_f32(self, case: Case) -> list[Callable[[], Way]]:
        arrays, weights = [array[None] for array in notebook_inputs(case.sizes)], layer_weights(case["E"])
        width, heads = case["E"], case["H"]

        def plain() -> Graph:
            graph = Graph()
            shape = graph.constant("shape", np.array([1, -1, heads, width // heads], np.int64))
            split = []
            for n, name in enumerate(("query", "key", "value")):
                rows = slice(n * width, (n + 1) * width)
                projected = self.project(
                    graph, graph.input(name, arrays[n]), weights, "in_proj", rows, f"{name}_projected"
                )
                order = [0, 2, 3, 1] if name == "key" else [0, 2, 1, 3]
                heads_of = graph.node("Reshape", [projected, shape], f"{name}_heads")
                split.append(graph.node("Transpose", [heads_of], f"{name}_t", perm=order))
            scale = graph.constant("scale", np.float32((width // heads) ** -0.5))
            scores = graph.node("Mul", [graph.node("MatMul", split[:2], "product"), scale], "scores")
            probabilities = graph.output("weights", (1, heads, case["Tq"], case["Tk"]))
            graph.node("Softmax", [scores], probabilities, axis=-1)
            attended = graph.node("MatMul", [probabilities, split[2]], "attended")
            merged = graph.node("Transpose", [attended], "merged", perm=[0, 2, 1, 3])
            flat = graph.node(
                "Reshape", [merged, graph.constant("flat_shape", np.array([1, -1, width], np.int64))], "flat"
            )
            self.project(graph, flat, weights, "out_proj", slice(None), graph.output("y", arrays[0].shape))
            return graph

        return [partial(self.way, "MatMul, Softmax, MatMul, projected", plain, arrays, lambda outputs: outputs[::-1])]
