# SPDX-License-Identifier: Apache-2.0
"""Times two calls in alternation. A sample is as many calls, one right after the other, as fill 3 ms, so that a peer's
threads and caches are warm in it; samples of the two take turns, so that what slows the machine for a while slows
both."""

import gc
import math
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat

SAMPLE_US = 3000
WARM_US = 500


@dataclass
class Times:
    """Microseconds a call, one entry a sample. Samples during which the kernel took a CPU away from the process are
    left out where that leaves a third of them."""

    samples: list[float]
    interrupted: float  # share of all samples

    @property
    def best(self) -> float:
        return min(self.samples)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


def call_us(run: Callable[[], object], calls: int) -> float:
    """Mean microseconds of `calls` calls in a row."""
    start = time.perf_counter_ns()
    for _ in repeat(None, calls):
        run()
    return (time.perf_counter_ns() - start) / calls / 1000


def estimate_us(run: Callable[[], object]) -> float:
    """A call's time for deciding on counts: the best of a few short samples, warm."""
    best = call_us(run, 1)  # the first call may compile or allocate
    best = call_us(run, 1)
    if best < 1e5:
        calls = max(1, math.ceil(1000 / best))
        best = min(best, *(call_us(run, calls) for _ in range(3)))
    return best


def interruptions() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def one_sample(run: Callable[[], object], estimate: float, settle_seconds: float,
               before: Callable[[], object]) -> tuple[float, bool]:  # fmt: skip
    """(microseconds a call, was it interrupted?)"""
    before()
    if settle_seconds:
        time.sleep(settle_seconds)
    if estimate < SAMPLE_US:
        call_us(run, max(1, math.ceil(WARM_US / estimate)))
    elif estimate < 10 * SAMPLE_US:
        run()
    calls = max(1, math.ceil(SAMPLE_US / estimate))
    before = interruptions()
    us = call_us(run, calls)
    # One in 50 ms is a matter of course and costs little of so long a sample.
    return us, interruptions() - before > int(us * calls / 50e3)


def judged(samples: list[tuple[float, bool]]) -> Times:
    quiet = [us for us, interrupted in samples if not interrupted]
    share = 1 - len(quiet) / len(samples)
    return Times(quiet if 3 * len(quiet) >= len(samples) else [us for us, _ in samples], share)


def alternate(first: Callable[[], object], second: Callable[[], object], samples: int, settle_seconds: float,
              before_second: Callable[[], object]) -> tuple[Times, Times]:  # fmt: skip
    """`samples` samples of each, in turn; who goes first changes each time."""
    pair = [(first, estimate_us(first), [], lambda: None), (second, estimate_us(second), [], before_second)]
    gc.collect()
    gc.disable()
    try:
        for n in range(samples):
            for run, estimate, times, before in pair if n % 2 == 0 else reversed(pair):
                times.append(one_sample(run, estimate, settle_seconds, before))
    finally:
        gc.enable()
    return judged(pair[0][2]), judged(pair[1][2])
