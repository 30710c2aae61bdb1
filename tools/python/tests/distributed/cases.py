# SPDX-License-Identifier: Apache-2.0
"""What the ranks of the tests run: a split context beside one cache of all tokens, and what differs between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import mha
from mha import distributed

HEADS, KV_HEADS, DIM, VALUE_DIM = 6, 2, 32, 16


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Pair:
    """A SplitCache, and a cache of one process that gets the same tokens."""

    def __init__(self, ranks: distributed.Ranks, batch: int = 1, capacity: int = 512, share: int | None = 256, **storage: Any) -> None:
        self.batch, self.storage = batch, storage
        self.split = distributed.SplitCache(
            KV_HEADS, DIM, capacity, ranks=ranks, share=share, batch=batch, value_head_dim=VALUE_DIM, **storage
        )
        self.whole = mha.Cache(KV_HEADS, DIM, 4096, value_head_dim=VALUE_DIM, max_sequences=batch, **storage)
        self.tokens = random(1, batch, 4096, KV_HEADS, DIM), random(2, batch, 4096, KV_HEADS, VALUE_DIM)
        self.failed: list[str] = []

    def next(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        begin = self.whole.length()
        return self.tokens[0][:, begin : begin + count], self.tokens[1][:, begin : begin + count]

    def append(self, count: int, **options: Any) -> None:
        key, value = self.next(count)
        self.split.append(key, value, **options)
        self.whole.append(key, value, **options)

    def append_shards(self, counts: list[int], **options: Any) -> None:
        key, value = self.next(sum(counts))
        rank = self.split.ranks.rank
        begin = sum(counts[:rank])
        own = slice(begin, begin + counts[rank])
        self.split.append_shard(key[:, own], value[:, own], **options)
        self.whole.append(key, value, **options)

    def compare(self, what: str, query: Any, **options: Any) -> None:
        """Compares output and log-sum-exp, bit by bit."""
        got = self.split.attention_results(query, log_sum_exp=True, **options)
        wanted = mha.attention_results(query, cache=self.whole, log_sum_exp=True, **options)
        for name in ("output", "log_sum_exp"):
            mine, theirs = getattr(got, name), getattr(wanted, name)
            same = type(mine) is type(theirs) and mine.shape == theirs.shape and mine.dtype == theirs.dtype and bits(mine) == bits(theirs)
            if not same:
                self.failed.append(f"{what}: {name}")


def bits(array: Any) -> bytes:
    if isinstance(array, np.ndarray):
        return array.tobytes()
    import torch

    data: bytes = array.contiguous().view(torch.uint8).numpy().tobytes()
    return data


def query_of(batch: int, count: int) -> np.ndarray:
    return random(100 + count, batch, count, HEADS, DIM)


def prefill_and_decode(ranks: distributed.Ranks, stored: Mapping[str, tuple[dict[str, Any], str, int]]) -> Any:
    """A prompt, then steps of several and of single tokens over the ends of shares, around all ranks and back to the first."""
    found = {}
    steps = [300, 200, 11, 1, 1, 1, 250, 3, 1, 1, 200] if ranks.size > 1 else [300, 200, 11, 1, 1, 1]
    for name, (storage, arithmetic, batch) in stored.items():
        pair = Pair(ranks, batch, capacity=1024 if ranks.size < 4 else 512, **storage)
        for count in steps:
            pair.append(count)
            query = query_of(batch, count)
            pair.compare(f"{count} to {pair.split.length}", query, causal=True, arithmetic=arithmetic)
        pair.compare("not causal", query_of(batch, 2), arithmetic=arithmetic)
        found[name] = pair.failed, pair.split.length, pair.split.lengths
    return found


def shards(ranks: distributed.Ranks) -> Any:
    """A prompt of which each rank gives its own tokens, then decoding over the end of the last share, rollback, more shards."""
    pair = Pair(ranks, capacity=1024, share=512)
    counts = {1: [900], 2: [256, 400], 4: [512, 0, 256, 100]}[ranks.size]
    pair.append_shards(counts)
    pair.compare("prompt", query_of(1, sum(counts)), causal=True)
    lengths = pair.split.lengths
    for count in (1, 1, 100, 1):
        pair.append(count)
        pair.compare(f"after {pair.split.length}", query_of(1, count), causal=True)
    for length in (600, 512):
        pair.split.truncate(length)
        pair.whole.truncate(0, length)
        pair.compare(f"cut to {length}", query_of(1, 3), causal=True)
    pair.append_shards([0] * (ranks.size - 1) + [7])
    pair.append(1)
    pair.compare("second shards", query_of(1, 4), causal=True)
    pair.split.truncate(0)
    pair.whole.truncate(0, 0)
    pair.append_shards([0] * ranks.size)
    pair.compare("empty", query_of(1, 4), causal=True)
    return pair.failed, lengths


def options_of(total: int, queries: int, batch: int) -> dict[str, dict[str, Any]]:
    generator = np.random.default_rng(5)
    visible = generator.random((batch, 1, queries, total)) < 0.7
    packed = np.packbits(visible, axis=-1, bitorder="little")
    slopes = np.linspace(0.01, 0.1, HEADS, dtype=np.float32)
    return {
        "softcap": {"softcap": 5.0, "causal": True},
        "window": {"window_left": 40, "causal": True},
        "window with sink tokens": {"window_left": 300, "sink_tokens": 270, "causal": True},
        "both windows": {"window_left": 100, "window_right": 20},
        "prefix": {"prefix_lengths": [total - 5] * batch, "causal": True},
        "start": {"align": "start", "causal": True},
        "offset": {"align": "offset", "offset": total // 2, "causal": True},
        "negative offset": {"align": "offset", "offset": -3, "causal": True},
        "alibi": {"alibi_slopes": slopes, "causal": True},
        "relative bias": {"relative_bias": random(6, HEADS, 401), "causal": True},
        "relative left": {"relative_bias": random(6, HEADS, 401), "relative_left": 380},
        "mask": {"mask": visible},
        "mask of keys": {"mask": visible[:, :, :1]},
        "mask of queries": {"mask": visible[..., :1]},
        "float masks": {"mask": random(7, batch, HEADS, queries, total), "mask2": random(8, total)},
        "bit mask": {"bit_mask": packed},
        "sinks": {"sink_logits": random(9, HEADS), "causal": True},
        "sinks and no key": {"sink_logits": random(9, HEADS), "causal": True, "align": "offset", "offset": -1000},
        "scale": {"scale": -0.5},
        "norm and rope": {"query_norm": mha.Norm(1e-6, random(10, DIM)), "rope": mha.Rope("interleaved", base=500.0), "causal": True},
        "f16": {"dtype": "f16", "causal": True},
        "threads": {"max_threads": 1},
    }


def options(ranks: distributed.Ranks) -> Any:
    """Every option over a context whose parts begin at other places than 0."""
    pair = Pair(ranks, batch=2, capacity=1024)
    pair.append(900, rope=mha.Rope("interleaved", base=500.0), key_norm=mha.Norm(1e-6))
    query = query_of(2, 7)
    total = pair.split.length
    for name, case in options_of(total, 7, 2).items():
        pair.compare(name, query, **case)
        if "rope" in case:
            pair.compare("own positions", query, query_positions=np.arange(14).reshape(2, 7), **case)
    segments = {"query_segments": np.arange(14, dtype=np.int32).reshape(2, 7) // 3}
    keys = np.arange(2 * total, dtype=np.int32).reshape(2, total) % 5
    got = pair.split.attention(query, key_segments=keys, **segments)
    if bits(got) != bits(mha.attention(query, cache=pair.whole, key_segments=keys.reshape(-1), **segments)):
        pair.failed.append("segments")
    return pair.failed


def kinds_of_arrays(ranks: distributed.Ranks) -> Any:
    """Arrays of torch, layout bhtd, bfloat16, and blocks of queries."""
    import torch

    pair = Pair(ranks)
    pair.append(500)
    query = query_of(1, 40)
    pair.compare("bhtd", np.ascontiguousarray(query.transpose(0, 2, 1, 3)), layout="bhtd", causal=True)
    pair.compare("strided", query.transpose(0, 2, 1, 3), layout="bhtd", causal=True)
    pair.compare("torch", torch.from_numpy(query), causal=True)
    pair.compare("bf16", torch.from_numpy(query).bfloat16(), causal=True)
    pair.compare("bf16, bhtd", torch.from_numpy(query).bfloat16().transpose(1, 2), layout="bhtd")
    pair.compare("f16", query.astype(np.float16), dtype="f32", causal=True)
    pair.compare("no queries", query[:, :0], causal=True)
    pair.split._partial_bytes = 20000  # some queries a block
    before = ranks.traffic
    pair.compare("blocks", query, causal=True, mask=random(3, 40, 500), rope=mha.Rope())
    return pair.failed, (ranks.traffic - before).calls
