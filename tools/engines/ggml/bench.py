# SPDX-License-Identifier: Apache-2.0
"""Times mha's node beside ggml's own, on ggml's threads: 32 query heads of 128 on 8, as in a Llama of 8 billion weights.
Prints a Markdown table of the time of ggml's kernel / the time of mha's."""

import argparse
import functools
import time
from collections.abc import Callable

import numpy as np

import attention
import in_turn
from ggml_cpu import Backend, Graph, call
from grid import Shape, Variant

KINDS = ("f16", "bf16", "q8_0", "q4_0")
CASES = {"prefill 512": (512, 512), "prefill 2048": (2048, 2048), "1 query, 4096 keys": (1, 4096), "1 query, 16384 keys": (1, 16384)}


def causal(queries: int, keys: int) -> np.ndarray:
    mask = np.zeros((1, queries, keys))
    mask[0][np.triu_indices(queries, 1 + keys - queries, keys)] = -np.inf
    return mask


def times(backend: Backend, shape: Shape, seconds: float, clock: Callable[[], float]) -> list[float]:
    """Medians of ggml and of mha, measured in turn."""
    with Graph(backend) as graph:
        tensors = attention.Tensors(graph, shape)
        flash = graph.flash(tensors.inputs(Variant()), shape.hsk**-0.5, 0, 0)
        nodes = [flash, graph.mha(flash)[0]]
        graph.allocate()
        tensors.fill(np.random.default_rng(1))
        tensors.fill_mask(causal(shape.nb, shape.kv))
        calls = [functools.partial(graph.compute, graph.plan(node)) for node in nodes]
        return in_turn.medians(calls, seconds, clock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2, help="for each pair, but at least 5 runs of both")
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--cpu", action="store_true", help="processor time, of one thread: for a machine that others use")
    options = parser.parse_args()
    clock = time.process_time if options.cpu else time.perf_counter
    kind_of_time = "processor time" if options.cpu else "time"
    print(f"ggml {call('version').decode()}: its {kind_of_time} / mha's (mha's in ms)\n")
    print("| case | threads |", " | ".join(KINDS), "|")
    print("|---|---:" + "|---:" * len(KINDS) + "|")
    for name, (queries, keys) in CASES.items():
        if options.only not in name:
            continue
        for threads in (1,) if options.cpu else (1, 2):
            backend = Backend(threads)
            row = []
            for kind in KINDS:
                shape = Shape(128, 128, 8, 4, 1, keys, queries, kind, kind)
                theirs, mine = times(backend, shape, options.seconds, clock)
                row.append(f"{theirs / mine:.2f} ({mine * 1e3:.2f})")
            backend.close()
            print(f"| {name} | {threads} |", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
