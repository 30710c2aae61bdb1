# SPDX-License-Identifier: Apache-2.0
"""Times mha.Layer beside torch's nn.MultiheadAttention at the sizes of the notebook's example, in turns, on one thread.

python tools/python/bench/notebook_size.py [rounds]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np
import torch

import mha

CALLS = 50
SIZES = ((1, 1, 10, 20, 4), (1, 10, 10, 20, 4), (2, 10, 10, 96, 8))  # the first is the notebook's


def per_call(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    for _ in range(CALLS):
        function()
    return (time.perf_counter() - start) / CALLS * 1e6


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    torch.set_num_threads(1)
    mha.set_default_context(mha.Context(1))
    print("| B, Tq, Tk, E, H | torch, µs | mha over torch, µs | over numpy, µs | torch / mha over torch | over numpy |")
    print("|---|---:|---:|---:|---:|---:|")
    for batch, queries, tokens, width, heads in SIZES:
        module = torch.nn.MultiheadAttention(width, heads, batch_first=True).eval()
        weights = {name: parameter.detach() for name, parameter in module.named_parameters()}
        layer = mha.Layer(
            width,
            heads,
            in_proj_weight=weights["in_proj_weight"],
            in_proj_bias=weights["in_proj_bias"],
            output_weight=weights["out_proj.weight"],
            output_bias=weights["out_proj.bias"],
        )
        query, key = torch.randn(batch, queries, width), torch.randn(batch, tokens, width)
        arrays = query.numpy(), key.numpy()
        with torch.inference_mode():
            difference = np.abs(layer(*arrays) - module(query, key, key, need_weights=False)[0].numpy()).max()
            assert difference < 1e-5, difference
            calls = partial(module, query, key, key, need_weights=False), partial(layer, query, key), partial(layer, *arrays)
            times = [[per_call(call) for call in calls] for _ in range(rounds)]
        theirs, ours, ours_numpy = (median(column) for column in zip(*times))
        ratios = (median(row[0] / row[n] for row in times) for n in (1, 2))
        print(
            f"| {batch}, {queries}, {tokens}, {width}, {heads} | {theirs:.0f} | {ours:.0f} | {ours_numpy:.0f} | {' | '.join(f'{r:.2f}' for r in ratios)} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
