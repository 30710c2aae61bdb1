# SPDX-License-Identifier: Apache-2.0
"""mha's node inside ggml's CPU backend, beside ggml's own kernel and attention in double precision."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import pytest

import attention
import grid
from ggml_cpu import SERVED, Backend, Graph

LIMIT = 5e-4  # of NMSE between two backends: ggml's own, for FLASH_ATTN_EXT


@dataclass
class Tally:
    cases: Counter = field(default_factory=Counter)  # by the types of keys and values; "left": mha has not the type
    worst: dict = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0, 0.0]))
    farther: list = field(default_factory=list)  # cases in which ggml's kernel is nearer to double precision than mha


TALLY = Tally()


@pytest.fixture
def backend(request: pytest.FixtureRequest):
    backend = Backend(getattr(request, "param", 2))
    yield backend
    backend.close()


def both(graph: Graph, tensors: attention.Tensors, variant: grid.Variant) -> tuple[int, int]:
    """ggml's node and mha's."""
    flash = graph.flash(tensors.inputs(variant), tensors.shape.hsk**-0.5, variant.max_bias, variant.softcap)
    mine, reason = graph.mha(flash)
    served = tensors.shape.key in SERVED and tensors.shape.value in SERVED
    assert (mine != flash) == served, reason
    assert served == (reason == ""), reason
    return flash, mine


def check(backend: Backend, group: grid.Group) -> None:
    shape, rng = group.shape, np.random.default_rng(1)
    with Graph(backend) as graph:
        tensors = attention.Tensors(graph, shape)
        nodes = {variant: both(graph, tensors, variant) for variant in group.variants}
        if shape.key not in SERVED or shape.value not in SERVED:
            TALLY.cases["left"] += sum(group.variants.values())
            return
        graph.allocate()
        tensors.fill(rng)
        most = next(iter(nodes)).n_kv_max
        tensors.fill_mask(attention.sparse_mask(shape, most, rng) if most else attention.blocks_mask(shape, rng))
        outputs = {}
        for variant, pair in nodes.items():
            for node in pair:
                graph.compute(graph.plan(node))
            outputs[variant] = [tensors.output(node) for node in pair]
        for variant, exact in zip(nodes, attention.reference(tensors, list(nodes))):
            note(group, variant, exact, *outputs[variant])


def note(group: grid.Group, variant: grid.Variant, exact: np.ndarray, theirs: np.ndarray, mine: np.ndarray) -> None:
    shape = group.shape
    found = [attention.nmse(theirs, mine), attention.nmse(exact, mine), attention.nmse(exact, theirs)]
    assert found[0] <= LIMIT, (shape, variant, found)
    assert found[1] <= LIMIT, (shape, variant, found)
    kind = shape.key if shape.key == shape.value else f"{shape.key}, {shape.value}"
    TALLY.cases[kind] += group.variants[variant]
    TALLY.worst[kind] = [max(pair) for pair in zip(TALLY.worst[kind], found)]
    if found[1] > found[2]:
        TALLY.farther.append((shape, variant, found))


def sets() -> list:
    """The groups of ggml's cases, a list for each set, head size and type."""
    found = []
    for name, groups in grid.SETS.items():
        for (hsk, hsv, kind), some in groupby(groups(), lambda group: (group.shape.hsk, group.shape.hsv, group.shape.key)):
            found.append(pytest.param(list(some), id=f"{name}-{hsk}-{hsv}-{kind}"))
    return found


@pytest.mark.parametrize("backend", [2], indirect=True)
@pytest.mark.parametrize("groups", sets())
def test_published_cases(backend: Backend, groups: list) -> None:
    for group in groups:
        check(backend, group)


def test_summary(capsys: pytest.CaptureFixture) -> None:
    with capsys.disabled():
        print()
        for kind, cases in sorted(TALLY.cases.items()):
            worst = TALLY.worst.get(kind)
            print(f"{kind}: {cases} cases", "" if worst is None else "; largest NMSE: to ggml %.1e, to double %.1e, ggml's %.1e" % tuple(worst))
        for shape, variant, found in TALLY.farther:
            print("ggml is nearer to double:", shape, variant, ["%.2e" % number for number in found])
