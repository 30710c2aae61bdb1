# SPDX-License-Identifier: Apache-2.0
"""Times ONNX Runtime alone / with mha's operators, as a Markdown table: models exported from torch, and single nodes of
com.microsoft. Both run in turn; medians, with --cpu of processor time."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import in_turn
import models
from sessions import MICROSOFT, MICROSOFT_OPERATORS, ONNX_OPERATORS, one_node, session

WIDTHS = {"bert": 768, "decoder": 1024}
LAYERS = 4
RANDOM = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def bert(batch: int, tokens: int) -> dict[str, np.ndarray]:
    mask = np.ones((batch, tokens), np.int64)
    for item in range(1, batch):
        mask[item, RANDOM.integers(tokens // 4, tokens) :] = 0
    return {"ids": RANDOM.integers(0, models.VOCABULARY, (batch, tokens)), "mask": mask}


def decoder(tokens: int, past: int) -> dict[str, np.ndarray]:
    feed = {"ids": RANDOM.integers(0, models.VOCABULARY, (1, tokens)), "positions": np.arange(past, past + tokens)[None]}
    heads = WIDTHS["decoder"] // 64 // 4
    names = [f"past_{name}_{layer}" for layer in range(LAYERS) for name in ("key", "value")]
    return feed | {name: numbers(1, heads, past, 64) for name in names}


MODELS = {
    "BERT, 1 x 128": ("bert", lambda: bert(1, 128)),
    "BERT, 1 x 512": ("bert", lambda: bert(1, 512)),
    "BERT, 8 x 128, padded": ("bert", lambda: bert(8, 128)),
    "Llama, prompt of 512": ("decoder", lambda: decoder(512, 0)),
    "Llama, prompt of 2048": ("decoder", lambda: decoder(2048, 0)),
    "Llama, 1 token after 2048": ("decoder", lambda: decoder(1, 2048)),
}


def grouped(tokens: int, past: int, kind: type = np.float32) -> tuple[bytes, dict[str, np.ndarray]]:
    """32 heads of 128 on 8; a cache with room for the new tokens."""
    cache = numbers(1, 8, past + tokens, 128)
    inputs = {"query": numbers(1, tokens, 4096), "key": numbers(1, tokens, 1024), "value": numbers(1, tokens, 1024)}
    codes = {} if kind == np.float32 else {"k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR", "kv_cache_bit_width": 8}
    if codes:
        cache = np.clip(np.rint(cache * 30), -127, 127).astype(np.int8)
    inputs |= {"past_key": cache, "past_value": cache.copy(), "seqlens_k": np.array([past + tokens - 1], np.int32),
               "total_sequence_length": np.array(past + tokens, np.int32)}  # fmt: skip
    if codes:
        inputs |= dict.fromkeys(["cos_cache", "sin_cache", "position_ids", "attention_bias", "head_sink"])
        inputs |= {"k_scale": np.array([1 / 30], np.float32), "v_scale": np.array([1 / 30], np.float32)}
    scales = ("k_scale", "v_scale") if codes else ()
    model = one_node("GroupQueryAttention", MICROSOFT, inputs, ["output", "present_key", "present_value"], scales,
                     num_heads=32, kv_num_heads=8, **codes)  # fmt: skip
    return model, {name: array for name, array in inputs.items() if array is not None and name not in scales}


def multi_head(tokens: int) -> tuple[bytes, dict[str, np.ndarray]]:
    inputs = {name: numbers(1, tokens, 768) for name in ("query", "key", "value")}
    return one_node("MultiHeadAttention", MICROSOFT, inputs, ["output"], num_heads=12), inputs


NODES = {
    "MultiHeadAttention, T 512": lambda: multi_head(512),
    "GroupQueryAttention, prompt of 512": lambda: grouped(512, 0),
    "GroupQueryAttention, 1 token after 4095": lambda: grouped(1, 4095),
    "GroupQueryAttention, the same, int8": lambda: grouped(1, 4095, np.int8),
}


def bound(model: bytes | str, feed: dict[str, np.ndarray], library: Path | None, threads: int) -> Callable[[], None]:
    """Inputs and results have their memory; a present tensor that fits has that of the past one."""
    runner = session(model, (library,) if library else (), threads)
    binding = runner.io_binding()
    for name, array in feed.items():
        binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    for result in runner.get_outputs():
        past = feed.get(result.name.replace("present", "past"))
        if library in (None, MICROSOFT_OPERATORS) and isinstance(model, bytes) and past is not None:
            binding.bind_output(result.name, "cpu", 0, past.dtype, past.shape, past.ctypes.data)
        else:
            binding.bind_output(result.name)
    return lambda: runner.run_with_iobinding(binding)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6, help="for each pair, but at least 5 runs of both")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--cpu", action="store_true", help="processor time, of one thread: for a machine that others use")
    options = parser.parse_args()
    clock = time.thread_time if options.cpu else time.perf_counter
    threads = [1] if options.cpu else options.threads
    with tempfile.TemporaryDirectory() as folder:
        paths = {"bert": Path(folder) / "bert.onnx", "decoder": Path(folder) / "decoder.onnx"}
        print("| case | threads | ONNX Runtime, ms | with mha, ms | ratio |\n|---|---:|---:|---:|---:|", flush=True)
        for name in [*MODELS, *NODES]:
            if options.only not in name:
                continue
            if name in MODELS:
                kind, inputs = MODELS[name]
                if not paths[kind].exists():
                    getattr(models, f"export_{kind}")(paths[kind], WIDTHS[kind], LAYERS)
                model, feed, library = str(paths[kind]), inputs(), ONNX_OPERATORS
            else:
                (model, feed), library = NODES[name](), MICROSOFT_OPERATORS
            for count in threads:
                calls = [bound(model, feed, each, count) for each in (None, library)]
                alone, ours = in_turn.medians(calls, options.seconds, clock)
                print(f"| {name} | {count} | {alone * 1e3:.2f} | {ours * 1e3:.2f} | {alone / ours:.2f} |", flush=True)


if __name__ == "__main__":
    main()
