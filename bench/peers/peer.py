# SPDX-License-Identifier: Apache-2.0
"""What a peer is to the driver: for a case, one or more ways of calling it, of which the fastest is timed."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from cases import Case


@dataclass
class Way:
    """One way of calling a peer, everything prepared.

    `inputs` are the arrays that it reads, in the library's shapes, whatever their strides; mha is given the same ones.
    """

    how: str  # what is called, in a few words
    run: Callable[[], object]
    results: Callable[[], list[np.ndarray]]  # calls it, and returns its results in the library's shapes
    inputs: list[np.ndarray]
    bias: bool = True  # linear only: does it add the bias? Otherwise mha does not either
    keep: list[object] = field(default_factory=list)  # what must live as long as `run`
    before: Callable[[], object] = lambda: None  # called before each sample, not timed


class Peer:
    """Base of all peers. A subclass has a method for each family of cases that it can do, named like the family. It
    returns makers of Ways, which may raise: a way that fails is left out, and named in the report if none is left."""

    name = ""
    # Its threads spin for a while after a call, as mha's do. Where both take theirs from one OpenMP runtime nobody is
    # in the way; elsewhere the worker waits this long before a sample.
    settle_seconds = 0.005

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.version = ""

    def ways(self, case: Case) -> list[Callable[[], Way]]:
        """Makers of the ways for this case; empty: this peer has no such operation."""
        family = getattr(self, case.family, None)
        return family(case) if family else []
