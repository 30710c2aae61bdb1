# SPDX-License-Identifier: Apache-2.0
"""OpenVINO, decoding over its own cache: a stateful model, in which the CPU plugin fuses reading the state, appending
the newest token, attention and writing the state into one node, and stores the state as kv_cache_precision says.

The runtime graph names the state's type before storing, whatever is stored. So what was stored is told by reading the
state back: its values are as coarse as the precision, or the way fails."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import openvino
import openvino.properties as properties
from openvino import opset13 as op
from openvino.op.util import Variable, VariableInfo
from openvino.properties import hint

import decode_inputs
from arrays import aligned
from cases import Case
from decode_inputs import heads_first
from peer import Way

if TYPE_CHECKING:
    from openvino_peer import OpenVinoPeer

F32, BF16, F16, U8 = openvino.Type.f32, openvino.Type.bf16, openvino.Type.f16, openvino.Type.u8
# (precision of the cache, precision of the rest). A bf16 cache needs a node that computes in bf16.
PRECISIONS = {
    "decode_bf16": [(BF16, BF16)],
    "decode_f16": [(F16, F32)],
    "decode_int8": [(U8, F32), (U8, BF16)],
}
FUSED = "ScaledDotProductAttention"  # the fused node's name, too; it has the new states as outputs
SPARE = 64  # the state may grow by this fraction of it before it is put back, at least by LEAST tokens
LEAST = 16


def model(heads: int, kv_heads: int, dim: int) -> openvino.Model:
    """Attention as exported language models have it, with keys and values repeated for the heads of a group."""
    state_shape = openvino.PartialShape([1, kv_heads, -1, dim])
    query = op.parameter(openvino.PartialShape([1, heads, 1, dim]), F32)
    beam = op.parameter(openvino.PartialShape([-1]), openvino.Type.i32)
    parameters, assigns, present = [query], [], []
    for name in ("key", "value"):
        info = VariableInfo()
        info.data_shape, info.data_type, info.variable_id = state_shape, F32, name
        variable = Variable(info)
        parameters.append(op.parameter(state_shape, F32))
        past = op.read_value(op.constant(np.zeros((1, kv_heads, 0, dim), np.float32)), variable)
        grown = op.concat([op.gather(past, beam, op.constant(np.int32(0))), parameters[-1]], 2)
        assigns.append(op.assign(grown, variable))
        if heads != kv_heads:
            times = op.constant(np.array([1, 1, heads // kv_heads, 1, 1]))
            wide = op.broadcast(op.unsqueeze(grown, op.constant(np.array([2]))), times,
                                broadcast_spec="BIDIRECTIONAL")  # fmt: skip
            grown = op.reshape(wide, op.constant(np.array([0, heads, -1, dim])), True)
        present.append(grown)
    result = op.result(op.scaled_dot_product_attention(query, *present, causal=False))
    return openvino.Model([result], assigns, [*parameters, beam], "peer")


def confirm_fused(compiled: openvino.CompiledModel, inference: openvino.Type) -> None:
    info = {node.get_friendly_name(): (node.get_rt_info(), node.get_output_size())
            for node in compiled.get_runtime_model().get_ops()}  # fmt: skip
    found = [(own["runtimePrecision"].astype(str), outputs) for own, outputs in info.values()
             if own["layerType"].astype(str) == FUSED]  # fmt: skip
    if found != [(inference.to_string(), 3)]:
        raise RuntimeError(f"no fused attention with a cache in {inference.to_string()}, but {found}")


def confirm_stored(stored: np.ndarray, precision: openvino.Type) -> None:
    """Are these values [1, Hkv, T, D], which were floats, those of the precision? Codes: every value of a row is a
    whole number of steps above the least, of which 255 lead to the greatest."""
    if precision == U8:
        least = stored.min(axis=-1, keepdims=True)
        steps = (stored - least) / (stored.max(axis=-1, keepdims=True) - least) * 255
        fits = np.abs(steps - np.rint(steps)).max() < 1e-2
    elif precision == BF16:
        fits = not np.any(stored.view(np.uint32) & 0xFFFF)
    else:
        fits = np.array_equal(stored.astype(np.float16).astype(np.float32), stored)
    if not fits:
        raise RuntimeError(f"the cache is not stored in {precision.to_string()}")


class Stateful:
    """A request whose state holds the case's tokens but the last; a call appends one and attends to all."""

    def __init__(self, compiled: openvino.CompiledModel, arrays: list[np.ndarray]) -> None:
        self.request = compiled.create_infer_request()
        query, *cache = (heads_first(array) for array in arrays)
        self.past = {name: aligned(array[:, :, :-1]) for name, array in zip(("key", "value"), cache)}
        self.given = [aligned(query), *(aligned(array[:, :, -1:]) for array in cache), np.zeros(1, np.int32)]
        self.tensors = [openvino.Tensor(array, shared_memory=True) for array in self.given]
        for n, tensor in enumerate(self.tensors):
            self.request.set_input_tensor(n, tensor)
        # What InferRequest.infer calls when all tensors are set, without its Python wrapper.
        self.infer = partial(super(openvino.InferRequest, self.request).infer, {}, True, True)
        self.spare = max(LEAST, cache[0].shape[2] // SPARE)
        self.restart()

    def restart(self) -> None:
        for state in self.request.query_state():
            state.state = openvino.Tensor(self.past[state.name], shared_memory=True)
        self.grown = 0

    def run(self) -> None:
        self.grown += 1
        self.infer()

    def before_sample(self) -> None:
        """The first call after a restart makes room for more tokens by copying all: it is not timed."""
        if self.grown > self.spare:
            self.restart()
            self.run()

    def results(self) -> list[np.ndarray]:
        self.restart()
        self.run()
        return [heads_first(self.request.get_output_tensor(0).data.copy())]

    def stored(self, name: str) -> np.ndarray:
        return next(state.state.data for state in self.request.query_state() if state.name == name)


def ways(peer: OpenVinoPeer, case: Case) -> list[Callable[[], Way]]:
    arrays = decode_inputs.floats(case.sizes)

    def way(cache: openvino.Type, inference: openvino.Type) -> Way:
        config = {**peer.config, hint.kv_cache_precision(): cache, hint.inference_precision(): inference}
        del config[hint.execution_mode()]  # ACCURACY would store floats, whatever the cache's precision
        compiled = peer.core.compile_model(model(case["H"], case["Hkv"], case["D"]), "CPU", config)
        confirm_fused(compiled, inference)
        state = Stateful(compiled, arrays)
        state.run()
        for name in ("key", "value"):
            confirm_stored(state.stored(name), cache)
        how = f"stateful SDPA, {cache.to_string()} cache, computed in {inference.to_string()}, a token more each call"
        inputs = arrays if case.family == "decode_int8" else [
            arrays[0], *(decode_inputs.rounded(array, case.family) for array in arrays[1:])]  # fmt: skip
        return Way(how, state.run, state.results, inputs, keep=[compiled], before=state.before_sample)

    return [partial(way, *pair) for pair in PRECISIONS[case.family]]
