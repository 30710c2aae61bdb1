# SPDX-License-Identifier: Apache-2.0
"""One peer beside libmha in a process of their own, on one number of threads; driver.py starts it.

Prints a JSON line for each case: what was measured, or why not. Results are compared before anything is timed."""

import argparse
import importlib
import json
import math
import os
import sys
from collections.abc import Callable

import numpy as np

import cases
import decode_inputs
import exact
import timing
from arrays import layer_weights
from libmha import BF16_ARITHMETIC, F32_ARITHMETIC, INT8_ARITHMETIC, Attention, Layer, Library, Linear, packing, stored
from peer import Peer, Way

TOLERANCE = 1e-4  # of the largest value
ROUNDS = 4  # in which the ways of a peer compete


PEERS = {
    "torch": ("torch_peer", "TorchPeer"),
    "onnxruntime": ("onnxruntime_peer", "OnnxRuntimePeer"),
    "openvino": ("openvino_peer", "OpenVinoPeer"),
    "onednn": ("onednn_peer", "OneDnnPeer"),
    "mkl": ("blas_peer", "MklPeer"),
    "openblas": ("blas_peer", "OpenBlasPeer"),
    "ggml": ("ggml_peer", "GgmlPeer"),
}


def make_peer(name: str, threads: int) -> Peer:
    module, kind = PEERS[name]
    return getattr(importlib.import_module(module), kind)(threads)


def prepare_mha(library: Library, case: cases.Case, way: Way) -> Attention | Linear | Layer:
    """The library's call on the arrays of the peer's."""
    if case.family in ("linear_f32", "linear_bf16"):
        source, weight, bias = way.inputs
        return Linear(library, source, weight, bias if way.bias else None)
    if case.family in exact.CODED:
        source, weight, bias = way.inputs
        return Linear(library, source, weight, bias if way.bias else None, INT8_ARITHMETIC,
                      packing(case.family, case.sizes.get("group", 0)))  # fmt: skip
    if case.family in ("forward_f32", "forward_bf16"):
        return Layer(library, layer_weights(case["E"]), case["H"], way.inputs[0], None, None, weights=False)
    if case.family == "notebook_f32":
        return Layer(library, layer_weights(case["E"]), case["H"], *way.inputs, weights=True)
    if case.family in decode_inputs.FAMILIES:
        query, *cache = way.inputs
        return Attention(library, query, *(stored(library, case.family, each) for each in cache), False, False)
    return Attention(library, *way.inputs, causal=bool(case["causal"]), weights=case.family == "attention_weights_f32",
                     arithmetic=BF16_ARITHMETIC if case.family == "attention_bf16" else F32_ARITHMETIC)  # fmt: skip


def difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> tuple[float, float]:
    """(largest difference, the same over the largest value); a NaN counts as infinite."""
    assert len(ours) == len(theirs)
    absolute = relative = 0.0
    for a, b in zip(ours, theirs):
        # The peer's may have dimensions of 1 more or less.
        gap = float(np.abs(a.reshape(b.shape) - b).max())
        gap = gap if np.isfinite(gap) else float("inf")
        absolute, relative = max(absolute, gap), max(relative, gap / max(float(np.abs(b).max()), 1e-30))
    return absolute, relative


def compared(case: cases.Case, ours: list[np.ndarray], way: Way) -> tuple[dict, str]:
    """What the record says of the results, and what is wrong with them, if anything."""
    theirs = way.results()
    absolute, relative = difference(ours, theirs)
    if case.family not in exact.BOUNDS:
        wrong = "" if relative <= TOLERANCE else f"{way.how} differs by {relative:.1e} of the largest value"
        return {"max_abs_diff": absolute}, wrong
    errors = [exact.error(case, results[0], way.bias) for results in (ours, theirs)]
    wrong = [f"{name} has an error of {error:.1e} of the largest value" for name, error in zip(("mha", way.how), errors)
             if error > exact.bound(case)]  # fmt: skip
    return {"max_abs_diff": absolute, "error": errors[1], "mha_error": errors[0]}, "; ".join(wrong)


def fastest(makers: list[Callable[[], Way]]) -> tuple[Way | None, list[str]]:
    """The fastest way that works, and what was wrong with the others."""
    found, errors = [], []
    for maker in makers:
        try:
            way = maker()
            way.before()
            found.append([timing.estimate_us(way.run), way])
        except Exception as error:  # whatever a peer raises is its own
            text = str(error).strip().splitlines()
            errors.append(f"{type(error).__name__}: {text[0] if text else ''}")
    # Those that come near the best compete for some rounds more.
    for _ in range(ROUNDS):
        best = min((entry[0] for entry in found), default=0)
        near = [entry for entry in found if entry[0] < 1.5 * best]
        for entry in near if len(near) > 1 else []:
            calls = max(1, math.ceil(timing.SAMPLE_US / entry[0]))
            entry[1].before()
            entry[0] = min(entry[0], timing.call_us(entry[1].run, calls))
    return min(found, key=lambda entry: entry[0])[1] if found else None, errors


def measure(peer: Peer, library: Library, case: cases.Case, samples: int) -> dict | None:
    """The record of one case; None where the peer has no such operation."""
    makers = peer.ways(case)
    if not makers:
        return None
    way, errors = fastest(makers)
    if way is None:
        return {"case": case.name, "failed": "; ".join(errors)}
    ours = prepare_mha(library, case, way)
    comparison, wrong = compared(case, ours.results(), way)
    if wrong:
        return {"case": case.name, "disagrees": wrong}
    settle = peer.settle_seconds if case.threads > 1 else 0
    mha, theirs = timing.alternate(ours.run, way.run, samples, settle, way.before)
    return {
        "case": case.name, "impl": peer.name, "version": peer.version, "threads": case.threads,
        "min_us": round(theirs.best, 3), "median_us": round(theirs.median, 3), **comparison,
        "speedup": round(theirs.median / mha.median, 4),
        "mha_min_us": round(mha.best, 3), "mha_median_us": round(mha.median, 3),
        "samples": samples, "interrupted": round(max(mha.interrupted, theirs.interrupted), 3), "how": way.how,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", required=True, choices=PEERS)
    parser.add_argument("--library", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--filter", default="")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()

    # Lines for the driver go to a copy of stdout; whatever a peer prints goes to stderr.
    report = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def emit(record: dict) -> None:
        report.write(json.dumps(record) + "\n")

    try:
        peer = make_peer(arguments.peer, arguments.threads)
    except Exception as error:
        emit({"unavailable": f"{type(error).__name__}: {error}"})
        return 0
    library = Library(arguments.library, arguments.threads)
    emit({"peer": peer.name, "version": peer.version, "mha": library.version, "target": library.target})
    for case in cases.select([arguments.threads], arguments.quick, arguments.filter):
        emit({"begin": case.name})
        record = measure(peer, library, case, 7 if arguments.quick else 15)
        if record is not None:
            emit(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
