# SPDX-License-Identifier: Apache-2.0
"""Attention in float64, by its formula."""

from __future__ import annotations

import math
from typing import Any

import torch

Tensor = torch.Tensor
TOLERANCE = 2e-6  # of the largest result, as torch's own tests of float32


def qkv(batch: int = 2, heads: int = 8, kv_heads: int = 2, tq: int = 33, tk: int = 47, d: int = 24, dv: int = 16) -> Any:
    return torch.randn(batch, heads, tq, d), torch.randn(batch, kv_heads, tk, d), torch.randn(batch, kv_heads, tk, dv)


def softmax_of(scores: Tensor, sinks: Tensor | None = None) -> Tensor:
    """Softmax in which a row without a visible key is zeros."""
    if sinks is not None:
        column = sinks.double().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        return softmax_of(torch.cat([scores, column], -1))[..., :-1]
    return torch.nan_to_num(scores.softmax(-1), nan=0.0)


def reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    visible: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
) -> Tensor:
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = query.double() @ key.double().mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias.double()
    if visible is not None:
        scores = scores.masked_fill(~visible, -math.inf)
    return softmax_of(scores, sinks) @ value.double()


def assert_close(result: Tensor, wanted: Tensor, tolerance: float = TOLERANCE) -> None:
    assert result.shape == wanted.shape
    assert (result.double() - wanted).abs().max().item() <= tolerance * max(1.0, wanted.abs().max().item())
