# SPDX-License-Identifier: Apache-2.0
"""How llama.cpp and other engines use the node: cells of a cache in any order, several graphs, threads, refusals."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import attention
from ggml_cpu import Backend, Graph, call
from grid import Shape, Variant

WITH_ALL = Variant(mask=True, sinks=True, max_bias=8, softcap=20)


def result(backend: Backend, shape: Shape, variant: Variant, times: int = 1) -> np.ndarray:
    with Graph(backend) as graph:
        tensors = attention.Tensors(graph, shape)
        node, reason = graph.mha(graph.flash(tensors.inputs(variant), 0.125, variant.max_bias, variant.softcap))
        assert reason == ""
        graph.allocate()
        rng = np.random.default_rng(2)
        tensors.fill(rng)
        tensors.fill_mask(attention.blocks_mask(shape, rng))
        plan = graph.plan(node)
        for _ in range(times):
            tensors.output(node).fill(np.nan)
            graph.compute(plan)
        return tensors.output(node).copy()


def with_backend(threads: int, *arguments: object) -> np.ndarray:
    backend = Backend(threads)
    try:
        return result(backend, *arguments)
    finally:
        backend.close()


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
@pytest.mark.parametrize(("queries", "keys"), [(1, 3000), (70, 300), (3, 5)])
def test_threads_do_not_change_bits(queries: int, keys: int, kind: str) -> None:
    shape = Shape(64, 64, 2, 4, 2, keys, queries, kind, kind)
    one = with_backend(1, shape, WITH_ALL)
    for threads in (2, 3, 7):
        assert np.array_equal(one, with_backend(threads, shape, WITH_ALL)), threads


def test_graph_computed_often() -> None:
    """A thread that missed the beginning or the end of a node would hang here, or leave NaN."""
    shape = Shape(32, 32, 1, 4, 1, 40, 5)
    assert np.array_equal(with_backend(3, shape, WITH_ALL, 500), with_backend(1, shape, WITH_ALL))


def test_graphs_at_the_same_time() -> None:
    """Two backends that share a handle: their nodes take turns."""
    shape = Shape(64, 64, 2, 4, 1, 700, 9)
    alone = with_backend(1, shape, WITH_ALL)
    backends = [Backend(2), Backend(2)]
    handles = [backend.mha for backend in backends]
    backends[1].mha = handles[0]
    with ThreadPoolExecutor(2) as pool:
        for got in pool.map(lambda backend: result(backend, shape, WITH_ALL, 40), backends):
            assert np.array_equal(got, alone)
    backends[1].mha = handles[1]
    for backend in backends:
        backend.close()


def test_node_after_node() -> None:
    """The second node's queries are the first one's output."""
    shape, backend = Shape(32, 32, 2, 2, 1, 50, 6), Backend(2)
    with Graph(backend) as graph:
        tensors = attention.Tensors(graph, shape)
        first = graph.mha(graph.flash(tensors.inputs(Variant()), 0.2, 0, 0))[0]
        between = call("permute", graph.context, first, 0, 2, 1, 3)
        second = graph.mha(graph.flash((between, *tensors.inputs(Variant())[1:]), 0.2, 0, 0))[0]
        graph.allocate()
        rng = np.random.default_rng(3)
        tensors.fill(rng)
        tensors.fill_mask(attention.blocks_mask(shape, rng))
        graph.compute(graph.plan(second))
        exact = tensors.exact
        for _ in range(2):
            output = attention.reference(tensors, [Variant()], 0.2)[0]
            exact["q"] = output.transpose(0, 2, 1, 3)
        assert attention.nmse(output, tensors.output(second)) < 1e-11
    backend.close()


def cells_mask(rng: np.random.Generator, streams: int, tokens: int, cells: int) -> np.ndarray:
    """llama.cpp's mask: each stream's cache has cells of three sequences in no order, and cells of none (padding); a token
    sees its own sequence up to its own position, within a window. The last token sees nothing."""
    mask = np.full((streams, tokens, cells), -np.inf)
    for stream in range(streams):
        owners, places = rng.integers(-1, 3, cells), rng.permutation(cells)
        for token in range(tokens - 1):
            position = rng.integers(cells // 2, cells)
            seen = (owners == rng.integers(3)) & (places <= position) & (places > position - 150)
            mask[stream, token, seen] = 0
    return mask


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0", "q4_0"])
@pytest.mark.parametrize("tokens", [1, 2, 33])
def test_cells_in_any_order(tokens: int, kind: str) -> None:
    """n_kv is padded to 256. Hidden cells may have anything in them, also NaN."""
    shape, rng = Shape(64, 64, 2, 4, 2, 512, tokens, kind, kind), np.random.default_rng(4)
    backend = Backend(2)
    with Graph(backend) as graph:
        tensors = attention.Tensors(graph, shape)
        flash = graph.flash(tensors.inputs(Variant(sinks=True)), 0.125, 0, 0)
        mine = graph.mha(flash)[0]
        graph.allocate()
        tensors.fill(rng)
        mask = cells_mask(rng, shape.nr3, tokens, shape.kv)
        tensors.fill_mask(mask)
        plans = [graph.plan(node) for node in (flash, mine)]
        for plan in plans:
            graph.compute(plan)
        exact = attention.reference(tensors, [Variant(sinks=True)], 0.125)[0]
        theirs, clean = tensors.output(flash), tensors.output(mine).copy()
        assert attention.nmse(exact, clean) <= min(1e-11, attention.nmse(exact, theirs)) if tokens > 1 else not clean.any()
        assert not clean[:, -1].any()
        for tensor, width in ((tensors.k, 64), (tensors.v, 64)):
            rows = graph.rows(tensor, kind, width)
            for stream in range(shape.nr3):
                rows[stream][:, np.isneginf(mask[stream]).all(axis=0)] = attention.OUTSIDE
        graph.compute(plans[1])
        assert np.array_equal(tensors.output(mine), clean)
    backend.close()


def reason_for(change: str) -> str:
    backend = Backend(1)
    with Graph(backend) as graph:
        query, key = graph.tensor("f32", 64, 5, 4, 3), graph.tensor("f16", 64, 70, 4, 3)
        value, mask = graph.tensor("f16", 64, 70, 4, 3), graph.tensor("f16", 70, 5, 1, 1)
        softcap = 0
        if change == "type":
            value = graph.tensor("q5_0", 64, 70, 4, 3)
        elif change == "length":
            value = graph.tensor("f16", 64, 69, 4, 3)
        elif change == "heads":
            value = graph.tensor("f16", 64, 70, 2, 3)
        elif change == "mask":
            mask = graph.tensor("f16", 70, 5, 2, 1)
        elif change == "short mask":
            mask = graph.tensor("f16", 69, 5, 1, 1)
        elif change == "softcap":
            softcap = -1
        flash = graph.flash((query, key, value, mask, None), 0.125, 0, softcap)
        node, reason = graph.mha(flash)
        assert node == flash
        again, no_reason = graph.mha(graph.flash((query, key, key, None, None), 0.125, 0, 0))
        assert (again != flash, no_reason) == (True, "")
    backend.close()
    return reason


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("type", "v: q5_0"),
        ("length", "v: must have the length of k, but ne[1] is 69"),
        ("heads", "v: must have the heads of k, but ne[2] is 2"),
        ("mask", "mask->ne[2]: must be 1 or that of q, but is 2"),
        ("short mask", "mask->ne[0]: is too small, 69"),
        ("softcap", "score_mods.softcap"),
    ],
)
def test_what_is_refused(change: str, message: str) -> None:
    assert message in reason_for(change)
