# SPDX-License-Identifier: Apache-2.0
"""scaled_dot_product_attention with the arguments of torch.nn.functional's, over mha's op."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

Tensor = torch.Tensor

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_SMALLEST_NORMAL = 2.0**-126


def why_not(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> str | None:
    """Why mha does not compute this call, or None if it does."""
    tensors = [query, key, value] if attn_mask is None else [query, key, value, attn_mask]
    if any(x.is_nested for x in tensors):
        return "nested tensor"
    if any(x.layout != torch.strided for x in tensors):
        return "layout"
    if any(x.device.type != "cpu" for x in tensors):
        return "device"
    if dropout_p > 0:
        return "dropout"
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return "gradient"
    if torch.is_autocast_enabled("cpu"):
        return "autocast"
    if query.dtype not in _FLOATS:
        return f"dtype {str(query.dtype).removeprefix('torch.')}"
    if key.dtype != query.dtype or value.dtype != query.dtype:
        return "mixed dtypes"
    if attn_mask is not None and attn_mask.dtype not in (torch.bool, torch.float32, query.dtype):
        return "dtype of attn_mask"
    if scale is not None and not (math.isfinite(scale) and (scale == 0 or abs(scale) >= _SMALLEST_NORMAL)):
        return "scale"
    return _why_not_shapes(query, key, value, attn_mask, enable_gqa)


def _why_not_shapes(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, enable_gqa: bool) -> str | None:
    if min(query.dim(), key.dim(), value.dim()) < 2:
        return "shape"
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        return "shape"
    if query.shape[-1] == 0 or value.shape[-1] == 0:
        return "head dimension 0"
    heads, key_heads, value_heads = (x.shape[-3] if x.dim() > 2 else 1 for x in (query, key, value))
    if 0 in (heads, key_heads, value_heads):
        return "no heads"
    if key_heads != value_heads:
        return "key and value have different numbers of heads"
    if heads != key_heads and 1 not in (heads, key_heads):
        if not enable_gqa:
            return "heads without enable_gqa"
        if heads % key_heads != 0:
            return "shape"
    batch = query.shape[:-3]
    if attn_mask is None and batch == key.shape[:-3] and batch == value.shape[:-3]:
        return None  # the usual case; what follows takes longer than a small call
    try:
        batch = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])
        scores = (*batch, max(heads, key_heads), query.shape[-2], key.shape[-2])
        if max(query.dim(), key.dim(), value.dim()) < 3:
            scores = scores[-2:]
        if attn_mask is not None and torch.broadcast_shapes(scores, attn_mask.shape) != scores:
            return "shape"
    except RuntimeError:
        return "shape"
    return None


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    arithmetic: str | None = None,
) -> Tensor:
    """As torch.nn.functional.scaled_dot_product_attention. RuntimeError says why mha does not compute a call."""
    reason = why_not(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    if reason is not None:
        raise RuntimeError(f"mha: scaled_dot_product_attention is not computed by mha: {reason}")
    return attend(query, key, value, attn_mask, is_causal, scale, arithmetic)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
    arithmetic: str | None = None,
) -> Tensor:
    """A call for which why_not() has no reason."""
    rank = max(query.dim(), key.dim(), value.dim())
    batch: Sequence[int] = query.shape[:-3]
    if not (query.dim() == key.dim() == value.dim() == 4 and query.shape[0] == key.shape[0] == value.shape[0]):
        batch = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])
    heads = query.shape[-3] if query.dim() > 2 else 1
    if heads == 1 and key.dim() > 2:
        heads = key.shape[-3]
    if attn_mask is not None and attn_mask.dim() > 3 and len(batch) > 1:
        attn_mask = attn_mask.expand(*batch, *attn_mask.shape[-3:]).reshape(-1, *attn_mask.shape[-3:])
    query = _four_dimensions(query, batch, heads)
    key, value = (_four_dimensions(x, batch, 0) for x in (key, value))
    result: Tensor = torch.ops.mha.scaled_dot_product_attention.default(
        query, key, value, attn_mask, is_causal, scale=scale, arithmetic=arithmetic
    )
    if rank == 4:
        return result
    return result.reshape(*batch, *result.shape[1:]) if rank > 4 else result.view(result.shape[4 - rank :])


def attend_with_weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
    weights: str,
) -> tuple[Tensor, Tensor]:
    """The output and the attention weights, "per_head" or "averaged", of tensors of four dimensions."""
    batch, heads = query.shape[:1], query.shape[1]
    query, key, value = (_four_dimensions(x, batch, heads) for x in (query, key, value))
    result = torch.ops.mha.scaled_dot_product_attention_with_weights.default(
        query, key, value, attn_mask, is_causal, scale=scale, weights=weights
    )
    return result[0], result[1]


def _four_dimensions(x: Tensor, batch: Sequence[int], heads: int) -> Tensor:
    """[B, H, T, D] with a dense last dimension; other strides stay. heads 0: as it has."""
    if x.shape[-1] > 1 and x.stride(-1) != 1:
        x = x.contiguous()
    while x.dim() < 3:
        x = x.unsqueeze(0)
    if heads and x.shape[-3] != heads:
        x = x.expand(*x.shape[:-3], heads, *x.shape[-2:])
    if x.shape[:-3] != tuple(batch):
        x = x.expand(*batch, *x.shape[-3:])
    if len(batch) == 1:
        return x
    return x.unsqueeze(0) if len(batch) == 0 else x.reshape(-1, *x.shape[-3:])
