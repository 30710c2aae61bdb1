# SPDX-License-Identifier: Apache-2.0
"""Attention in double precision by numpy: the formula of mha.h, written out for one item at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Attended(NamedTuple):
    output: np.ndarray  # [Tq, H, Dv]
    weights: np.ndarray  # [H, Tq, Tk]
    log_sum_exp: np.ndarray  # [H, Tq]


def visible_keys(tq: int, tk: int, position: int, o: dict[str, Any], b: int) -> np.ndarray:
    """[Tq, Tk]: causality, windows, sinks, prefixes, segments, blocks. `position`: of query 0."""
    p = position + np.arange(tq)[:, None]
    j = np.arange(tk)[None, :]
    right = np.ones((tq, tk), bool)
    if o.get("causal"):
        right &= j <= p
    if o.get("window_right"):
        right &= j < p + o["window_right"]
    if o.get("prefix_lengths") is not None:
        right |= j < o["prefix_lengths"][b]
    left = np.ones((tq, tk), bool)
    if o.get("window_left"):
        left &= (j > p - o["window_left"]) | (j < o.get("sink_tokens", 0))
    seen = right & left
    if o.get("query_segments") is not None:
        seen &= o["query_segments"][b][:tq, None] == o["key_segments"][b][None, :tk]
    if o.get("block_mask") is not None:
        mask = o["block_mask"]
        blocks = np.zeros((tq // mask.query_block + 1, tk // mask.key_block + 1), bool)
        for query_block, key_block in np.asarray(mask.pairs).tolist():
            if query_block < blocks.shape[0] and key_block < blocks.shape[1]:
                blocks[query_block, key_block] = True
        seen &= blocks[np.arange(tq)[:, None] // mask.query_block, j // mask.key_block]
    if o.get("bit_mask") is not None:
        bits = np.unpackbits(o["bit_mask"], axis=-1, bitorder="little")
        seen = seen & np.broadcast_to(bits, (*bits.shape[:-1], bits.shape[-1]))[min(b, bits.shape[0] - 1), 0, :tq, :tk].astype(bool)
    return seen


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, position: int, scale: float | None = None, b: int = 0, **o: Any) -> Attended:
    """One item: q [Tq, H, D], k [Tk, Hkv, D], v [Tk, Hkv, Dv], of any floats. Options as mha.attention has them."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    (tq, heads, dim), tk = q.shape, k.shape[0]
    k, v = (np.repeat(a, heads // a.shape[1], axis=1) for a in (k, v))
    scores = np.einsum("ihd,jhd->hij", q, k) * (dim**-0.5 if scale is None else scale)
    if o.get("softcap"):
        scores = o["softcap"] * np.tanh(scores / o["softcap"])
    distance = np.arange(tk)[None, :] - (position + np.arange(tq)[:, None])
    if o.get("alibi_slopes") is not None:
        scores = scores - np.asarray(o["alibi_slopes"], np.float64)[:, None, None] * np.abs(distance)
    if o.get("relative_bias") is not None:
        table = np.asarray(o["relative_bias"], np.float64)
        left = o.get("relative_left", (table.shape[1] - 1) // 2)
        scores = scores + table[:, np.clip(distance + left, 0, table.shape[1] - 1)]
    seen = np.broadcast_to(visible_keys(tq, tk, position, o, b), scores.shape)
    for name in ("mask", "mask2"):
        mask = o.get(name)
        if mask is not None:
            mask = np.broadcast_to(mask, (max(b + 1, mask.shape[0] if mask.ndim == 4 else 1), heads, tq, tk))[b]
            if mask.dtype == bool:
                seen = seen & mask
            else:
                factors = o.get("mask_factors") if name == "mask" else None
                factor = 1.0 if factors is None else np.asarray(factors, np.float64)[:, None, None]
                scores = scores + mask.astype(np.float64) * factor
    scores = np.where(seen, scores, -np.inf)
    sinks = np.full((heads, 1), -np.inf) if o.get("sink_logits") is None else np.asarray(o["sink_logits"], np.float64)[:, None]
    top = np.maximum(scores.max(axis=-1, initial=-np.inf), sinks)
    top = np.where(np.isfinite(top), top, 0.0)
    raw = np.exp(scores - top[..., None])
    total = raw.sum(axis=-1) + np.exp(sinks - top)
    with np.errstate(divide="ignore"):
        lse = np.log(total) + top
    weights = raw / np.where(total == 0, 1.0, total)[..., None]
    return Attended(np.einsum("hij,jhd->ihd", weights, v), weights, lse)


def close(got: Any, want: np.ndarray, tolerance: float = 4e-6) -> bool:
    """Within tolerance of the largest magnitude that is wanted; infinities must be the same."""
    got = np.asarray(got, np.float64)
    assert got.shape == want.shape, (got.shape, want.shape)
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite]):
        return False
    scale = max(1.0, float(np.abs(want[finite]).max(initial=0.0)))
    return float(np.abs(got[finite] - want[finite]).max(initial=0.0)) <= tolerance * scale
