# SPDX-License-Identifier: Apache-2.0
"""The attention function of attn_implementation="mha", and its registration."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

import mha.torch  # registers torch.ops.mha

from . import _cache
from ._masks import Mask, Pattern, attention_mask

Tensor = torch.Tensor
_attention = torch.ops.mha.scaled_dot_product_attention.default
_attention_with_weights = torch.ops.mha.scaled_dot_product_attention_with_weights.default
_BF16_TARGETS = ("amx", "avx512_bf16")


def options_of(pattern: Pattern) -> dict[str, Any]:
    """The pattern as arguments of the attention op."""
    options: dict[str, Any] = {}
    if pattern.causal or pattern.window_left or pattern.window_right:
        options["is_causal"], options["offset"] = pattern.causal, pattern.offset
        options["window_left"], options["window_right"] = pattern.window_left, pattern.window_right
    if pattern.key_lengths is not None:
        options["key_lengths"] = pattern.key_lengths
        if "offset" not in options:
            options["align"] = "start"
    if pattern.padding is not None:
        options["attn_mask"] = pattern.padding[:, None, None, :]
    if pattern.segments is not None:
        options["query_segments"] = options["key_segments"] = pattern.segments
    return options


def mask_options(module: torch.nn.Module, mask: Tensor | None, is_causal: bool | None, queries: int, keys: int) -> dict[str, Any]:
    """The mask that a model passes on, as arguments of the attention op."""
    if mask is None:
        # Without a mask the model is causal or not; then its first query stands at the first key, as for torch's attention.
        causal = bool(getattr(module, "is_causal", True)) if is_causal is None else bool(is_causal)
        return {"is_causal": True, "align": "start"} if causal and queries > 1 else {}
    if isinstance(mask, Mask):
        if mask.shape[-1] == keys and mask.shape[-2] == queries:
            return options_of(mask.pattern)
        mask = mask.make()
    return {"attn_mask": mask if mask.shape[-1] == keys else mask[..., :keys]}


def attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    output_attentions: bool = False,
    arithmetic: str = "auto",
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention as transformers calls it: query [B, H, Tq, D], key [B, Hkv, Tk, D] and value [B, Hkv, Tk, Dv].

    softcap, s_aux (logits of attention sinks) and position_bias (added to the scores) are computed inside the kernels.
    output_attentions: the attention weights [B, H, Tq, Tk] are returned, too.
    arithmetic: "auto", "f32" or "bf16", as register() says.
    Returns the output [B, Tq, H, Dv] and the weights or None.
    """
    if dropout:
        raise ValueError(f"mha: dropout is {dropout}, but mha has none: call model.eval()")
    cached = key.layer if isinstance(key, _cache.CachedRows) else None
    keys = key.shape[2] if cached is None else cached.length
    options = mask_options(module, attention_mask, is_causal, query.shape[2], keys)
    options["scale"] = scaling
    if softcap:
        options["softcap"] = softcap
    if s_aux is not None:
        options["sink_logits"] = s_aux
    if position_bias is not None:
        options["attn_bias"] = position_bias
    if arithmetic == "auto":
        arithmetic = "bf16" if query.dtype is torch.bfloat16 and mha.torch.target() in _BF16_TARGETS else "f32"
    if arithmetic != "f32":
        options["arithmetic"] = arithmetic
    if cached is not None:
        if output_attentions:
            raise NotImplementedError("mha: output_attentions is not available with mha.transformers.Cache: use a DynamicCache")
        return cached.attend(query, options), None
    if output_attentions:
        output, weights, _ = _attention_with_weights(query, key, value, weights="per_head", **options)
        return output.transpose(1, 2), weights
    # The op's result has the memory order [B, Tq, H, Dv], so that this view of it is contiguous.
    return _attention(query, key, value, **options).transpose(1, 2), None


def register(name: str = "mha", arithmetic: str = "auto") -> None:
    """Registers attention and masks under a name for attn_implementation.

    arithmetic: "f32" computes with the given numbers, also where a model's tensors are bf16. "bf16" rounds to bf16 what
    it multiplies. "auto" does so where the tensors are bf16 and the CPU has instructions for it, and else as "f32".
    """
    if arithmetic not in ("auto", "f32", "bf16"):
        raise ValueError(f'mha: arithmetic "{arithmetic}" is none of auto, f32, bf16')
    function = attention_forward if arithmetic == "auto" else partial(attention_forward, arithmetic=arithmetic)
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, attention_mask)
