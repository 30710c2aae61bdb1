# SPDX-License-Identifier: Apache-2.0
"""mha's node inside ggml's CPU backend, beside ggml's own kernel and attention in double precision."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import pytest

import attention
import grid
from ggml_cpu import SERVED, Backend, Graph

LIMIT = 5e-4  # of NMSE between two backends: ggml's own, for FLASH_ATTN_EXT
NEAR = 1e-11  # of mha to double precision: f32's rounding


@dataclass
class Tally:
    """Of the cases of one pair of types."""

    cases: int = 0
    errors: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # the largest
    nearer: int = 0  # cases in which ggml's kernel is nearer to double precision than mha,
    ratio: float = 1  # and by how much at most


TALLIES: dict[str, Tally] = defaultdict(Tally)


@pytest.fixture
def backend() -> Iterator[Backend]:
    """Of one thread; test_use.py has more."""
    backend = Backend(1)
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
            TALLIES["left to ggml"].cases += sum(group.variants.values())
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
    assert found[1] <= NEAR, (shape, variant, found)
    tally = TALLIES[shape.key if shape.key == shape.value else f"{shape.key}, {shape.value}"]
    tally.cases += group.variants[variant]
    tally.errors = [max(pair) for pair in zip(tally.errors, found)]
    if found[1] > found[2]:
        tally.nearer += group.variants[variant]
        tally.ratio = max(tally.ratio, found[1] / found[2])


def sets() -> list:
    """The groups of ggml's cases, a list for each set, head size and type."""
    found = []
    for name, groups in grid.SETS.items():
        for (hsk, hsv, kind), some in groupby(groups(), lambda group: (group.shape.hsk, group.shape.hsv, group.shape.key)):
            found.append(pytest.param(list(some), id=f"{name}-{hsk}-{hsv}-{kind}"))
    return found


@pytest.mark.parametrize("groups", sets())
def test_published_cases(backend: Backend, groups: list) -> None:
    for group in groups:
        check(backend, group)


def test_count() -> None:
    """As many as ggml runs, so that none is lost on the way here."""
    assert sum(count for groups in grid.SETS.values() for group in groups() for count in group.variants.values()) == 5308


def test_summary(capsys: pytest.CaptureFixture) -> None:
    with capsys.disabled():
        print("\n\n| keys, values | cases | NMSE, mha to ggml | mha to double | ggml to double | ggml is nearer |")
        print("|---|---:|---:|---:|---:|---:|")
        for kind, tally in sorted(TALLIES.items()):
            errors = " | ".join(f"{error:.1e}" if error else "" for error in tally.errors)
            nearer = f"{tally.nearer} (at most {tally.ratio:.2f} times)" if tally.nearer else ""
            print(f"| {kind} | {tally.cases} | {errors} | {nearer} |")
