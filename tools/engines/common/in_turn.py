# SPDX-License-Identifier: Apache-2.0
"""What the bench.py of an engine needs: cases, calls measured in turn, and a table of ratios for one and two threads."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

THREADS = (1, 2)


@dataclass(frozen=True)
class Case:
    name: str
    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    width: int
    causal: bool = False

    def arrays(self) -> list[np.ndarray]:
        """Query, key and value, [B, H, T, D] in f32."""
        rng = np.random.default_rng(0)
        counts = ((self.heads, self.queries), (self.kv_heads, self.keys), (self.kv_heads, self.keys))
        return [rng.standard_normal((self.batch, *count, self.width), np.float32) for count in counts]


CASES = (
    Case("T 128, 12 heads of 64", 1, 12, 12, 128, 128, 64),
    Case("T 512, 8 heads of 64", 1, 8, 8, 512, 512, 64),
    Case("T 2048, causal, 8 heads of 64", 1, 8, 8, 2048, 2048, 64, causal=True),
    Case("8 items of T 256, 12 heads of 64", 8, 12, 12, 256, 256, 64),
    Case("1 query, 4096 keys, 8 heads of 128", 1, 8, 8, 1, 4096, 128),
    Case("1 query, 4096 keys, 32 heads of 128 on 8", 1, 32, 8, 1, 4096, 128),
)

# The name of the engine's way, the engine's call and mha's call, of each comparison that an engine has for a case.
Ways = Iterable[tuple[str, Callable[[], object], Callable[[], object]]]


def medians(calls: Sequence[Callable[[], object]], seconds: float, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Seconds of each call. The calls take turns, so that what slows the machine for a while slows all; at least 5 turns."""
    for call in calls:
        call()
    taken: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while len(taken[0]) < 5 or time.perf_counter() < end:
        for call, times in zip(calls, taken):
            begin = clock()
            call()
            times.append(clock() - begin)
    return [median(times) for times in taken]


def main(description: str, ways: Callable[[Case, int], Ways]) -> None:
    """Prints the table. Each number of threads has a process of its own, which may use as many CPUs: engines make their
    threads at their first use."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=3, help="for each pair of calls, but at least 5 turns")
    parser.add_argument("--threads", type=int, help="only this number, in this process")
    options = parser.parse_args()
    if options.threads is None:
        print("| case | threads | engine | its time, ms | mha, ms | ratio |\n|---|---:|---|---:|---:|---:|", flush=True)
        cpus = sorted(os.sched_getaffinity(0))
        for threads in THREADS:
            if threads > len(cpus):
                print(f"{threads} threads are left out: this process may use {len(cpus)} CPU", file=sys.stderr)
                continue
            command = [sys.executable, sys.argv[0], "--threads", str(threads), "--seconds", str(options.seconds)]
            subprocess.run(command, check=True, preexec_fn=lambda count=threads: os.sched_setaffinity(0, cpus[:count]))
        return
    for case in CASES:
        for engine, theirs, ours in ways(case, options.threads):
            slow, fast = medians((theirs, ours), options.seconds)
            row = f"| {case.name} | {options.threads} | {engine} | {slow * 1e3:.2f} | {fast * 1e3:.2f} | {slow / fast:.2f} |"
            print(row, flush=True)
