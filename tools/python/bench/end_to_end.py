# SPDX-License-Identifier: Apache-2.0
"""Times whole models of transformers with mha against the same models with torch's attention.

    end_to_end.py [--seconds 30] [--rounds 2] [--threads 1] [--results results.json] [case ...]

Each round runs every variant of a case once, in turn, so that a change of the machine's speed meets all alike. A ratio
is the median over rounds of (time of the baseline / time of the variant in the same round): above 1, mha is faster.
Rounds are added to those that the file has of earlier runs on the same machine; plot.py draws from it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from cases import CASES, Case

import mha.torch


def measure(case: Case, seconds: float, rounds: int, threads: int) -> dict[str, list[float]]:
    """Milliseconds of every round, for each variant."""
    # With one thread its CPU time is taken, which leaves out the time that other processes take from it.
    clock = time.thread_time if threads == 1 else time.perf_counter
    steps = case.variants()
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + seconds
    names = list(steps)
    while time.perf_counter() < end or len(times[names[0]]) < rounds:
        names.append(names.pop(0))  # each variant comes first in turn
        for name in names:
            begin = clock()
            steps[name]()
            times[name].append(round(1e3 * (clock() - begin), 3))
    return times


def summary(case: Case, times: dict[str, list[float]], threads: int) -> dict[str, Any]:
    ratios = {name: [a / b for a, b in zip(times[case.baseline], found)] for name, found in times.items()}
    return {
        "title": case.title,
        "bars": case.bars,
        "baseline": case.baseline,
        "target": mha.torch.target(),
        "threads": threads,
        "rounds": len(times[case.baseline]),
        "milliseconds": {name: statistics.median(found) for name, found in times.items()},
        "ratio": {name: statistics.median(found) for name, found in ratios.items()},
        "quartiles": {name: statistics.quantiles(found * 2, n=4)[::2] for name, found in ratios.items()},
        "times": times,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], help="default: all")
    parser.add_argument("--seconds", type=float, default=30, help="of each case, models not counted")
    parser.add_argument("--rounds", type=int, default=2, help="at least this many")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found: dict[str, Any] = {}
    if arguments.results and arguments.results.exists():
        found = json.loads(arguments.results.read_text())
    with torch.inference_mode():
        for name in arguments.cases or CASES:
            times = measure(CASES[name], arguments.seconds, arguments.rounds, arguments.threads)
            for variant, earlier in found.get(name, {"times": {}})["times"].items():
                times[variant] = earlier + times[variant]
            found[name] = result = summary(CASES[name], times, arguments.threads)
            columns = ", ".join(
                f"{variant} {result['milliseconds'][variant]:.1f} ms ({result['ratio'][variant]:.2f})" for variant in result["ratio"]
            )
            print(f"{name}: {columns}; {result['rounds']} rounds", flush=True)
            if arguments.results:
                arguments.results.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
