# SPDX-License-Identifier: Apache-2.0
"""A shape's tensors inside ggml, and attention over them in double precision."""

import math

import numpy as np

from ggml_cpu import BLOCK, Graph, call, layout, stored
from grid import Shape, Variant

OUTSIDE = 0xFF  # bytes beside the views: a NaN in every type, also as the scale of a block


def padded(size: int, kind: str) -> int:
    return -(-size // BLOCK) * BLOCK if "q" in kind else size


class Tensors:
    """q, k, v, mask and sinks of a shape. fill() gives them numbers; `exact` has what they stand for, as doubles."""

    def __init__(self, graph: Graph, shape: Shape) -> None:
        self.graph, self.shape = graph, shape
        dim, self.value_dim = padded(shape.hsk, shape.key), padded(shape.hsv, shape.value)
        self.parents = []
        self.q = self.permuted("f32", dim, shape.nb, shape.nh * shape.nr2, False)
        self.k = self.permuted(shape.key, dim, shape.kv, shape.nh, shape.kv_view)
        if shape.v_of_k:
            sizes, steps = layout(self.k)
            self.v = call("view_4d", graph.context, self.k, self.value_dim, *sizes[1:], *steps[1:], 0)
        else:
            self.v = self.permuted(shape.value, self.value_dim, shape.kv, shape.nh, shape.kv_view)
        self.mask = graph.tensor("f16", shape.kv, shape.nb, 1, shape.nr3)
        self.sinks = graph.tensor("f32", shape.nh * shape.nr2)
        self.kinds = {"q": ("f32", dim), "k": (shape.key, dim), "v": (shape.value, self.value_dim)}
        self.exact = {}

    def permuted(self, kind: str, width: int, length: int, heads: int, view: bool) -> int:
        """[width, length, heads, items] as ggml's cases have it: permuted in memory, half of a longer tensor."""
        sizes = [0] * 4
        for place, size in zip(self.shape.permute, (width, length, heads, self.shape.nr3)):
            sizes[place] = size
        tensor = self.graph.tensor(kind, sizes[0], sizes[1] * (2 if view else 1), *sizes[2:])
        self.parents.append(tensor)
        if view:
            tensor = call("view_4d", self.graph.context, tensor, *sizes, *layout(tensor)[1][1:], 0)
        return call("permute", self.graph.context, tensor, *self.shape.permute)

    def inputs(self, variant: Variant) -> tuple:
        return self.q, self.k, self.v, self.mask if variant.mask else None, self.sinks if variant.sinks else None

    def fill(self, rng: np.random.Generator) -> None:
        for parent in self.parents:
            self.graph.memory(parent)[...] = OUTSIDE
        for name, (kind, width) in self.kinds.items():
            rows = self.graph.rows(getattr(self, name), kind, width)
            if name == "v" and self.shape.v_of_k:
                self.exact["v"] = self.exact["k"][..., : self.value_dim]
                continue
            data, self.exact[name] = stored(kind, rng.uniform(-1, 1, (*rows.shape[:-1], width)))
            rows[...] = data
        sinks = rng.uniform(-10, 10, self.shape.nh * self.shape.nr2).astype(np.float32)
        self.graph.memory(self.sinks)[...] = sinks.view(np.uint8)
        self.exact["sinks"] = sinks.astype(np.float64)

    def fill_mask(self, mask: np.ndarray) -> None:
        """[items, queries, keys]"""
        halves = mask.astype(np.float16)
        self.graph.memory(self.mask)[...] = halves.reshape(-1).view(np.uint8)
        self.exact["mask"] = halves.astype(np.float64)

    def output(self, node: int) -> np.ndarray:
        """[items, queries, heads, width]"""
        shape = self.shape
        return self.graph.memory(node).view(np.float32).reshape(shape.nr3, shape.nb, shape.nh * shape.nr2, self.value_dim)


def blocks_mask(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Random numbers, with blocks of 128 keys by 64 queries that are hidden, or zero; as ggml's cases have it."""
    mask = rng.uniform(-1, 1, (shape.nr3, shape.nb, shape.kv))
    for _ in range(int(0.2 * mask.size / (128 * 64))):
        item, query, key = (rng.integers(size) for size in mask.shape)
        mask[item, query : query + 64, key : key + 128] = -np.inf if rng.integers(2) else 0
    return mask


def sparse_mask(shape: Shape, most: int, rng: np.random.Generator) -> np.ndarray:
    """Each row sees at most `most` keys, anywhere."""
    mask = np.full((shape.nr3 * shape.nb, shape.kv), -np.inf)
    for row in range(len(mask)):
        seen = rng.choice(shape.kv, most - row % min(most, 17), replace=False)
        mask[row, seen] = -0.03125 * (1 + (np.sort(seen) + row) % 7)
    return mask.reshape(shape.nr3, shape.nb, shape.kv)


def slopes(heads: int, max_bias: float) -> np.ndarray:
    """ggml's factors of the mask, one for each head (arXiv 2108.12409)."""
    if max_bias == 0:
        return np.ones(heads)
    power = 1 << int(math.log2(heads))
    return np.array([2 ** (-max_bias / power * (h + 1)) if h < power else 2 ** (-max_bias / 2 / power * (2 * (h - power) + 1))
                     for h in range(heads)])  # fmt: skip


def softmax(scores: np.ndarray, sink: float) -> np.ndarray:
    """A row that sees nothing gives zeros."""
    top = np.maximum(scores.max(axis=1, keepdims=True), sink)
    weights = np.exp(scores - np.where(np.isfinite(top), top, 0))
    total = weights.sum(axis=1, keepdims=True) + np.exp(sink - np.where(np.isfinite(top), top, 0))
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)


def reference(tensors: Tensors, variants: list[Variant], scale: float | None = None) -> list[np.ndarray]:
    """Attention of each variant in double precision, as Tensors.output."""
    shape, exact = tensors.shape, tensors.exact
    scale = shape.hsk**-0.5 if scale is None else scale
    heads = shape.nh * shape.nr2
    outputs = [np.empty((shape.nr3, shape.nb, heads, tensors.value_dim)) for _ in variants]
    factors = {variant.max_bias: slopes(heads, variant.max_bias) for variant in variants}
    for item in range(shape.nr3):
        for head in range(heads):
            products = exact["q"][item, head] @ exact["k"][item, head // shape.nr2].T * scale
            for variant, output in zip(variants, outputs):
                scores = products
                if variant.softcap:
                    scores = variant.softcap * np.tanh(scores / variant.softcap)
                if variant.mask:
                    scores = scores + factors[variant.max_bias][head] * exact["mask"][item]
                sink = exact["sinks"][head] if variant.sinks else -np.inf
                output[item, :, head] = softmax(scores, sink) @ exact["v"][item, head // shape.nr2]
    return outputs


def nmse(wanted: np.ndarray, got: np.ndarray) -> float:
    """ggml's measure: the sum of squared differences / the sum of squares."""
    wanted, got = wanted.astype(np.float64), got.astype(np.float64)
    return float(np.sum((got - wanted) ** 2) / np.sum(wanted**2))
